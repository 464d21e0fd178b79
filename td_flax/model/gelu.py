"""GELU (Hendrycks and Gimpel 2016) whose gradient needs its argument only."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

_SLOPE = math.sqrt(2 / math.pi)
_CUBE = 0.044715


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: Array, approximate: bool) -> Array:
  """X times the normal distribution's cumulative function at x.

  Args:
    x: any floats; computed in float32.
    approximate: by a tanh, as in BERT's first code.
  """
  return jax.nn.gelu(x.astype(jnp.float32), approximate).astype(x.dtype)


def _backward(approximate: bool, x: Array, dy: Array) -> tuple[Array]:
  # By other functions than the forward pass: what both have in common, XLA
  # keeps from one to the other, a second array of the MLP's size.
  wide = x.astype(jnp.float32)
  if approximate:
    square = jnp.square(wide)
    below = jax.nn.sigmoid(2 * _SLOPE * wide * (1 + _CUBE * square))
    density = below * (1 - below) * (2 * _SLOPE) * (1 + 3 * _CUBE * square)
  else:
    below = 0.5 + 0.5 * jax.lax.erf(wide * math.sqrt(0.5))
    density = jnp.exp(-0.5 * jnp.square(wide)) / math.sqrt(2 * math.pi)
  dx = dy.astype(jnp.float32) * (below + wide * density)
  return (dx.astype(x.dtype),)


gelu.defvjp(lambda x, approximate: (gelu(x, approximate), x), _backward)
