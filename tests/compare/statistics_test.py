"""Figures against values worked by hand and against scipy's own test."""

import math

import numpy as np
import pytest
from scipy import stats

from td_flax.compare import statistics


def test_the_interval_is_students():
  # Differences 1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.302653.
  found = statistics.paired([2, 4, 6], [1, 2, 3])
  half = 4.302653 / math.sqrt(3)
  assert (found.n, found.mean) == (3, 2)
  assert found.low == pytest.approx(2 - half, abs=1e-6)
  assert found.high == pytest.approx(2 + half, abs=1e-6)
  assert found.verdict == 'not distinguishable'


def test_the_interval_is_that_of_scipys_paired_test():
  rng = np.random.default_rng(0)
  ours, theirs = rng.normal(size=(2, 7))
  found = statistics.paired(ours, theirs)
  interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
  assert found.low == pytest.approx(interval.low)
  assert found.high == pytest.approx(interval.high)


@pytest.mark.parametrize(
  ('ours', 'verdict'),
  [
    ([1.01, 1.0, 1.02], 'better'),
    ([3.01, 3.0, 3.02], 'worse'),
    ([1.0, 3.0, 2.1], 'not distinguishable'),
    ([1.0], ''),
  ],
)
def test_a_verdict_needs_an_interval_without_zero(ours, verdict):
  assert statistics.paired(ours, [2.0] * len(ours)).verdict == verdict


def test_one_seed_has_no_interval():
  found = statistics.paired([1.0], [2.0])
  assert found == (1, -1.0, None, None)
  assert statistics.spread([1.0]) == (1.0, None)
  assert statistics.spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_a_crossing_is_linear_in_the_logarithm():
  # Half way down between 0.25 and 1, whose logarithms meet at 0.5.
  found = statistics.crossing([0.25, 1.0], [4.0, 2.0], 3.0)
  assert found == ('=', pytest.approx(0.5))
  found = statistics.crossing([0.25, 0.5, 1.0], [4.0, 3.5, 2.0], 3.5)
  assert found == ('=', pytest.approx(0.5))


def test_a_crossing_outside_says_so():
  assert statistics.crossing([0.5, 1.0], [3.0, 2.0], 3.0) == ('<=', 0.5)
  assert statistics.crossing([0.5, 1.0], [3.0, 2.0], 1.0) == ('>', 1.0)


def test_a_crossing_is_for_good():
  # Low by chance at 0.25, above again at 0.5.
  found = statistics.crossing([0.25, 0.5, 1.0], [2.9, 3.5, 2.5], 3.0)
  assert found == ('=', pytest.approx(0.5**0.5))


def test_the_interval_of_crossings_is_that_of_their_logarithms():
  logs = np.array([-0.3, -0.2, -0.25])
  crossings = [statistics.Crossing('=', x) for x in np.exp(logs)]
  interval = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
  assert statistics.crossing_interval(crossings) == pytest.approx(
    tuple(np.exp(interval))
  )
  assert statistics.crossing_interval(crossings[:1]) is None
  outside = [*crossings, statistics.Crossing('>', 1.0)]
  assert statistics.crossing_interval(outside) is None


def test_the_unigram_loss_is_that_of_the_training_frequencies():
  counts = np.array([100, 100, 6, 2, 0])  # 2 special ids; one never seen
  rows = np.array([[0, 2, 2, 3, 1], [0, 2, 4, 1, 1]])
  p = np.array([6, 2, 1]) / 9
  expected = -(3 * np.log(p[0]) + np.log(p[1]) + np.log(p[2])) / 5
  found = statistics.context_free(counts, rows, [0, 1])
  assert found.unigram == pytest.approx(expected)


def test_what_is_shown_is_worth_what_bayes_says():
  counts = np.array([100, 100, 6, 2, 0])
  rows = np.array([[0, 2, 2, 3, 1], [0, 2, 4, 1, 1]])
  p, tokens = np.array([6, 2, 1]) / 9, [0, 0, 1, 0, 2]
  # P(x and s is shown), for [MASK] and the ordinary ids.
  joint = np.array([[0.8, 0.1 / 3, 0.1 / 3, 0.1 / 3]] * 3)
  joint[:, 1:] += 0.1 * np.eye(3)
  losses = -np.log(p[:, None] * joint / (p @ joint))
  expected = np.mean([joint[x] @ losses[x] for x in tokens])
  found = statistics.context_free(counts, rows, [0, 1])
  assert found.shown == pytest.approx(expected)
  assert found.shown < found.unigram


def test_plain_must_have_left_the_plateau():
  assert statistics.plateau(4.9, 6.0) == ''
  assert statistics.plateau(5.0, 6.0) == ''
  reason = statistics.plateau(5.1, 6.0)
  assert 'ends at 5.100 nats and must be below 5.000' in reason


def test_an_error_from_few_samples_counts_for_more():
  # t(0.975, 4) = 2.776445, and 1.959964 of a normal one.
  assert statistics.like_normal(0.1, 5) == pytest.approx(
    0.1 * 2.776445 / 1.959964
  )
  assert statistics.like_normal(0.1, 10**6) == pytest.approx(0.1, rel=1e-5)
  rng = np.random.default_rng(0)
  covered = 0
  for _ in range(2000):
    sample = rng.normal(size=4)
    error = statistics.like_normal(sample.std(ddof=1) / 2, 4)
    interval = statistics.paired([sample.mean()] * 2, [0, 0], error)
    covered += interval.low <= 0 <= interval.high
  assert covered / 2000 == pytest.approx(0.95, abs=0.02)
