"""GLUE's metrics, against scikit-learn and scipy on random inputs."""

import numpy as np
import pytest
from scipy import stats

from td_flax.tasks import glue_score

EDGES = [
  ([1, 1, 1], [0, 0, 0]),
  ([0, 0, 0], [0, 0, 0]),
  ([1, 1], [1, 1]),
  ([0, 1, 1], [0, 0, 0]),
]


def series():
  rng = np.random.default_rng(0)
  for count in (2, 3, 10, 500):
    for classes in (2, 4):
      yield rng.integers(0, classes, (2, count))
  yield from (np.array(edge) for edge in EDGES)


@pytest.mark.filterwarnings('ignore:.*single label')
def test_classes_are_scored_as_by_scikit_learn():
  sklearn = pytest.importorskip('sklearn.metrics', reason='extra `reference`')
  for labels, found in series():
    assert glue_score.accuracy(labels, found) == pytest.approx(
      sklearn.accuracy_score(labels, found), abs=1e-12
    )
    assert glue_score.macro_f1(labels, found) == pytest.approx(
      sklearn.f1_score(labels, found, average='macro', zero_division=0),
      abs=1e-12,
    )
    if max(labels.max(), found.max()) < 2:
      assert glue_score.f1(labels, found) == pytest.approx(
        sklearn.f1_score(labels, found, zero_division=0), abs=1e-12
      )
      assert glue_score.matthews(labels, found) == pytest.approx(
        sklearn.matthews_corrcoef(labels, found), abs=1e-12
      )


def test_numbers_are_scored_as_by_scipy():
  rng = np.random.default_rng(0)
  for count in (3, 10, 1000):
    labels = rng.integers(0, 5, count) + rng.integers(0, 2, count) / 2
    found = labels + rng.normal(0, 2, count)
    assert glue_score.pearson(labels, found) == pytest.approx(
      stats.pearsonr(labels, found).statistic, abs=1e-12
    )
    assert glue_score.spearman(labels, found) == pytest.approx(
      stats.spearmanr(labels, found).statistic, abs=1e-12
    )


def test_a_constant_correlates_with_nothing():
  constant, other = np.full(4, 0.1), np.arange(4.0)
  assert glue_score.pearson(constant, other) == 0
  assert glue_score.spearman(other, constant) == 0
