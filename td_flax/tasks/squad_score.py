"""Exact match and F1 of answers, as SQuAD's own evaluation counts them.

Rajpurkar et al. 2016 (v1.1) and 2018 (v2.0, questions without an answer). The
two differ in what articles and punctuation alone are worth: in v1.1 an answer
like any other, without words that could be common; in v2.0 no answer.
"""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)


def normalize(text: str) -> str:
  """Lower case, without punctuation, articles and needless white space."""
  text = text.lower().translate(_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def exact(predicted: str, gold: str) -> float:
  """1 where both are the same when normalized, else 0."""
  return float(normalize(predicted) == normalize(gold))


def f1(predicted: str, gold: str) -> float:
  """F1 of the words that both have; 0 where no word is common."""
  found, there = normalize(predicted).split(), normalize(gold).split()
  common = (collections.Counter(found) & collections.Counter(there)).total()
  return 2 * common / (len(found) + len(there)) if common else 0.0


def score(
  predicted: Mapping[str, str],
  answers: Mapping[str, Sequence[str]],
  *,
  has_nulls: bool = False,
) -> dict[str, float]:
  """Figures from 0 to 1; the best of a question's answers counts.

  Args:
    predicted: an answer, or '' for none, by question.
    answers: all right ones; an empty list where there is none.
    has_nulls: by the rules of v2.0, not of v1.1.

  Returns:
    `exact` and `f1`; of v2.0 also `has_answer_exact`, `has_answer_f1` and
    `no_answer_exact`, 0 where there is no such question.
  """
  names = list(answers)
  best = _best_or_null if has_nulls else _best
  exacts, f1s = (
    np.array([best(function, predicted[x], answers[x]) for x in names])
    for function in (exact, f1)
  )
  figures = {'exact': float(exacts.mean()), 'f1': float(f1s.mean())}
  if not has_nulls:
    return figures
  has = np.array([bool(answers[x]) for x in names])

  def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0

  return figures | {
    'has_answer_exact': mean(exacts[has]),
    'has_answer_f1': mean(f1s[has]),
    'no_answer_exact': mean(exacts[~has]),
  }


def best_threshold(
  predicted: Mapping[str, str],
  answers: Mapping[str, Sequence[str]],
  null_odds: Mapping[str, float],
) -> dict[str, float]:
  """What the best threshold on the odds of no answer would give, in v2.0.

  Args:
    predicted: the best answer of every question.
    answers: as in `score`.
    null_odds: a question has no answer where they exceed the threshold.

  Returns:
    `best_exact` and `best_f1`, and `best_exact_thresh` and `best_f1_thresh`,
    the thresholds that give them.
  """
  names = sorted(answers, key=lambda x: null_odds[x])
  # With the lowest threshold nothing is answered; each step answers one more.
  unanswered = sum(not answers[x] for x in names)
  best = {}
  for name, function in (('exact', exact), ('f1', f1)):
    gains = [
      _best_or_null(function, predicted[x], answers[x])
      if answers[x]
      else -float(bool(predicted[x]))
      for x in names
    ]
    totals = unanswered + np.concatenate([[0], np.cumsum(gains)])
    at = int(np.argmax(totals))
    best[f'best_{name}'] = float(totals[at] / len(names))
    odds = null_odds[names[at - 1]] if at else null_odds[names[0]] - 1.0
    best[f'best_{name}_thresh'] = float(odds)
  return best


def _best(
  function: Callable[[str, str], float], predicted: str, answers: Sequence[str]
) -> float:
  return max((function(predicted, x) for x in answers), default=0.0)


def _best_or_null(
  function: Callable[[str, str], float], predicted: str, answers: Sequence[str]
) -> float:
  real = [x for x in answers if normalize(x)]
  if not real:
    return float(not normalize(predicted))
  return _best(function, predicted, real)
