"""Products with weights whose gradients are cheap on every platform."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

RESULT = 'dense'  # what rematerialisation may keep


class Dense(nnx.Linear):
  """`nnx.Linear` on [B, N, D], with weight gradients summed in float32."""

  def __call__(
    self, x: Float[Array, 'B N D'], scale: float = 1.0
  ) -> Float[Array, 'B N F']:
    """Computes in `dtype`; the parameters stay float32.

    Args:
      x: any floats.
      scale: of the result; the weights are multiplied by it, which are fewer.
    """
    kernel, bias = self.kernel[...] * scale, self.bias[...] * scale
    return checkpoint_name(_dense(x.astype(self.dtype), kernel, bias), RESULT)


@jax.custom_vjp
def _dense(x: Array, kernel: Array, bias: Array) -> Array:
  kernel = kernel.astype(x.dtype)
  y = jax.lax.platform_dependent(x, kernel, cpu=_wide, default=jnp.matmul)
  return y + bias.astype(x.dtype)[None, None]


def _forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple]:
  return _dense(x, kernel, bias), (x, kernel)


def _backward(saved: tuple, dy: Array) -> tuple[Array, Array, Array]:
  x, kernel = saved
  dx = jax.lax.platform_dependent(
    dy, kernel.astype(dy.dtype).T, cpu=_wide, default=jnp.matmul
  )
  dkernel = jax.lax.platform_dependent(x, dy, cpu=_flat, default=_product)
  dbias = jax.lax.platform_dependent(dy, tpu=_sum_by_product, default=_sum)
  return dx, dkernel, dbias


def _wide(x: Array, kernel: Array) -> Array:
  # XLA's CPU compiler multiplies bfloat16 as such (with AMX, five times as
  # fast) only where it may return float32.
  y = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
  return y.astype(x.dtype)


def _product(x: Array, dy: Array) -> Array:
  return jnp.einsum('bnd,bnf->df', x, dy, preferred_element_type=jnp.float32)


def _flat(x: Array, dy: Array) -> Array:
  # XLA's CPU compiler copies x, transposed, where two dimensions are summed.
  x, dy = (a.reshape(-1, a.shape[-1]) for a in (x, dy))
  if x.dtype == jnp.float32:
    return x.T @ dy
  return jnp.dot(_transposed(x), dy, preferred_element_type=jnp.float32)


def _transposed(x: Array) -> Array:
  # A transposition that XLA's CPU compiler sees makes it multiply in float32:
  # it does not see through two halves, and copies integers as they are.
  bits = jax.lax.bitcast_convert_type(x, jnp.uint16)
  halves = [half.T for half in jnp.array_split(bits, 2)]
  return jax.lax.bitcast_convert_type(jnp.concatenate(halves, 1), x.dtype)


def _sum(dy: Array) -> Array:
  return dy.astype(jnp.float32).sum((0, 1))


def _sum_by_product(dy: Array) -> Array:
  # A third of what the sum takes on a TPU. Of several rows of ones, though one
  # is read: XLA makes a product with one row a sum again.
  ones = jnp.ones((8, *dy.shape[:2]), dy.dtype)
  return jnp.einsum(
    'gbn,bnf->gf', ones, dy, preferred_element_type=jnp.float32
  )[0]


_dense.defvjp(_forward, _backward)


@jax.custom_vjp
def decode(
  x: Float[Array, 'B P D'], table: Float[Array, 'V D']
) -> Float[Array, 'B P V']:
  """Float32 products of states and embeddings, both taken in `x`'s dtype.

  So are the gradients' products, as a TPU multiplies float32 anyway.
  """
  return jnp.einsum(
    'bpd,vd->bpv',
    x,
    table.astype(x.dtype),
    preferred_element_type=jnp.float32,
  )


def _decode_backward(saved: tuple, dy: Array) -> tuple[Array, Array]:
  x, table = saved
  dy = dy.astype(x.dtype)
  dx = jax.lax.platform_dependent(
    dy, table.astype(x.dtype), cpu=_wide, default=jnp.matmul
  )
  dtable = jax.lax.platform_dependent(dy, x, cpu=_flat, default=_product)
  return dx, dtable


decode.defvjp(lambda x, table: (decode(x, table), (x, table)), _decode_backward)
