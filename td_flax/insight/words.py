"""The words of a CoNLL-U file and their classes, in packed rows."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt16

from td_flax import errors
from td_flax.data.packing import Packer
from td_flax.data.vocabulary import Tokenizer
from td_flax.tasks import conll

_NO_SPACE = 'SpaceAfter=No'


class Words(NamedTuple):
  """Rows whose tokens belong to words of known classes.

  Letters: R rows, N tokens, W words.

  Attributes:
    rows: packed.
    words: of each token its word, -1 for the special ones.
    classes: of each word.
    sentences: of each word.
    names: of the classes.
  """

  rows: UInt16[np.ndarray, 'R N']
  words: Int[np.ndarray, 'R N']
  classes: Int[np.ndarray, ' W']
  sentences: Int[np.ndarray, ' W']
  names: list[str]

  def first(self, num_rows: int) -> 'Words':
    """The same, of the first rows only."""
    return self._replace(rows=self.rows[:num_rows], words=self.words[:num_rows])

  @property
  def token_classes(self) -> Int[np.ndarray, 'R N']:
    """The class of each token's word, -1 for special tokens."""
    return np.where(self.words < 0, -1, self.classes[self.words])

  @property
  def begins(self) -> Bool[np.ndarray, 'R N']:
    """The tokens that are the first of a word."""
    there = self.words >= 0
    begins = np.zeros_like(there)
    begins[there] = np.diff(self.words[there], prepend=-1) != 0
    return begins


def read(path: str, tokenizer: Tokenizer, length: int) -> Words:
  """The sentences of a file as one document, with the spaces they had.

  Args:
    path: a .conllu file.
    tokenizer: makes the ids.
    length: N.

  Raises:
    errors.UserError: it cannot be read, or is no CoNLL-U.
  """
  if pathlib.Path(path).suffix.lower() != '.conllu':
    raise errors.ConfigError(f'--conllu={path!r}: must end in .conllu')
  file = conll.read('--conllu', path)
  text, starts, classes, sentences = '', [], [], []
  for number, sentence in enumerate(file.sentences):
    behind = _behind(sentence, file.ranges[number])
    for line, space in zip(sentence, behind, strict=True):
      starts.append(len(text))
      classes.append(line.cells[conll.UPOS])
      sentences.append(number)
      text += line.cells[conll.FORM] + space
  names = sorted(set(classes))
  ((ids, offsets),) = tokenizer.encode_with_offsets([text])
  packer = Packer(length, tokenizer.special)
  packer.add(ids)
  rows = packer.finish()
  special = tokenizer.special
  words = np.full(rows.shape, -1)
  # Packing keeps the order and loses nothing; a text's own ids may be [UNK].
  words[~np.isin(rows, (special.pad, special.cls, special.sep))] = (
    np.searchsorted(starts, offsets[:, 0], side='right') - 1
  )
  return Words(
    rows,
    words,
    np.array([names.index(x) for x in classes]),
    np.array(sentences),
    names,
  )


def _behind(sentence: list[conll.Line], ranges: list[conll.Line]) -> list[str]:
  """What stands behind each word: a space, or nothing."""

  def space(line: conll.Line) -> str:
    return '' if _NO_SPACE in line.cells[conll.MISC].split('|') else ' '

  behind = [space(line) for line in sentence]
  for line in ranges:
    first, last = map(int, line.cells[conll.ID].split('-'))
    whole = slice(first - 1, last)
    forms = [x.cells[conll.FORM] for x in sentence[whole]]
    # Others are no parts of what is written, as in French "du" of "de le".
    if ''.join(forms) == line.cells[conll.FORM]:
      behind[whole] = [''] * (len(forms) - 1) + [space(line)]
  return behind
