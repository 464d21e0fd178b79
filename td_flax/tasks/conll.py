"""Files with a word a line: CoNLL-U's, and columns between white space.

CoNLL-U files (`.conllu`) hold the word in column 1 of ten; all others hold it
in column 0. A blank line ends a sentence.
"""

import pathlib
import re
from typing import NamedTuple

from td_flax import errors

# Columns of CoNLL-U, from 0: a word's number, itself, its class, notes on it.
ID, FORM, UPOS, MISC = 0, 1, 3, 9
NUM_COLUMNS = 10
_WORD = re.compile(r'[0-9]+')
_RANGE = re.compile(r'[0-9]+-[0-9]+')  # of words that are written as one
_EMPTY_NODE = re.compile(r'[0-9]+\.[0-9]+')
_BOM = '\ufeff'


class Line(NamedTuple):
  """A word's or a range's: its number in the file, its columns."""

  number: int
  cells: list[str]


class File(NamedTuple):
  """The lines of the words of every sentence.

  Attributes:
    path: as it was given.
    is_conllu: the name ends in `.conllu`.
    sentences: at least one, none of them empty.
    ranges: of every sentence, the lines of words that are written as one, such
      as `1-2  don't`.
  """

  path: str
  is_conllu: bool
  sentences: list[list[Line]]
  ranges: list[list[Line]]

  @property
  def word_column(self) -> int:
    """The column of the words."""
    return FORM if self.is_conllu else 0

  def words(self) -> list[list[str]]:
    """The words of every sentence."""
    return [
      [line.cells[self.word_column] for line in sentence]
      for sentence in self.sentences
    ]


def read(key: str, path: str) -> File:
  """The words' lines of a file, each with its columns.

  Args:
    key: the flag or the key of a config that names the file.
    path: of the file; `~` is the home.

  Raises:
    errors.ConfigError: no path is given, or the file cannot be read.
    errors.DataError: it holds no sentence or cannot be understood.
  """
  valid = (
    'the path of a .conllu file, or of one with a word and its label a line'
  )
  if not path:
    raise errors.ConfigError(f'{key}: missing; must be {valid}')
  try:
    content = pathlib.Path(path).expanduser().read_bytes()
  except OSError as error:
    raise errors.ConfigError(
      f'{key}={path!r}: must be {valid} ({error.strerror})'
    ) from error
  try:
    text = content.decode().removeprefix(_BOM)
  except UnicodeDecodeError as error:
    number = 1 + content.count(b'\n', 0, error.start)
    raise errors.DataError(
      f'{path}:{number}: byte 0x{content[error.start]:02x} is not UTF-8; '
      'convert the file, for example with `iconv -f WINDOWS-1252 -t UTF-8`'
    ) from None
  is_conllu = path.lower().endswith('.conllu')
  sentences, ranges = [[]], [[]]
  # Words may hold what `splitlines` takes for the end of a line, and what
  # `strip` takes for white space.
  for number, line in enumerate(text.split('\n'), 1):
    line = line.removesuffix('\r')
    if not line.strip(' \t'):
      if sentences[-1]:
        sentences.append([])
        ranges.append([])
    elif is_conllu:
      if cells := _conllu_cells(f'{path}:{number}', line):
        is_word = _WORD.fullmatch(cells[ID])
        (sentences if is_word else ranges)[-1].append(Line(number, cells))
    elif not line.startswith('-DOCSTART-'):
      cells = re.split(r'[ \t]+', line.strip(' \t'))
      sentences[-1].append(Line(number, cells))
  if not sentences[-1]:
    del sentences[-1], ranges[-1]
  if not sentences:
    raise errors.DataError(f'{path}: holds no sentence; must be {valid}')
  return File(path, is_conllu, sentences, ranges)


def _conllu_cells(where: str, line: str) -> list[str]:
  """The columns of a word or a range; none of any other line."""
  if line.startswith('#'):
    return []
  cells = line.split('\t')
  if len(cells) != NUM_COLUMNS or '' in cells:
    raise errors.DataError(
      f'{where}: must be {NUM_COLUMNS} columns between tabs, none of them '
      f'empty; this line has {len(cells) - cells.count("")}'
    )
  if _WORD.fullmatch(cells[ID]) or _RANGE.fullmatch(cells[ID]):
    return cells
  if not _EMPTY_NODE.fullmatch(cells[ID]):
    raise errors.DataError(
      f'{where}: must begin with the number of a word, such as 3, 3-4 or 5.1, '
      f'not with {cells[ID]!r}'
    )
  return []
