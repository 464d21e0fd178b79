"""The official metrics of GLUE (Wang et al. 2019), from 0 or -1 to 1.

Where a denominator is 0 a figure is 0, as in scikit-learn.
"""

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import stats

Labels = Int[np.ndarray, ' S']
Numbers = Float[np.ndarray, ' S']


def accuracy(labels: Labels, predicted: Labels) -> float:
  """Share of equal entries."""
  return float(np.mean(labels == predicted))


def f1(labels: Labels, predicted: Labels, positive: int = 1) -> float:
  """Harmonic mean of precision and recall of one class."""
  found, there = predicted == positive, labels == positive
  both = np.sum(found & there)
  either = np.sum(found) + np.sum(there)
  return float(2 * both / either) if either else 0.0


def macro_f1(labels: Labels, predicted: Labels) -> float:
  """The mean F1 of all classes that are labeled or predicted."""
  classes = np.union1d(labels, predicted)
  return float(np.mean([f1(labels, predicted, x) for x in classes]))


def matthews(labels: Labels, predicted: Labels) -> float:
  """Matthews correlation of two classes."""
  return pearson(labels, predicted)


def pearson(labels: Num[np.ndarray, ' S'], predicted: Num) -> float:
  """Correlation of two series; 0 where one is constant."""
  x, y = (np.asarray(z, np.float64) for z in (labels, predicted))
  if not (np.ptp(x) and np.ptp(y)):
    return 0.0
  x, y = x - x.mean(), y - y.mean()
  return float(x @ y / (np.sqrt(x @ x) * np.sqrt(y @ y)))


def spearman(labels: Numbers, predicted: Numbers) -> float:
  """Correlation of ranks; equal values share their mean rank."""
  return pearson(stats.rankdata(labels), stats.rankdata(predicted))
