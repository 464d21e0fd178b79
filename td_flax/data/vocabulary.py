"""What every tokenizer is: text to ids of 16 bits, five of them special."""

import abc
import array
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

import numpy as np

from td_flax import artifacts, config, errors

# Words whose ids a process remembers: about 100 MB.
_CACHED_WORDS = 2**19
_CACHED_WORD_CHARS = 64


@dataclasses.dataclass(frozen=True)
class SpecialIds:
  """The ids that mean something to the model rather than to a reader."""

  pad: int = 0
  unk: int = 1
  cls: int = 2
  sep: int = 3
  mask: int = 4

  def as_tuple(self) -> tuple[int, ...]:
    """In the order pad, unk, cls, sep, mask."""
    return dataclasses.astuple(self)


class SpecialPieces(NamedTuple):
  """How vocabularies write the special ids, in the order of `as_tuple`."""

  pad: str = '[PAD]'
  unk: str = '[UNK]'
  cls: str = '[CLS]'
  sep: str = '[SEP]'
  mask: str = '[MASK]'


PIECES = SpecialPieces()


class Tokenizer(abc.ABC):
  """Text to ids; no text, not even a literal '[CLS]', gives a special id.

  Does not pickle: another process loads it from its file.

  Attributes:
    file: the name of its file, the same for all of a kind.
    legend: how its pieces tell where words begin.
    model: the content of that file.
    fingerprint: a sha256 in hexadecimal; equal fingerprints, equal ids.
    vocab_size: number of pieces.
    special: the special ids.
  """

  file: ClassVar[str]
  legend: ClassVar[str]
  model: bytes
  fingerprint: str
  vocab_size: int
  special: SpecialIds

  @abc.abstractmethod
  def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
    """The ids of each text, uint16 and without special ids."""

  @abc.abstractmethod
  def encode_with_offsets(
    self, texts: list[str]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ids of each text, and where in it each of them stands.

    Returns:
      Ids as `encode_batch` gives them, and int32 [n, 2]: the first character
      and the one behind the last, without white space before it.
    """

  @abc.abstractmethod
  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; special ids leave nothing."""

  @abc.abstractmethod
  def piece(self, index: int) -> str:
    """How the vocabulary writes one id."""

  def save(self, directory: pathlib.Path) -> pathlib.Path:
    """Writes its file into `directory`, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / self.file
    artifacts.write_atomically(path, self.model)
    return path


def check_size(vocab_size: int, origin: str) -> None:
  """Refuses more pieces than ids of 16 bits.

  Raises:
    errors.DataError: names `origin`.
  """
  if vocab_size > config.MAX_VOCAB_SIZE:
    raise errors.DataError(
      f'{origin}: must have at most {config.MAX_VOCAB_SIZE:,} pieces, as '
      f'ids are stored in 16 bits; this model has {vocab_size:,}'
    )


def visible(offsets: list[tuple[int, int]], text: str) -> np.ndarray:
  """Offsets [n, 2], int32, less the white space that they begin with."""
  spans = np.array(offsets, np.int32).reshape(-1, 2)
  for span in spans:
    while span[0] < span[1] and text[span[0]].isspace():
      span[0] += 1
  return spans


def as_uint16(ids: list[int]) -> np.ndarray:
  """Ids as an array, several times as fast as `np.array`."""
  return np.frombuffer(array.array('H', ids), np.uint16)


class Words:
  """Encodes texts word by word and remembers the words.

  Tokenizers spend their time on words that they have seen before: this makes
  them several times as fast. For those only whose ids of a text are those of
  its words, put together.

  Args:
    encode: the ids of each of several words.
  """

  def __init__(self, encode: Callable[[list[str]], Iterable[list[int]]]):
    self._encode = encode
    self._cache: dict[str, bytes] = {'': b''}

  def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
    """The ids of each text, uint16."""
    split = [
      text.replace('\n', ' ').replace('\t', ' ').split(' ') for text in texts
    ]
    cache = self._cache
    new = list(set(itertools.chain.from_iterable(split)).difference(cache))
    found = zip(new, self._encode(new), strict=True)
    cache |= {word: array.array('H', ids).tobytes() for word, ids in found}
    encoded = [
      np.frombuffer(b''.join(map(cache.__getitem__, words)), np.uint16)
      for words in split
    ]
    for word in new:
      if len(word) > _CACHED_WORD_CHARS:
        del cache[word]
    if len(cache) > _CACHED_WORDS:  # forget the older half
      for word in list(itertools.islice(cache, 1, _CACHED_WORDS // 2)):
        del cache[word]
    return encoded
