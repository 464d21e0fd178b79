"""SentencePiece as BERT's tokenizer: train, load, encode, fingerprint.

Ids 0 to 4 of a trained model are [PAD] [UNK] [CLS] [SEP] [MASK]. They are
control symbols: no text, not even a literal '[CLS]', is encoded to one of them.
Characters that the training text lacked become bytes, so that nothing is lost.
"""

import functools
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator

import numpy as np
import sentencepiece

from td_flax import errors
from td_flax.data import vocabulary
from td_flax.data.vocabulary import PIECES, SpecialIds

# What a sentence may have at most while training. SentencePiece drops longer
# ones without a word, so they are cut; a character has 4 bytes at most.
_SENTENCE_CHARS = 1024
_SENTENCE_BYTES = 4 * _SENTENCE_CHARS
# The sums of unigram training are split over threads: their number, and not
# that of the machine's cores, must decide about the last bit.
_TRAINING_THREADS = 16
# SentencePiece counts levels up to 4, fatal; errors arrive as exceptions.
_SILENT = 4


class SentencePiece(vocabulary.Tokenizer):
  """A SentencePiece model that has BERT's five special pieces.

  Its fingerprint is the sha256 of its file.

  Args:
    model: the bytes of a `.model` file.
    origin: where they come from, for error messages.

  Raises:
    errors.DataError: not a model, a special piece is missing or can be written
      in text, or more pieces than ids of 16 bits.
  """

  file = 'tokenizer.model'
  legend = '▁ begins a word'

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
    vocabulary.check_size(self.vocab_size, origin)
    self.special = self._find_special(origin)

  def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
    """The ids of each text, uint16 and without special ids."""
    if self._words is not None:
      return self._words.encode_batch(texts)
    return [vocabulary.as_uint16(ids) for ids in self._encode(texts)]

  def encode_with_offsets(
    self, texts: list[str]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ids of each text, and where in it each of them stands."""
    found = self._processor.encode(
      texts, return_type='offset_mapping', num_threads=1
    )
    return [
      (
        vocabulary.as_uint16(x['ids']),
        vocabulary.visible(x['offsets'], text),
      )
      for x, text in zip(found, texts, strict=True)
    ]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`; special ids leave nothing."""
    return self._processor.decode([int(x) for x in ids])

  def piece(self, index: int) -> str:
    """How the vocabulary writes one id; `▁` starts a word."""
    return self._processor.id_to_piece(int(index))

  def _encode(self, texts: list[str]) -> list[list[int]]:
    return self._processor.encode(texts, num_threads=1)

  def _find_special(self, origin: str) -> SpecialIds:
    ids = {}
    for name, piece in PIECES._asdict().items():
      index = self._processor.piece_to_id(piece)
      if self._processor.id_to_piece(index) != piece:
        raise errors.DataError(
          f'{origin}: must have the pieces {", ".join(PIECES)}; '
          f'{piece} is missing'
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
  def _words(self) -> vocabulary.Words | None:
    """For models whose ids of a text are those of its words, put together.

    So they are if white space separates words, runs of it count once, no piece
    reaches across it, and scores are whole numbers: the ranks of BPE's merges.
    Unigram models add up fractions over the whole text, and rounding decides
    near ties.
    """
    encode, word_start = self._processor.encode, '\u2581'
    by_word = all(
      self._processor.get_score(index).is_integer()
      and word_start not in self.piece(index)[1:]
      for index in range(self.vocab_size)
    ) and all(
      encode(text) == encode('a') + encode('a')
      for text in ('a a', 'a  a', 'a\na', 'a\ta', ' a a ')
    )
    return vocabulary.Words(self._encode) if by_word else None


def train(
  texts: Iterable[str], *, kind: str, vocab_size: int, lowercase: bool
) -> SentencePiece:
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
      pad_piece=PIECES.pad,
      unk_piece=PIECES.unk,
      bos_piece=PIECES.cls,
      eos_piece=PIECES.sep,
      control_symbols=[PIECES.mask],  # takes the next free id, 4
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
  return SentencePiece(model.getvalue(), f'data.tokenizer={kind!r}')


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
