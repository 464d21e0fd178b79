"""WordPiece with BERT's own rules, through the library `tokenizers`.

Text is cleaned, Chinese characters become words, case and accents are folded
where the vocabulary wants that, words end at white space and around
punctuation, and the longest pieces that fit are taken (Devlin et al. 2019).
"""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from td_flax import artifacts, errors, extras
from td_flax.data import vocabulary
from td_flax.data.vocabulary import PIECES, SpecialIds

VOCAB = 'vocab.txt'
_CONFIG = 'tokenizer_config.json'
_PREFIX = '##'  # of a piece that continues a word
_MAX_WORD_CHARS = 100
# transformers' tokenizers of these rules, and what `hub.fast_tokenizer` writes.
_FOLLOW_CONFIG = 'BertTokenizer', 'BertTokenizerFast'
_CLASSES = *_FOLLOW_CONFIG, 'PreTrainedTokenizerFast'
_OPTIONS = {
  'lowercase': 'do_lower_case',
  'strip_accents': 'strip_accents',
  'chinese_words': 'tokenize_chinese_chars',
}


class WordPiece(vocabulary.Tokenizer):
  """A WordPiece vocabulary that has BERT's five special pieces.

  Args:
    pieces: the vocabulary in the order of its ids.
    origin: where it comes from, for error messages.
    lowercase: whether upper and lower case are folded into one.
    strip_accents: whether accents are taken off; None does with `lowercase`.
    chinese_words: whether every Chinese character is a word.
    max_word_chars: longer words are unknown.

  Raises:
    errors.DataError: a piece occurs twice, a special one is missing, there
      are more than ids of 16 bits, or `tokenizers` is not installed.
  """

  file = 'tokenizer.json'
  legend = '## continues a word'

  def __init__(
    self,
    pieces: list[str],
    origin: str,
    *,
    lowercase: bool,
    strip_accents: bool | None = None,
    chinese_words: bool = True,
    max_word_chars: int = _MAX_WORD_CHARS,
  ) -> None:
    ids = {piece: i for i, piece in enumerate(pieces)}
    if len(ids) < len(pieces):
      twice = next(x for i, x in enumerate(pieces) if ids[x] != i)
      raise errors.DataError(f'{origin}: the piece {twice!r} occurs twice')
    for piece in PIECES:
      if piece not in ids:
        raise errors.DataError(
          f'{origin}: must have the pieces {", ".join(PIECES)}; '
          f'{piece} is missing'
        )
    vocabulary.check_size(len(pieces), origin)
    strip_accents = lowercase if strip_accents is None else strip_accents
    self.lowercase = lowercase
    self.strip_accents = strip_accents
    self.chinese_words = chinese_words
    self.vocab_size = len(pieces)
    self.special = SpecialIds(*(ids[piece] for piece in PIECES))
    self.fingerprint = artifacts.fingerprint(
      {
        'kind': 'wordpiece',
        'pieces': pieces,
        'lowercase': lowercase,
        'strip_accents': strip_accents,
        'chinese_words': chinese_words,
        'max_word_chars': max_word_chars,
      }
    )
    tokenizers = _library(origin)
    # No special piece is announced, so that none is found in text.
    self._tokenizer = tokenizers.Tokenizer(
      tokenizers.models.WordPiece(
        ids,
        unk_token=PIECES.unk,
        continuing_subword_prefix=_PREFIX,
        max_input_chars_per_word=max_word_chars,
      )
    )
    self._tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
      lowercase=lowercase,
      strip_accents=strip_accents,
      handle_chinese_chars=chinese_words,
    )
    self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    self._tokenizer.decoder = tokenizers.decoders.WordPiece(
      _PREFIX, cleanup=False
    )
    self.model = self._tokenizer.to_str().encode()
    self._words = vocabulary.Words(self._encode)

  @classmethod
  def from_vocab(
    cls, content: bytes, origin: str, **options: Any
  ) -> 'WordPiece':
    """From `vocab.txt`, a piece a line; `options` are those of the class.

    Raises:
      errors.DataError: it cannot be used.
    """
    try:
      # Pieces may hold what `splitlines` takes for the end of a line.
      lines = content.decode().removesuffix('\n').split('\n')
    except UnicodeDecodeError as error:
      raise errors.DataError(f'{origin}: is not UTF-8 ({error})') from None
    pieces = [line.removesuffix('\r') for line in lines]
    return cls(pieces, origin, **options)

  @classmethod
  def from_json(cls, content: bytes, origin: str) -> 'WordPiece':
    """From a `tokenizer.json` of `tokenizers` with BERT's rules.

    Raises:
      errors.DataError: it is damaged, another kind of tokenizer, or has other
        rules.
    """
    try:
      saved = json.loads(content)
      model, normalizer = saved['model'], saved['normalizer'] or {}
      rules = [
        model.get('type'),
        normalizer.get('type'),
        (saved['pre_tokenizer'] or {}).get('type'),
        normalizer.get('clean_text'),
        model.get('continuing_subword_prefix'),
        model.get('unk_token'),
      ]
      wanted = 'WordPiece', 'BertNormalizer', 'BertPreTokenizer', True
      if rules != [*wanted, _PREFIX, PIECES.unk]:
        raise errors.DataError(
          f"{origin}: must be WordPiece with BERT's normalizer and "
          f'pre-tokenizer; this one has {rules[0]}, {rules[1]} and {rules[2]}'
        )
      ids = dict(model['vocab'])
      added = {x['content']: x['id'] for x in saved.get('added_tokens', [])}
      pieces = sorted(ids, key=ids.__getitem__)
      if [ids[x] for x in pieces] != list(range(len(ids))):
        raise errors.DataError(f'{origin}: its ids are not 0, 1, 2, ...')
      for piece, index in added.items():
        if ids.get(piece) != index:
          raise errors.DataError(
            f'{origin}: {piece!r} was added behind the vocabulary, which is '
            'not supported'
          )
      options = {
        'lowercase': normalizer['lowercase'],
        'strip_accents': normalizer['strip_accents'],
        'chinese_words': normalizer['handle_chinese_chars'],
        'max_word_chars': model['max_input_chars_per_word'],
      }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise errors.DataError(
        f'{origin}: must be a tokenizer.json; this file cannot be read as one '
        f'({type(error).__name__}: {error})'
      ) from None
    return cls(pieces, origin, **options)

  def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
    """The ids of each text, uint16 and without special ids."""
    return self._words.encode_batch(texts)

  def encode_with_offsets(
    self, texts: list[str]
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ids of each text, and where in it each of them stands."""
    found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
    return [
      (vocabulary.as_uint16(x.ids), vocabulary.visible(x.offsets, text))
      for x, text in zip(found, texts, strict=True)
    ]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`, as far as the vocabulary kept it."""
    special = set(self.special.as_tuple()) - {self.special.unk}
    return self._tokenizer.decode([int(x) for x in ids if x not in special])

  def piece(self, index: int) -> str:
    """How the vocabulary writes one id; `##` continues a word."""
    return self._tokenizer.id_to_token(int(index))

  def _encode(self, words: list[str]) -> Iterator[list[int]]:
    # The ids of a text are those of its words: every rule looks at a character,
    # or at a word, which ends at white space.
    encoded = self._tokenizer.encode_batch_fast(words, add_special_tokens=False)
    return (x.ids for x in encoded)


def options_of(
  folder: pathlib.Path, *, lowercase: bool | None
) -> dict[str, Any]:
  """The rules of a `vocab.txt`, by the `tokenizer_config.json` beside it.

  Args:
    folder: of both.
    lowercase: whether case is folded where nothing is said.

  Returns:
    Options of a `WordPiece`.

  Raises:
    errors.DataError: it is damaged, or of another kind of tokenizer.
  """
  saved = _settings(folder)
  kind = saved.get('tokenizer_class', _CLASSES[0])
  if kind not in _CLASSES:
    raise errors.DataError(
      f'{folder / _CONFIG}: tokenizer_class={kind!r}: must be one of '
      f'{", ".join(_CLASSES)}'
    )
  options = {'lowercase': lowercase}
  for option, key in _OPTIONS.items():
    if key in saved:
      options[option] = saved[key]
  return options


def check_options(folder: pathlib.Path, found: WordPiece) -> None:
  """Refuses a `tokenizer.json` with rules that transformers would not follow.

  Its `BertTokenizer` follows `tokenizer_config.json`, with defaults for what is
  left out there; its other classes follow `tokenizer.json`.

  Args:
    folder: of both.
    found: the tokenizer of `tokenizer.json`.

  Raises:
    errors.DataError: the two differ, or `tokenizer_config.json` is damaged.
  """
  saved = _settings(folder)
  kind = saved.get('tokenizer_class')
  if kind in _FOLLOW_CONFIG:
    saved = {'do_lower_case': True, 'tokenize_chinese_chars': True} | saved
    saved.setdefault('strip_accents', saved['do_lower_case'])
  elif kind is not None:
    return
  for option, key in _OPTIONS.items():
    if key in saved and saved[key] != getattr(found, option):
      there = json.dumps(getattr(found, option))
      raise errors.DataError(
        f'{folder / _CONFIG}: {key} is {json.dumps(saved[key])}, if only by '
        f'default, but {WordPiece.file} has {there}; transformers follows the '
        'former: make the two agree'
      )


def _settings(folder: pathlib.Path) -> dict[str, Any]:
  """What `tokenizer_config.json` says, but for what it leaves open."""
  path = folder / _CONFIG
  if not path.exists():
    return {}
  try:
    saved = json.loads(path.read_bytes())
    saved = {key: x for key, x in saved.items() if x is not None}
  except (OSError, ValueError, AttributeError) as error:
    raise errors.DataError(f'{path}: cannot be read ({error})') from None
  for key in _OPTIONS.values():
    if not isinstance(saved.get(key, True), bool):
      raise errors.DataError(
        f'{path}: {key}={saved[key]!r}: must be true or false'
      )
  return saved


def _library(origin: str) -> Any:
  # The pool of workers has a process per core already.
  os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
  try:
    import tokenizers
  except ImportError:
    raise errors.DataError(
      f'{origin}: WordPiece needs {extras.missing("hf")}'
    ) from None
  return tokenizers
