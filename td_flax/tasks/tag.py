"""Tagging the words of one's own files: parts of speech, names, chunks.

Letters: S rows, N tokens, C labels, W words of all sentences.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from td_flax import errors
from td_flax.config import Config
from td_flax.data.vocabulary import Tokenizer
from td_flax.model.task_model import TOKENS, Output
from td_flax.tasks import conll, glue_score, tag_score, task

_NO_LABEL = '_'
_NAMED = 10  # labels that a message lists


class _Column(NamedTuple):
  """Where labels are; `is_last`: no line has more columns."""

  number: int
  is_last: bool


class _Split(NamedTuple):
  """Sentences and their rows; word w begins at (rows[w], tokens[w])."""

  sentences: list[list[str]]
  encoded: task.Encoded
  rows: Int[np.ndarray, ' W']
  tokens: Int[np.ndarray, ' W']

  def by_sentence(self, labels: list[str]) -> list[list[str]]:
    rest = iter(labels)
    return [list(itertools.islice(rest, len(x))) for x in self.sentences]


class Tag(task.Task):
  """A label for every word of `task.train`, `task.dev` and `task.test`.

  A word's label stands at its first token. A sentence that is too long for a
  row goes on in the next one; a word that is too long by itself loses its end.

  Labels of IOB or IOBES are scored by entities: `precision`, `recall`, `f1` and
  the words' `accuracy`; others by `accuracy` and `macro_f1`.

  Args:
    config: its `task` section names the files and the column of the labels.
    tokenizer: turns words into ids.

  Raises:
    errors.ConfigError: a file is missing or cannot be read, or there is no such
      column of labels.
    errors.DataError: a file holds no sentence or cannot be understood, or the
      labels are not those of `task.train`.
  """

  name = 'tag'

  def __init__(self, config: Config, tokenizer: Tokenizer):
    train = conll.read('task.train', config.task.train)
    dev = conll.read('task.dev', config.task.dev)
    test = (
      conll.read('task.test', config.task.test) if config.task.test else None
    )
    column = _find_column(config.task.label, train)
    self.labels = _known_labels(train, column)
    self.output = Output(TOKENS, size=len(self.labels))
    self._has_entities = tag_score.are_entities(self.labels)
    self.metric = 'f1' if self._has_entities else 'accuracy'

    def encode(file: conll.File, *, may_lack: bool = False) -> _Split:
      labels = _label_ids(file, column, self.labels, may_lack=may_lack)
      length = config.data.sequence_length
      return _encode(file.words(), labels, tokenizer, length)

    self.train = encode(train).encoded
    self._splits = {'dev': encode(dev)}
    self.dev = {'dev': self._splits['dev'].encoded}
    self.test = {}
    if test is not None:
      self._splits['test'] = encode(test, may_lack=True)
      self.test['test'] = self._splits['test'].encoded

  def score(
    self, split: str, logits: Float[np.ndarray, 'S N C']
  ) -> dict[str, float]:
    """Figures of `dev`, each from 0 to 1."""
    found = self._splits[split]
    gold = found.encoded.labels[found.rows, found.tokens]
    predicted = logits[found.rows, found.tokens].argmax(-1)
    figures = {'accuracy': glue_score.accuracy(gold, predicted)}
    if self._has_entities:
      return figures | tag_score.entity_figures(
        found.by_sentence(self._names(gold)),
        found.by_sentence(self._names(predicted)),
      )
    return figures | {'macro_f1': glue_score.macro_f1(gold, predicted)}

  def predictions(
    self, split: str, logits: Float[np.ndarray, 'S N C']
  ) -> dict[str, str]:
    """`SPLIT.tsv`: a line for a word, a blank one between sentences."""
    found = self._splits[split]
    names = self._names(logits[found.rows, found.tokens].argmax(-1))
    sentences = zip(found.sentences, found.by_sentence(names), strict=True)
    text = '\n'.join(
      ''.join(
        f'{word}\t{label}\n' for word, label in zip(words, labels, strict=True)
      )
      for words, labels in sentences
    )
    return {f'{split}.tsv': text}

  def details(self) -> dict[str, list[list[str]]]:
    """The words, of which ids do not tell all, and where sentences end."""
    return {name: split.sentences for name, split in self._splits.items()}

  def _names(self, labels: Int[np.ndarray, ' W']) -> list[str]:
    return [self.labels[x] for x in labels]


def _find_column(label: str, train: conll.File) -> _Column:
  """The column that `task.label` names; the training file decides for all."""
  if train.is_conllu and label in ('label', 'upos'):
    return _Column(conll.UPOS, is_last=False)
  if label == 'label':
    last = len(train.sentences[0][0].cells) - 1
    return _Column(max(last, 1), is_last=True)
  number = int(label) if re.fullmatch('[0-9]{1,9}', label) else -1
  if (
    number < 0
    or number == train.word_column
    or (train.is_conllu and number >= conll.NUM_COLUMNS)
  ):
    valid = (
      f'upos or the number of a column from 0 to {conll.NUM_COLUMNS - 1}, not '
      f'{train.word_column}, the words,'
      if train.is_conllu
      else '`label` for the last column or the number of one from 1 (0 is the '
      'words)'
    )
    raise errors.ConfigError(
      f'task.label={label!r}: must be {valid} of {train.path}'
    )
  return _Column(number, is_last=False)


def _labels(
  file: conll.File, column: _Column, *, may_lack: bool
) -> Iterator[list[tuple[conll.Line, str]]]:
  """The label of each line of each sentence; `_` where the column lacks."""
  least = 1 if may_lack else column.number + 1
  for sentence in file.sentences:
    labels = []
    for line in sentence:
      count, wanted = len(line.cells), column.number + 1
      if count < least or (column.is_last and count > wanted):
        raise errors.DataError(
          f'{file.path}:{line.number}: must have '
          f'{"" if column.is_last else "at least "}{wanted} columns, the label '
          f'in column {column.number} (from 0); this line has {count}'
        )
      label = line.cells[column.number] if count >= wanted else _NO_LABEL
      labels.append((line, label))
    yield labels


def _known_labels(train: conll.File, column: _Column) -> tuple[str, ...]:
  """The labels of the training file, sorted."""
  sentences = _labels(train, column, may_lack=False)
  known = tuple(
    sorted({label for sentence in sentences for _, label in sentence})
  )
  if len(known) < 2:
    raise errors.DataError(
      f'{train.path}: must hold two labels or more; column {column.number} '
      f'(from 0) holds only {known[0]!r}'
    )
  return known


def _label_ids(
  file: conll.File, column: _Column, known: tuple[str, ...], *, may_lack: bool
) -> list[list[int]]:
  """Labels as their places in `known`, `UNLABELED` where a word has none."""
  ids = {label: i for i, label in enumerate(known)}
  if may_lack:
    # Where training has `_` it is a label like any other, such as that of a
    # word without features.
    ids = {_NO_LABEL: task.UNLABELED} | ids
  found = []
  for sentence in _labels(file, column, may_lack=may_lack):
    for line, label in sentence:
      if label not in ids:
        more = f' and {len(known) - _NAMED} more' if len(known) > _NAMED else ''
        raise errors.DataError(
          f'{file.path}:{line.number}: the label {label!r} must be one of '
          f'task.train, {", ".join(known[:_NAMED])}{more}'
        )
    found.append([ids[label] for _, label in sentence])
  return found


def _encode(
  sentences: list[list[str]],
  labels: list[list[int]],
  tokenizer: Tokenizer,
  length: int,
) -> _Split:
  # Each word by itself, so that its first token is known whatever the
  # tokenizer. The price: every word looks as if white space preceded it, so
  # that "do" "n't" and "end" "." may get other ids than "don't" and "end." in
  # pretraining, and pieces that reach across white space are never used.
  special = tokenizer.special
  ids = tokenizer.encode_batch([*itertools.chain.from_iterable(sentences)])
  unknown = np.array([special.unk], np.uint16)
  room = length - 2  # [CLS] and [SEP]
  words = iter(x[:room] if len(x) else unknown for x in ids)
  parts, rows, tokens = [], [], []
  for sentence in sentences:
    used = length  # a sentence begins a row
    for word in itertools.islice(words, len(sentence)):
      if used + len(word) > room:
        parts.append([])
        used = 0
      parts[-1].append(word)
      rows.append(len(parts) - 1)
      tokens.append(1 + used)
      used += len(word)
  places = np.array(rows), np.array(tokens)
  targets = np.full((len(parts), length), task.UNLABELED, np.int32)
  targets[places] = [*itertools.chain.from_iterable(labels)]
  encoded = np.stack(
    [task.assemble(special, length, np.concatenate(part)) for part in parts]
  )
  return _Split(sentences, task.Encoded(encoded, targets), *places)
