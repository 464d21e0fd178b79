"""Dropout from a counter: cheap to draw, the same on any number of devices.

A bit of dropout needs far less than a cryptographic generator: JAX's default
(threefry) costs more than the matmuls around it on a CPU, and its results
depend on the shape of the whole batch. Here an element's draw is a hash of its
row's seed, the site in the model and its index within the row.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt32

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads small numbers

Seeds = UInt32[Array, 'B 2']


def seeds(keys: Key[Array, ' B']) -> Seeds:
  """Where the dropout of a step begins: two words per row."""
  return jax.random.key_data(keys)


def fold(seeds: Seeds | None, site: int) -> Seeds | None:
  """Seeds of one site among several; None, without dropout, stays None."""
  if seeds is None:
    return None
  return _mix(seeds + jnp.uint32(_GOLDEN) * jnp.uint32(site + 1))


def dropout(
  x: Float[Array, 'B ...'], rate: float, seeds: Seeds | None
) -> Float[Array, 'B ...']:
  """Zeroes a share `rate` of `x` and rescales the rest.

  Args:
    x: up to 2^32 elements a row.
    rate: from 0 to below 1.
    seeds: of this site; None is no dropout.
  """
  if seeds is None or rate == 0:
    return x
  index = jax.lax.iota(jnp.uint32, x[0].size).reshape(1, *x.shape[1:])
  first, second = (
    seeds[:, i].reshape(-1, *[1] * (x.ndim - 1)) for i in range(2)
  )
  kept = keep(index, rate, first, second)
  return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))


def keep(
  index: UInt32[Array, '...'],
  rate: float,
  first: UInt32[Array, '...'],
  second: UInt32[Array, '...'],
) -> Bool[Array, '...']:
  """Which elements dropout keeps, by their index within a row.

  Args:
    index: from 0.
    rate: the share that is not kept.
    first: the first word of the row's seed.
    second: the other.
  """
  draws = _mix(_mix(index * jnp.uint32(_GOLDEN) + first) + second)
  return draws >= jnp.uint32(round(rate * 2**32))


def _mix(x: UInt32[Array, '...']) -> UInt32[Array, '...']:
  """A bijection of 32 bits; constants of `lowbias32` (hash-prospector)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
