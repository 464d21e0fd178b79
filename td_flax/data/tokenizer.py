"""SentencePiece as BERT's tokenizer: train, load, encode, fingerprint.

Ids 0 to 4 of a trained model are [PAD] [UNK] [CLS] [SEP] [MASK]. They are
control symbols: no text, not even a literal '[CLS]', is encoded to one of them.
Characters that the training text lacked become bytes, so that nothing is lost.
"""

import array
import dataclasses
import functools
import hashlib
import io
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
import sentencepiece

from td_flax import artifacts, config, errors

FILE = 'tokenizer.model'
TRAINED_KINDS = ('bpe', 'unigram')

# What a sentence may have at most while training. SentencePiece drops longer
# ones without a word, so they are cut; a character has 4 bytes at most.
_SENTENCE_CHARS = 1024
_SENTENCE_BYTES = 4 * _SENTENCE_CHARS
# The sums of unigram training are split over threads: their number, and not
# that of the machine's cores, must decide about the last bit.
_TRAINING_THREADS = 16
# Words whose ids a process remembers: about 100 MB.
_CACHED_WORDS = 2**19
_CACHED_WORD_CHARS = 64
# SentencePiece counts levels up to 4, fatal; errors arrive as exceptions.
_SILENT = 4


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


_PIECES = SpecialIds('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')


class Tokenizer:
  """A SentencePiece model that has BERT's five special pieces.

  Does not pickle: another process loads it from its file.

  Args:
    model: the bytes of a `.model` file.
    origin: where they come from, for error messages.

  Attributes:
    model: the same bytes.
    fingerprint: their sha256 in hexadecimal.
    vocab_size: number of pieces.
    special: the special ids.

  Raises:
    errors.DataError: not a model, a special piece is missing or can be written
      in text, or more pieces than ids of 16 bits.
  """

  def __init__(self, model: bytes, origin: str) -> None:
    self.model = model
    self.fingerprint = hashlib.sha256(model).hexdigest()
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(model)
    except RuntimeError:
      raise errors.DataError(
        f'{origin}: must be a SentencePiece model; this file cannot be read '
        'as one'
      ) from None
    self.vocab_size = self._processor.get_piece_size()
    if self.vocab_size > config.MAX_VOCAB_SIZE:
      raise errors.DataError(
        f'{origin}: must have at most {config.MAX_VOCAB_SIZE:,} pieces, as '
        f'ids are stored in 16 bits; this model has {self.vocab_size:,}'
      )
    self.special = self._find_special(origin)
    self._cache: dict[str, bytes] = {'': b''}

  def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
    """The ids of each text, uint16 and without special ids."""
    if self._encodes_by_word:
      return self._encode_words(texts)
    encoded = self._processor.encode(texts, num_threads=1)
    return [_as_uint16(ids) for ids in encoded]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; special ids leave nothing."""
    return self._processor.decode([int(x) for x in ids])

  def piece(self, index: int) -> str:
    """How the vocabulary writes one id; `▁` starts a word."""
    return self._processor.id_to_piece(int(index))

  def save(self, directory: pathlib.Path) -> pathlib.Path:
    """Writes `tokenizer.model` into `directory`, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE
    artifacts.write_atomically(path, self.model)
    return path

  def _find_special(self, origin: str) -> SpecialIds:
    ids = {}
    for name, piece in dataclasses.asdict(_PIECES).items():
      index = self._processor.piece_to_id(piece)
      if self._processor.id_to_piece(index) != piece:
        raise errors.DataError(
          f'{origin}: must have the pieces '
          f'{", ".join(_PIECES.as_tuple())}; {piece} is missing'
        )
      is_right = (
        self._processor.is_unknown(index)
        if name == 'unk'
        else self._processor.is_control(index)
      )
      if not is_right:
        kind = 'the unknown piece' if name == 'unk' else 'a control symbol'
        raise errors.DataError(
          f'{origin}: {piece} must be {kind}, so that no text contains it'
        )
      ids[name] = index
    return SpecialIds(**ids)

  @functools.cached_property
  def _encodes_by_word(self) -> bool:
    """Whether a text's ids are those of its words, put together.

    True if white space separates words, runs of it count once, no piece reaches
    across it, and scores are whole numbers: the ranks of BPE's merges. Unigram
    models add up fractions over the whole text, and rounding decides near ties.
    """
    encode, word_start = self._processor.encode, '\u2581'
    return all(
      self._processor.get_score(index).is_integer()
      and word_start not in self.piece(index)[1:]
      for index in range(self.vocab_size)
    ) and all(
      encode(text) == encode('a') + encode('a')
      for text in ('a a', 'a  a', 'a\na', 'a\ta', ' a a ')
    )

  def _encode_words(self, texts: list[str]) -> list[np.ndarray]:
    # SentencePiece's BPE spends its time on words that it has seen before:
    # remembering them makes it several times as fast.
    split = [
      text.replace('\n', ' ').replace('\t', ' ').split(' ') for text in texts
    ]
    cache = self._cache
    new = list(set(itertools.chain.from_iterable(split)).difference(cache))
    ids = self._processor.encode(new, num_threads=1)
    found = {
      word: array.array('H', x).tobytes() for word, x in zip(new, ids, strict=1)
    }
    cache |= found
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


def load(
  path: str | os.PathLike[str], key: str = 'data.tokenizer'
) -> Tokenizer:
  """Reads a `.model` file.

  Args:
    path: the file.
    key: the config key that errors name.

  Raises:
    errors.ConfigError: there is no such file, or it cannot be read.
    errors.DataError: it is not a usable model.
  """
  origin = f'{key}={str(path)!r}'
  try:
    model = pathlib.Path(path).read_bytes()
  except OSError as error:
    raise errors.ConfigError(
      f'{origin}: must be one of {", ".join(TRAINED_KINDS)} or the path of a '
      f'SentencePiece model ({error.strerror})'
    ) from error
  return Tokenizer(model, origin)


def train(
  texts: Iterable[str], *, kind: str, vocab_size: int, lowercase: bool
) -> Tokenizer:
  """Trains a tokenizer; the same texts in the same order give the same bytes.

  Args:
    texts: the documents, each of any length.
    kind: `bpe` or `unigram`.
    vocab_size: number of pieces, the 5 special ones and the 256 bytes included.
    lowercase: whether upper and lower case are folded into one.

  Raises:
    errors.ConfigError: the texts allow no vocabulary of this size.
    errors.DataError: the texts are empty.
  """
  raised: list[BaseException] = []
  sentences = _recorded(_sentences(texts), raised)
  first = next(sentences, None)
  if first is None:
    raise _no_text()
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=itertools.chain([first], sentences),
      model_writer=model,
      model_type=kind,
      vocab_size=vocab_size,
      normalization_rule_name='nmt_nfkc_cf' if lowercase else 'nmt_nfkc',
      byte_fallback=True,
      pad_id=0,
      unk_id=1,
      bos_id=2,
      eos_id=3,
      pad_piece=_PIECES.pad,
      unk_piece=_PIECES.unk,
      bos_piece=_PIECES.cls,
      eos_piece=_PIECES.sep,
      control_symbols=[_PIECES.mask],  # takes the next free id, 4
      max_sentence_length=_SENTENCE_BYTES,
      # Sampling and shuffling inside SentencePiece differ between processes.
      input_sentence_size=0,
      shuffle_input_sentence=False,
      num_threads=_TRAINING_THREADS,
      minloglevel=_SILENT,
    )
  except RuntimeError as error:
    if raised:  # by the texts, such as Ctrl-C: SentencePiece makes it its own
      raise raised[0] from None
    raise _training_error(vocab_size, str(error)) from error
  return Tokenizer(model.getvalue(), f'data.tokenizer={kind!r}')


def _recorded(
  items: Iterator[str], raised: list[BaseException]
) -> Iterator[str]:
  """The same items; what they raise is also put into `raised`."""
  try:
    yield from items
  except BaseException as error:
    raised.append(error)
    raise


def _sentences(texts: Iterable[str]) -> Iterator[str]:
  """Lines, cut at white space where they are too long."""
  for text in texts:
    for line in text.split('\n'):
      start = 0
      while len(line) - start > _SENTENCE_CHARS:
        stop = start + _SENTENCE_CHARS
        space = line.rfind(' ', start + 1, stop)
        stop = space if space > 0 else stop
        yield line[start:stop]
        start = stop
      if line[start:].strip():
        yield line[start:]


def _training_error(vocab_size: int, message: str) -> errors.UserError:
  key = f'data.vocab_size={vocab_size}'
  if found := re.search(r'value <= (\d+)', message):
    return errors.ConfigError(
      f'{key}: too large for this text; the largest possible is {found[1]}'
    )
  if found := re.search(r'required_chars\. \d+ vs (\d+)', message):
    return errors.ConfigError(
      f'{key}: too small for the characters of this text; the smallest '
      f'possible is {found[1]}'
    )
  if 'all_chars_count' in message:
    return _no_text()
  return errors.DataError(
    f'data.files: SentencePiece cannot be trained on this text: {message}'
  )


def _no_text() -> errors.DataError:
  return errors.DataError(
    'data.files: no text to train a tokenizer on: every document is empty'
  )


def _as_uint16(ids: list[int]) -> np.ndarray:
  return np.frombuffer(array.array('H', ids), np.uint16)
