"""What losses of several seeds say, and what they do not."""

import math
import statistics
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from td_flax import masking

LEVEL = 0.95
_SHARE = (1 + LEVEL) / 2
_NORMAL = float(stats.norm.ppf(_SHARE))  # 1.96
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
    low, high: the 95% interval of the mean by Student's t, wider by an error
      that all have in common; None for n = 1.
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


def paired(
  ours: Sequence[float], theirs: Sequence[float], error: float = 0.0
) -> Paired:
  """The differences `ours - theirs`, both in the order of the seeds.

  Args:
    ours: one of each seed.
    theirs: one of each seed.
    error: the standard error of what all differences have in common, as if it
      were normal; seeds do not show it.
  """
  differences = [x - y for x, y in zip(ours, theirs, strict=True)]
  mean, deviation = spread(differences)
  n = len(differences)
  if deviation is None:
    return Paired(n, mean, None, None)
  seeds = like_normal(deviation / math.sqrt(n), n)
  half = _NORMAL * math.hypot(seeds, error)
  return Paired(n, mean, mean - half, mean + half)


def like_normal(error: float, samples: int) -> float:
  """A standard error, larger where few samples tell it.

  1.96 of the result is what Student's t has for `samples - 1` degrees of
  freedom.
  """
  return error * float(stats.t.ppf(_SHARE, samples - 1)) / _NORMAL


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
  crossings: Sequence[Crossing], error: float = 0.0
) -> tuple[float, float] | None:
  """The 95% interval of the geometric mean of one crossing a seed.

  Args:
    crossings: of the seeds.
    error: the relative standard error that all places have in common.

  Returns:
    None where there are fewer than two, or one lies outside of what was run.
  """
  if len(crossings) < 2 or any(x.relation != '=' for x in crossings):
    return None
  logs = [math.log(x.at) for x in crossings]
  found = paired(logs, [0.0] * len(logs), error)
  return math.exp(found.low), math.exp(found.high)


class ContextFree(NamedTuple):
  """Held-out losses of the best predictors that do not look at the text.

  Nats per predicted token. Both know how often each id occurs in the training
  rows; one that never does counts as one that does once.

  Attributes:
    unigram: knows nothing else.
    shown: knows what is shown at the position too: [MASK], the token itself or
      a random one (Devlin et al. 2019, section 3.1). BERT learns that before it
      learns to use context.
  """

  unigram: float
  shown: float


def context_free(
  train_counts: np.ndarray, held_out: np.ndarray, special: Sequence[int]
) -> ContextFree:
  """What predicting without context costs.

  Args:
    train_counts: int [V], of the ids in the training rows.
    held_out: rows of ids.
    special: ids that are never predicted.
  """
  ordinary = np.delete(np.arange(len(train_counts)), list(set(special)))
  counts = np.maximum(train_counts[ordinary], 1).astype(np.float64)
  seen = np.bincount(held_out.ravel(), minlength=len(train_counts))[ordinary]
  p, q, v = counts / counts.sum(), seen / seen.sum(), len(ordinary)
  unigram = -float(q @ np.log(p))
  # The shown token s is x itself as often as it is a random one. So by Bayes
  # P(x | s) = p(x) (1 / v + [x = s]) / (1 / v + p(s)), and -log of it is
  # -log p(x) + log(1 + v p(s)) - [x = s] log(1 + v).
  ratio = np.log1p(v * p)
  itself = unigram + float(q @ ratio) - np.log1p(v)
  random = unigram + float(ratio.mean()) - np.log1p(v) / v
  kept = 1 - masking.MASK_SHARE - masking.RANDOM_SHARE
  shown = masking.MASK_SHARE * unigram + masking.RANDOM_SHARE * random
  return ContextFree(unigram, float(shown + kept * itself))


def plateau(plain_loss: float, unigram: float) -> str:
  """Why a comparison is inconclusive; '' where it is not.

  Args:
    plain_loss: of plain BERT at the end, mean over seeds, in nats.
    unigram: of `context_free`.
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
