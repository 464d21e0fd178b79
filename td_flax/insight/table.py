"""The importance table of a checkpoint in figures."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from td_flax import metrics
from td_flax.data.vocabulary import Tokenizer
from td_flax.dropping import importance

_EXTREMES = 20
_BINS = 50
_QUANTILE = 'importance/q'


def extremes(
  table: Float[np.ndarray, ' V'],
  known: Bool[np.ndarray, ' V'],
  unigram_counts: Int[np.ndarray, ' V'],
  tokenizer: Tokenizer,
) -> dict[str, list[dict[str, Any]]]:
  """The least and the most important of the known ids.

  Args:
    table: importance of every id.
    known: ids whose importance was learned or counted.
    unigram_counts: how often each occurs in the corpus.
    tokenizer: writes the ids.

  Returns:
    `least` and `most`: `piece`, `importance` and `count` of each, the extreme
    first.
  """
  ids = importance.ordered(table, known, tokenizer.special)
  return {
    name: [
      {
        'piece': tokenizer.piece(int(i)),
        'importance': float(table[i]),
        'count': int(unigram_counts[i]),
      }
      for i in chosen[:_EXTREMES]
    ]
    for name, chosen in (('least', ids[::-1]), ('most', ids))
  }


def histogram(
  table: Float[np.ndarray, ' V'], known: Bool[np.ndarray, ' V']
) -> dict[str, list[float]]:
  """Known ids by importance: `edges` of equal bins, and `ids` in each."""
  if not known.any():
    return {}
  ids, edges = np.histogram(table[known], _BINS)
  return {'edges': edges.tolist(), 'ids': ids.tolist()}


def drift(path: pathlib.Path) -> dict[str, list[float]]:
  """Quantiles of the table over training: `step` and one list per quantile.

  Args:
    path: the run's metrics.jsonl.

  Returns:
    Empty lists where none were logged.

  Raises:
    errors.CheckpointError: the file cannot be read.
  """
  rows = [x for x in metrics.read(path) if f'{_QUANTILE}50' in x]
  names = sorted({key for x in rows for key in x if key.startswith(_QUANTILE)})
  return {
    'step': [x['step'] for x in rows],
    **{name.removeprefix('importance/'): [x[name] for x in rows]
       for name in names},
  }  # fmt: skip
