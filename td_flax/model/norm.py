"""LayerNorm whose gradient makes no pass over the activations in vain."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from td_flax.model.barrier import settled


class LayerNorm(nnx.LayerNorm):
  """`nnx.LayerNorm` over D of [B, N, D], with a gradient written by hand.

  Differentiating the variance also yields what reaches the mean through it: a
  sum over D that is zero, and which costs a TPU as much as the other two.
  """

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    """Computes in float32, returns `dtype`; the parameters stay float32."""
    y = _norm(self.epsilon, x, self.scale[...], self.bias[...])
    return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _norm(epsilon: float, x: Array, scale: Array, bias: Array) -> Array:
  return _forward(epsilon, x, scale, bias)[0]


def _forward(
  epsilon: float, x: Array, scale: Array, bias: Array
) -> tuple[Array, tuple]:
  wide = x.astype(jnp.float32)
  mean = wide.mean(-1, keepdims=True)
  centred = wide - mean
  # Not E[x^2] - E[x]^2, one pass for both: it loses digits in float32.
  variance = jnp.square(centred).mean(-1, keepdims=True)
  factor = jax.lax.rsqrt(variance + epsilon)
  y = centred * (factor * scale[None, None]) + bias[None, None]
  return y, (x, mean, factor, scale)


def _backward(
  epsilon: float, saved: tuple, dy: Array
) -> tuple[Array, Array, Array]:
  del epsilon
  x, mean, factor, scale = saved
  mean, factor = settled(mean, factor)
  normed = (x.astype(jnp.float32) - mean) * factor
  flow = dy * scale[None, None]
  along = (flow * normed).mean(-1, keepdims=True)
  dx = factor * (flow - flow.mean(-1, keepdims=True) - normed * along)
  (dx,) = settled(dx.astype(x.dtype))
  return dx, (dy * normed).sum((0, 1)), dy.sum((0, 1))


_norm.defvjp(_forward, _backward)
