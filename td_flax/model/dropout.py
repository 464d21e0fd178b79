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
_FACTORS = (0x7FEB352D, 0x846CA68B)

Seeds = UInt32[Array, 'B 2']


def seeds(keys: Key[Array, ' B']) -> Seeds:
  """Where the dropout of a step begins: two words per row."""
  return jax.random.key_data(keys)


def fold(seeds: Seeds | None, site: int) -> Seeds | None:
  """Seeds of one site among several; None, without dropout, stays None."""
  if seeds is None:
    return None
  spread = jnp.uint32(_GOLDEN) * jnp.uint32(site + 1)
  return _mixed(words(seeds, spread, jnp.uint32(0)))


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
  kept = words(index, *_columns(seeds, x.ndim)) >= jnp.uint32(
    round(rate * 2**32)
  )
  return _rescaled(x, kept, rate)


def attention_dropout(
  weights: Float[Array, 'B H Q M'], rate: float, seeds: Seeds | None
) -> Float[Array, 'B H Q M']:
  """`dropout` of attention weights, where heads 2i and 2i + 1 share a word.

  A kernel that computes both (`row_attention.py`) draws it once.
  """
  if seeds is None or rate == 0:
    return weights
  head, row, column = (
    jax.lax.broadcasted_iota(jnp.uint32, (1, *weights.shape[1:]), axis)
    for axis in (1, 2, 3)
  )
  queries, keys = weights.shape[2:]
  index = ((head >> 1) * jnp.uint32(queries) + row) * jnp.uint32(keys) + column
  kept = keep(words(index, *_columns(seeds, weights.ndim)), head, rate)
  return _rescaled(weights, kept, rate)


def words(
  index: UInt32[Array, '...'],
  first: UInt32[Array, '...'],
  second: UInt32[Array, '...'],
) -> UInt32[Array, '...']:
  """32 random bits for every element, the upper half better than the lower.

  Args:
    index: within a row, from 0.
    first: the first word of the row's seed.
    second: the other.
  """
  # The mixer `lowbias32` (hash-prospector) less its last step, which only the
  # lower half needs. The second word is added on the way: rows that differ in
  # one word only draw independently too.
  x = index + first
  x = (x ^ (x >> 16)) * jnp.uint32(_FACTORS[0]) + second
  return (x ^ (x >> 15)) * jnp.uint32(_FACTORS[1])


def keep(
  words: UInt32[Array, '...'], head: UInt32[Array, '...'], rate: float
) -> Bool[Array, '...']:
  """Which attention weights dropout keeps.

  Args:
    words: of elements that two heads share: [heads / 2, Q, M] in a row.
    head: one of the two takes the upper 16 bits, the other the lower.
    rate: the share that is not kept, to 2^-17.
  """
  half = (_mixed(words) >> ((head & 1) * 16)) & jnp.uint32(0xFFFF)
  return half >= jnp.uint32(round(rate * 2**16))


def _rescaled(x: Array, kept: Array, rate: float) -> Array:
  # In float32: bfloat16 knows 1 / (1 - rate) to three digits.
  scaled = x.astype(jnp.float32) * (1 / (1 - rate))
  return jnp.where(kept, scaled, 0.0).astype(x.dtype)


def _columns(seeds: Seeds, ndim: int) -> tuple[Array, Array]:
  """Both words of a row's seed, shaped to meet an array of `ndim` axes."""
  first, second = (seeds[:, i].reshape(-1, *[1] * (ndim - 1)) for i in range(2))
  return first, second


def _mixed(words: UInt32[Array, '...']) -> UInt32[Array, '...']:
  """`words` with a lower half as good as the upper."""
  return words ^ (words >> 16)
