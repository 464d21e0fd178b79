"""A dense layer whose gradients are cheap on every platform."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

RESULT = 'dense'  # what rematerialisation may keep


class Dense(nnx.Linear):
  """`nnx.Linear` on [B, N, D], with weight gradients summed in float32."""

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N F']:
    """Computes in `dtype`; the parameters stay float32."""
    y = _dense(x.astype(self.dtype), self.kernel[...], self.bias[...])
    return checkpoint_name(y, RESULT)


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
def fence(x: Array) -> Array:
  """`x`, whose gradient is computed before anything else is made of it.

  Left alone, XLA's TPU compiler fuses the backward pass of a LayerNorm into the
  matmul that its gradient comes from, which makes that three times as slow.
  """
  return x


fence.defvjp(
  lambda x: (x, None), lambda _, dx: (jax.lax.optimization_barrier(dx),)
)
