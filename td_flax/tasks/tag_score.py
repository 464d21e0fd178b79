"""The F1 of entities in tagged words.

Entities are those of conlleval, the scorer of the CoNLL shared tasks (Tjong Kim
Sang and De Meulder 2003): labels are `O` or PREFIX-TYPE. It reads IOB1, IOB2
and IOBES alike, and labels that no scheme allows.
"""

import re
from collections.abc import Iterable

_LABEL = re.compile(r'O|[BIES]-.+')


def are_entities(labels: Iterable[str]) -> bool:
  """Whether all labels are `O` or a prefix of IOB or IOBES with a type."""
  return all(map(_LABEL.fullmatch, labels))


def entities(labels: list[str]) -> set[tuple[int, int, str]]:
  """The entities of one sentence: (first word, last word, type).

  One begins at B- and S-, and wherever the word before is in no entity of the
  same type or ends one (E-, S-).

  Args:
    labels: `O` or PREFIX-TYPE.
  """
  found = []
  before, kind_before = 'O', ''
  for i, label in enumerate(labels):
    prefix, _, kind = label.partition('-')
    if prefix != 'O':
      begins = prefix in 'BS' or before in 'OES' or kind != kind_before
      start = i if begins else found.pop()[0]
      found.append((start, i, kind))
    before, kind_before = prefix, kind
  return set(found)


def entity_figures(
  gold: list[list[str]], predicted: list[list[str]]
) -> dict[str, float]:
  """Precision, recall and F1 of entities: words and type must be the same.

  Args:
    gold: the labels of each sentence.
    predicted: those of the same sentences.

  Returns:
    `precision`, `recall` and `f1` from 0 to 1; 0 where there is nothing to
    divide by.
  """
  right = found = wanted = 0
  for labels, guesses in zip(gold, predicted, strict=True):
    there, guessed = entities(labels), entities(guesses)
    right += len(there & guessed)
    found += len(guessed)
    wanted += len(there)
  return {
    'precision': right / max(found, 1),
    'recall': right / max(wanted, 1),
    'f1': 2 * right / max(found + wanted, 1),
  }
