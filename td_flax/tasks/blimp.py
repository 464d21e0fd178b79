"""BLiMP: does a model prefer the grammatical sentence of a pair?

Warstadt et al. (TACL 2020): 67 paradigms of 1,000 minimal pairs, a .jsonl file
each. A pair is right where the good sentence has the higher
pseudo-log-likelihood; a tie is wrong.
"""

import collections
import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np

from td_flax import errors
from td_flax.data.vocabulary import Tokenizer
from td_flax.tasks import scorer as scoring
from td_flax.tasks import tables

_KEYS = ('sentence_good', 'sentence_bad', 'UID', 'linguistics_term', 'field')


@dataclasses.dataclass(frozen=True)
class Paradigm:
  """One kind of contrast.

  Attributes:
    file: where it stands, for messages.
    name: its `UID`.
    term: the phenomenon it belongs to, such as `island_effects`.
    field: of linguistics, such as `syntax`.
    pairs: (good, bad).
  """

  file: str
  name: str
  term: str
  field: str
  pairs: tuple[tuple[str, str], ...]


def read(
  folder: str, limit: int = 0, key: str = '--blimp_dir'
) -> list[Paradigm]:
  """The paradigms of a folder.

  Args:
    folder: holds a .jsonl file each.
    limit: pairs of each, from the first; 0 is all.
    key: the flag or config key that errors name.

  Raises:
    errors.ConfigError: there is no such folder, no such file in it, or one
      cannot be read.
    errors.DataError: a file is empty, a line is not a pair, or two files hold
      the same paradigm.
  """
  files = sorted(pathlib.Path(folder).glob('*.jsonl'))
  if not files:
    raise errors.ConfigError(
      f'{key}={folder!r}: holds no .jsonl file; it must be the folder '
      "`data` of BLiMP's repository"
    )
  found: dict[str, Paradigm] = {}
  for file in files:
    paradigm = _read(file, limit, key)
    if paradigm.name in found:
      raise errors.DataError(
        f'{file}: has the UID {paradigm.name!r} of {found[paradigm.name].file}'
      )
    found[paradigm.name] = paradigm
  return list(found.values())


def _read(file: pathlib.Path, limit: int, key: str) -> Paradigm:
  pairs, kinds = [], set()
  for place, values in tables.read(file, _KEYS, key):
    for name in _KEYS:
      if not isinstance(values[name], str):
        raise errors.DataError(
          f'{place}: {name!r} must be text, is {values[name]!r}'
        )
    good, bad, *kind = (values[name] for name in _KEYS)
    pairs.append((good, bad))
    kinds.add(tuple(kind))
  if len(kinds) != 1:
    raise errors.DataError(
      f'{file}: must hold pairs of one paradigm, but holds {len(kinds)}'
    )
  return Paradigm(str(file), *kinds.pop(), tuple(pairs[: limit or None]))


def check_lengths(
  paradigms: list[Paradigm], tokenizer: Tokenizer, longest: int
) -> None:
  """Refuses sentences that have more tokens than the model has positions.

  Args:
    paradigms: from `read`.
    tokenizer: the model's.
    longest: positions of the model, [CLS] and [SEP] among them.

  Raises:
    errors.DataError: names the file and the sentence.
  """
  for paradigm in paradigms:
    try:
      for sentences in zip(*paradigm.pairs, strict=True):
        scoring.encode(tokenizer, list(sentences), longest)
    except errors.DataError as error:
      raise errors.DataError(f'{paradigm.file}: {error}') from None


def evaluate(
  scorer: scoring.Scorer, paradigms: list[Paradigm]
) -> dict[str, Any]:
  """Accuracy per paradigm, phenomenon and field, and overall.

  Means are over paradigms, all of which count the same.

  Returns:
    `overall`, `fields`, `terms` and `paradigms`, each accuracy from 0 to 1;
    `pairs`, how many were scored.
  """
  # All at once: a batch that is not full costs as much as a full one.
  pairs = [pair for paradigm in paradigms for pair in paradigm.pairs]
  good, bad = (
    scorer.score([*itertools.chain.from_iterable(pairs)]).reshape(-1, 2).T
  )
  ends = np.cumsum([len(paradigm.pairs) for paradigm in paradigms])
  accuracies = {
    paradigm.name: float(np.mean(right))
    for paradigm, right in zip(
      paradigms, np.split(good > bad, ends[:-1]), strict=True
    )
  }

  def means(kind: str) -> dict[str, float]:
    groups = collections.defaultdict(list)
    for paradigm in paradigms:
      groups[getattr(paradigm, kind)].append(accuracies[paradigm.name])
    return {name: float(np.mean(x)) for name, x in sorted(groups.items())}

  return {
    'overall': float(np.mean(list(accuracies.values()))),
    'fields': means('field'),
    'terms': means('term'),
    'paradigms': accuracies,
    'pairs': sum(len(paradigm.pairs) for paradigm in paradigms),
  }
