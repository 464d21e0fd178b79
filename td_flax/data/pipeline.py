"""`batch(step)`: rows as a pure function of (seed, step, global batch).

Every row of every batch has a position, `step * batch_size + i`, for ever. A
position belongs to a source, to an epoch of that source and to an index within
the epoch; a keyed permutation turns the index into a row. All of it is computed
when asked for: there is no state to save, nothing depends on the number of
hosts, and memory does not grow with the number of rows.
"""

import math

import numpy as np

from td_flax.data import dataset

# Positions after which the interleaving of weighted sources repeats.
_PERIOD = 4096
_ROUNDS = 8
# Odd constants of splitmix64, a full-period mixer of 64 bits.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Pipeline:
  """Batches of rows: shuffled anew in every epoch, sources mixed by weight.

  If no source has a weight, all rows are one population. Otherwise every source
  has its own epochs, a source without a weight has weight 1, and a fixed
  pattern gives each source its share of every 4096 positions.

  Args:
    rows: what is read.
    seed: draws the order; any non-negative whole number.
    batch_size: rows of the global batch.

  Raises:
    ValueError: there are no rows.
  """

  def __init__(self, rows: dataset.Rows, *, seed: int, batch_size: int) -> None:
    if not len(rows):
      raise ValueError('a pipeline needs at least one row')
    self._rows = rows
    self._seed = seed
    self._batch_size = batch_size
    weights, ranges = [1.0], [range(len(rows))]
    if any(weight is not None for weight in rows.weights):
      present = [i for i, x in enumerate(rows.ranges) if len(x)]
      ranges = [rows.ranges[i] for i in present]
      weights = [rows.weights[i] for i in present]
      weights = [1.0 if weight is None else weight for weight in weights]
    self._starts = np.array([x.start for x in ranges], np.int64)
    self._sizes = np.array([len(x) for x in ranges], np.int64)
    period = max(_PERIOD, len(ranges)) if len(ranges) > 1 else 1
    self._slots = np.array(apportion(weights, period), np.int64)
    slot_sources = np.repeat(np.arange(len(ranges)), self._slots)
    order = permute(np.arange(period), period, _key(seed, 0))
    self._pattern = slot_sources[order]  # the source of each slot
    # How many earlier slots of the period belong to the same source.
    self._ranks = np.empty(period, np.int64)
    for source in range(len(ranges)):
      mine = self._pattern == source
      self._ranks[mine] = np.arange(np.count_nonzero(mine))

  def batch(
    self, step: int, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """The rows of a step.

    Args:
      step: the step, from 0.
      start: the first row of the global batch that is wanted.
      stop: the row behind the last one; None is the end of the batch.

    Returns:
      uint16 [stop - start, N].
    """
    return self._rows[self.indices(step, start, stop)]

  def indices(
    self, step: int, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """The numbers of the rows that `batch` reads, int64 [stop - start]."""
    stop = self._batch_size if stop is None else stop
    positions = step * self._batch_size + np.arange(start, stop)
    period, slot = np.divmod(positions, len(self._pattern))
    source = self._pattern[slot]
    count = period * self._slots[source] + self._ranks[slot]
    size = self._sizes[source]
    epoch, index = np.divmod(count, size)
    key = _key(self._seed, 1, source, epoch)
    row = np.empty_like(index)
    for present in np.unique(source):
      mine = source == present
      row[mine] = permute(index[mine], int(self._sizes[present]), key[mine])
    return self._starts[source] + row


def permute(indices: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
  """Evaluates keyed permutations of 0 to n-1 at some indices.

  A Feistel network on pairs of digits (left, right) of the numbers below
  a * b, the smallest near-square that holds n; a number that leaves the n is
  walked on along its cycle until it is back, as in format-preserving ciphers.

  Args:
    indices: int64 [B], from 0 to below n.
    n: size of the permuted range.
    keys: uint64, a scalar or [B]: the permutation to use for each index.

  Returns:
    int64 [B]. Equal keys give different results for different indices.
  """
  a = math.isqrt(n - 1) + 1
  b = -(-n // a)
  walking = np.arange(len(indices))
  values = np.asarray(indices, np.uint64)
  rounds = np.arange(_ROUNDS, dtype=np.uint64)[:, None]
  keys = _mix(np.broadcast_to(keys, values.shape) + rounds)  # [rounds, B]
  result = np.empty(len(indices), np.int64)
  while len(walking):
    values = _feistel(values, np.uint64(a), np.uint64(b), keys)
    back = values < n
    result[walking[back]] = values[back]
    walking, values, keys = walking[~back], values[~back], keys[:, ~back]
  return result


def apportion(weights: list[float], total: int) -> list[int]:
  """Splits `total` slots by weight: largest remainders, one at the least."""
  quotas = [weight / math.fsum(weights) * total for weight in weights]
  slots = [max(1, math.floor(quota)) for quota in quotas]
  excess = [quota - slot for quota, slot in zip(quotas, slots, strict=True)]
  while (short := total - sum(slots)) != 0:
    if short > 0:
      i = max(range(len(slots)), key=lambda i: excess[i])
    else:  # the guaranteed slots were too many
      several = [i for i in range(len(slots)) if slots[i] > 1]
      i = min(several, key=lambda i: excess[i])
    change = 1 if short > 0 else -1
    slots[i] += change
    excess[i] -= change
  return slots


def _feistel(
  values: np.ndarray, a: np.uint64, b: np.uint64, keys: np.ndarray
) -> np.ndarray:
  left, right = np.divmod(values, b)
  for key_of_left, key_of_right in zip(keys[::2], keys[1::2], strict=True):
    left = (left + _mix(right ^ key_of_left)) % a
    right = (right + _mix(left ^ key_of_right)) % b
  return left * b + right


def _key(seed: int, *parts: int | np.ndarray) -> np.ndarray:
  key = np.zeros(1, np.uint64)
  while seed:  # a seed may have more than 64 bits
    key = _mix(key ^ np.uint64(seed & (2**64 - 1)))
    seed >>= 64
  for part in parts:
    key = _mix(key ^ np.asarray(part, np.uint64))
  return key


def _mix(x: np.ndarray) -> np.ndarray:
  """A bijection of 64 bits in which every bit depends on every other."""
  x = x + _GOLDEN  # arrays wrap around without a warning
  x ^= x >> np.uint64(30)
  x *= _MIX_1
  x ^= x >> np.uint64(27)
  x *= _MIX_2
  x ^= x >> np.uint64(31)
  return x
