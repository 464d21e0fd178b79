"""Word classes of a CoNLL-U file, token by token of packed rows."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt16

from td_flax import errors
from td_flax.data.packing import Packer
from td_flax.data.vocabulary import SpecialIds, Tokenizer
from td_flax.tasks import tag

_FORM, _CLASS, _NOTES = 1, 3, 9  # of CoNLL-U's columns, from 0
_NO_SPACE = 'SpaceAfter=No'
_MARKS = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


class Words(NamedTuple):
  """Rows whose tokens belong to words of known classes.

  Attributes:
    rows: packed.
    classes: of each token, -1 for the special ones.
    names: of the classes.
  """

  rows: UInt16[np.ndarray, 'R N']
  classes: Int[np.ndarray, 'R N']
  names: list[str]


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
  file = tag.read('--conllu', path)
  text, starts, classes = '', [], []
  for sentence in file.sentences:
    for line in sentence:
      starts.append(len(text))
      classes.append(line.cells[_CLASS])
      glued = _NO_SPACE in line.cells[_NOTES].split('|')
      text += line.cells[_FORM] + ('' if glued else ' ')
  names = sorted(set(classes))
  numbers = np.array([names.index(x) for x in classes])
  ((ids, offsets),) = tokenizer.encode_with_offsets([text])
  words = np.searchsorted(starts, offsets[:, 0], side='right') - 1
  # Packed alike: ids, and classes, which begin behind the marks.
  behind = max(_MARKS.as_tuple()) + 1
  packed = []
  for values, special in (
    (ids, tokenizer.special),
    ((numbers[words] + behind).astype(np.uint16), _MARKS),
  ):
    packer = Packer(length, special)
    packer.add(values)
    packed.append(packer.finish())
  rows, marks = packed
  return Words(rows, np.maximum(marks.astype(int) - behind, -1), names)
