"""What losses of several seeds say, and what they do not."""

import math
import statistics
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
# With fewer seeds even an interval that excludes 0 is a first impression.
ENOUGH_SEEDS = 5
# Plain BERT has left the plateau of predicting frequencies, clearly, where its
# loss is this far below it. In nats.
PLATEAU_MARGIN = 1.0


class Spread(NamedTuple):
  """Mean and sample deviation, None where one value has none."""

  mean: float
  deviation: float | None


class Paired(NamedTuple):
  """Differences of one seed each.

  Attributes:
    n: how many.
    mean: of them.
    low, high: the 95% interval of the mean by Student's t; None for n = 1.
  """

  n: int
  mean: float
  low: float | None
  high: float | None

  @property
  def verdict(self) -> str:
    """`better` (a lower loss), `worse`, `not distinguishable` or ''.

    '' where one seed allows no verdict.
    """
    if self.low is None:
      return ''
    if self.high < 0:
      return 'better'
    return 'worse' if self.low > 0 else 'not distinguishable'


class Crossing(NamedTuple):
  """Where a falling curve reaches a target.

  Attributes:
    relation: `=`; `<=` where its first point is there already; `>` where its
      last one is not.
    at: the place, or that point's.
  """

  relation: str
  at: float


def spread(values: Collection[float]) -> Spread:
  """Mean and sample deviation of at least one value."""
  deviation = statistics.stdev(values) if len(values) > 1 else None
  return Spread(statistics.fmean(values), deviation)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
  """The differences `ours - theirs`, both in the order of the seeds."""
  differences = [x - y for x, y in zip(ours, theirs, strict=True)]
  mean, deviation = spread(differences)
  n = len(differences)
  if deviation is None:
    return Paired(n, mean, None, None)
  half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
  return Paired(n, mean, mean - half, mean + half)


def crossing(
  at: Sequence[float], losses: Sequence[float], target: float
) -> Crossing:
  """Where losses reach a target for good, linear in the log of the place.

  A loss that is low by chance, and higher at the next place, reaches nothing.

  Args:
    at: ascending and positive, for example shares of a time.
    losses: there.
    target: is reached by a loss that is no larger.
  """
  above = [i for i, loss in enumerate(losses) if loss > target]
  if not above:
    return Crossing('<=', at[0])
  last = above[-1]
  if last == len(losses) - 1:
    return Crossing('>', at[-1])
  y0, y1 = losses[last : last + 2]
  part = (y0 - target) / (y0 - y1)
  low, high = map(math.log, at[last : last + 2])
  return Crossing('=', math.exp(low + part * (high - low)))


def crossing_interval(
  crossings: Sequence[Crossing],
) -> tuple[float, float] | None:
  """The 95% interval of the geometric mean of one crossing a seed.

  None where there are fewer than two, or one lies outside of what was run.
  """
  if len(crossings) < 2 or any(x.relation != '=' for x in crossings):
    return None
  logs = [math.log(x.at) for x in crossings]
  found = paired(logs, [0.0] * len(logs))
  return math.exp(found.low), math.exp(found.high)


def unigram_loss(
  train_counts: np.ndarray, held_out: np.ndarray, special: Sequence[int]
) -> float:
  """The held-out loss of the best predictor that does not look at the text.

  It predicts how often each id occurs in the training rows; one that never
  does counts as one that does once.

  Args:
    train_counts: int [V], of the ids in the training rows.
    held_out: rows of ids.
    special: ids that are never predicted.

  Returns:
    Nats per token.
  """
  counts = np.maximum(train_counts, 1).astype(np.float64)
  counts[list(special)] = 0
  seen = np.bincount(held_out.ravel(), minlength=len(counts))
  seen[list(special)] = 0
  ids = np.flatnonzero(seen)
  losses = np.log(counts.sum()) - np.log(counts[ids])
  return float(losses @ seen[ids] / seen.sum())


def plateau(plain_loss: float, unigram: float) -> str:
  """Why a comparison is inconclusive; '' where it is not.

  Args:
    plain_loss: of plain BERT at the end, mean over seeds, in nats.
    unigram: `unigram_loss`.
  """
  limit = unigram - PLATEAU_MARGIN
  if plain_loss <= limit:
    return ''
  return (
    f'plain BERT ends at {plain_loss:.3f} nats and must be below {limit:.3f}, '
    f'{PLATEAU_MARGIN:g} below the {unigram:.3f} of predicting frequencies '
    'alone: it has not clearly left that plateau, and differences on it say '
    'nothing; train longer, with more data or at a higher rate'
  )
