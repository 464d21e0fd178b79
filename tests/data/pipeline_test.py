import hashlib
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from td_flax.data import dataset, pipeline

N = 8


def rows_of(*sizes, weights=None):
  """Shards of rows whose first id is the row's number."""
  numbers = np.arange(sum(sizes), dtype=np.uint16)
  rows = np.repeat(numbers[:, None], N, axis=1)
  shards = np.split(rows, np.cumsum(sizes)[:-1])
  weights = weights or [None] * len(sizes)
  return dataset.Rows(shards.__getitem__, sizes, range(len(sizes)), weights, N)


def read(rows, num_rows, *, seed=0, batch_size=1):
  """The numbers of the first rows that a pipeline reads."""
  batches = pipeline.Pipeline(rows, seed=seed, batch_size=batch_size)
  steps = -(-num_rows // batch_size)
  read = np.concatenate([batches.batch(step)[:, 0] for step in range(steps)])
  return read[:num_rows].tolist()


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  n=st.integers(1, 3000) | st.integers(1, 12), key=st.integers(0, 2**64 - 1)
)
def test_a_permutation_meets_every_number_once(n, key):
  permuted = pipeline.permute(np.arange(n), n, np.uint64(key))
  np.testing.assert_array_equal(np.sort(permuted), np.arange(n))


def test_a_permutation_of_a_huge_range_stays_inside_and_is_injective():
  n = 10**15 + 37
  indices = np.random.default_rng(0).integers(0, n, 20_000)
  permuted = pipeline.permute(indices, n, np.uint64(5))
  assert permuted.min() >= 0
  assert permuted.max() < n
  assert len(set(permuted)) == len(set(indices))
  # The mean of uniform numbers, within five of its standard deviations.
  assert abs(permuted.mean() / n - 0.5) < 5 * 12**-0.5 / 20_000**0.5


@pytest.mark.parametrize('n', [2, 3, 7, 16, 50])
def test_every_row_is_as_likely_in_every_place(n):
  num_keys = 4000
  keys = np.repeat(np.arange(num_keys, dtype=np.uint64), n)
  indices = np.tile(np.arange(n), num_keys)
  permuted = pipeline.permute(indices, n, pipeline._mix(keys))
  counts = np.zeros((n, n))
  np.add.at(counts, (indices, permuted), 1)
  expected = num_keys / n
  chi2 = ((counts - expected) ** 2 / expected).sum()
  freedom = (n - 1) ** 2
  assert abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5 + 5


def test_neighbours_are_torn_apart():
  order = pipeline.permute(np.arange(10_000), 10_000, np.uint64(1))
  correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
  assert abs(correlation) < 0.05
  assert np.mean(np.abs(np.diff(order)) == 1) < 0.002


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
  sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
  seed=st.integers(0, 2**70),
  batch_size=st.integers(1, 50),
)
def test_every_epoch_reads_every_row_once(sizes, seed, batch_size):
  rows = rows_of(*sizes)
  order = read(rows, 3 * len(rows), seed=seed, batch_size=batch_size)
  for epoch in np.split(np.array(order), 3):
    assert sorted(epoch) == list(range(len(rows)))


def test_epochs_and_seeds_differ():
  rows = rows_of(500)
  first, second = np.split(np.array(read(rows, 1000)), 2)
  other = np.array(read(rows, 500, seed=1))
  for a, b in [(first, second), (first, other), (first, np.arange(500))]:
    assert np.mean(a == b) < 0.03


@pytest.mark.parametrize('weights', [None, [3.0, None]])
@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
  batch_size=st.integers(1, 64), hosts=st.integers(1, 8), step=st.integers(0)
)
def test_a_batch_is_the_same_for_any_number_of_hosts(
  weights, batch_size, hosts, step
):
  step %= 2**40
  batches = pipeline.Pipeline(
    rows_of(70, 30, weights=weights), seed=3, batch_size=batch_size
  )
  cuts = [batch_size * host // hosts for host in range(hosts + 1)]
  parts = [
    batches.batch(step, start, stop) for start, stop in itertools.pairwise(cuts)
  ]
  whole = batches.batch(step)
  assert whole.shape == (batch_size, N)
  assert whole.dtype == np.uint16
  np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize('weights', [None, [1.0, 2.5]])
def test_the_order_depends_on_positions_and_not_on_the_batch_size(weights):
  rows = rows_of(40, 60, weights=weights)
  assert read(rows, 300, batch_size=7) == read(rows, 300, batch_size=64)


def test_a_batch_is_pure_and_golden():
  """Resuming an old run relies on this order: it must never change."""
  rows = rows_of(70, 30)
  assert read(rows, 8, seed=42, batch_size=4) == [
    44,
    96,
    90,
    66,
    16,
    86,
    56,
    80,
  ]
  mixed = rows_of(70, 30, weights=[1.0, 3.0])
  assert read(mixed, 8, seed=42, batch_size=4) == [
    71,
    78,
    79,
    17,
    74,
    86,
    11,
    0,
  ]


def test_the_order_of_large_sources_is_golden():
  """Many walks, sources, epochs and steps: see the test before."""
  digest = hashlib.sha256()
  for sizes, weights in (
    ([300_000], [None]),
    ([210_000, 90_000], [1.0, 3.0]),
    ([5, 3_000_000_000, 17], [None, 2.0, 0.5]),
  ):
    shards = range(len(sizes))
    rows = dataset.Rows(shards.__getitem__, sizes, shards, weights, N)
    batches = pipeline.Pipeline(rows, seed=2**66 + 7, batch_size=512)
    for step in (0, 1, 700, 10**9):
      digest.update(batches.indices(step).astype('<i8').tobytes())
  assert digest.hexdigest() == (
    'b9b2e38da53bc2b07441dc59705e82d8a6f7fac3968867cdab52e5475c177ce3'
  )


def test_weighted_sources_get_exactly_their_shares():
  rows = rows_of(50, 7, 100, weights=[1.0, 2.0, None])
  order = np.array(read(rows, 2 * 4096, batch_size=128))
  for period in np.split(order, 2):
    source = np.digitize(period, [50, 57])
    assert np.bincount(source).tolist() == [1024, 2048, 1024]


def test_weighted_sources_have_epochs_of_their_own():
  rows = rows_of(50, 7, weights=[1.0, 1.0])
  order = np.array(read(rows, 8192, batch_size=512))
  small = order[order >= 50]
  epochs = small[: len(small) // 7 * 7].reshape(-1, 7)
  assert np.all(np.sort(epochs, axis=1) == np.arange(50, 57))
  assert len({tuple(epoch) for epoch in epochs}) > 100


def test_weighted_sources_are_mixed_finely():
  rows = rows_of(50, 50, weights=[1.0, 3.0])
  order = np.array(read(rows, 4096, batch_size=64)).reshape(-1, 64)
  shares = np.mean(order >= 50, axis=1)
  assert shares.min() > 0.5
  assert shares.max() < 0.95


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)
)
def test_slots_are_apportioned_by_largest_remainder(weights):
  slots = pipeline.apportion(weights, 4096)
  assert sum(slots) == 4096
  assert min(slots) >= 1
  quotas = np.array(weights) / sum(weights) * 4096
  if quotas.min() >= 1:
    assert np.all(np.abs(np.array(slots) - quotas) < 1)


def test_a_source_without_rows_takes_no_part():
  rows = rows_of(5, 0, 5, weights=[1.0, 1.0, 1.0])
  assert set(read(rows, 4096, batch_size=256)) == set(range(10))


def test_no_rows_are_an_error():
  with pytest.raises(ValueError, match='at least one row'):
    pipeline.Pipeline(rows_of(0), seed=0, batch_size=1)
