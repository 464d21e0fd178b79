"""Where XLA must not fuse: it is left alone everywhere else."""

from typing import Any

import jax
from jaxtyping import Array


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


def settled(*arrays: Array) -> Any:
  """The arrays, which a GPU holds in memory before anything is made of them.

  Left alone, XLA's GPU compiler computes them again for each use, in float32.
  """
  return jax.lax.platform_dependent(
    *arrays,
    cuda=lambda *x: jax.lax.optimization_barrier(x),
    rocm=lambda *x: jax.lax.optimization_barrier(x),
    default=lambda *x: x,
  )
