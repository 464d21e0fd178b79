"""Our tokenizers as fast tokenizers of transformers: `tokenizer.json`.

A SentencePiece model's rules are translated: its normalization table, `▁` for
white space, bytes for unknown characters, and its BPE merges or unigram scores.
"""

import json
from typing import Any

import numpy as np

from td_flax import errors, extras
from td_flax.data.sentence_piece import SentencePiece
from td_flax.data.vocabulary import PIECES, Tokenizer

_SPACE = '\u2581'
_DELETED = '\x7f'
_NORMAL, _USER_DEFINED, _BYTE = 1, 4, 6  # SentencePiece's types of pieces
_UNIGRAM, _BPE = 1, 2  # and of models


def make(tokenizer: Tokenizer) -> Any:
  """A `tokenizers.Tokenizer` that gives the ids of `tokenizer`.

  Between `[CLS]` and `[SEP]`, with token type 1 for a second text. Other than
  ours, it takes a literal '[MASK]' in a text for the special piece, as
  transformers expects.

  Raises:
    errors.DataError: a SentencePiece model with rules that have no counterpart,
      or the extra `hf` is not installed.
  """
  library = _library()
  if isinstance(tokenizer, SentencePiece):
    fast = _from_sentence_piece(library, tokenizer)
  else:
    fast = library.Tokenizer.from_str(tokenizer.model.decode())
  fast.add_special_tokens(
    [library.AddedToken(x, normalized=False, special=True) for x in PIECES]
  )
  special = tokenizer.special
  fast.post_processor = library.processors.TemplateProcessing(
    single=f'{PIECES.cls} $A {PIECES.sep}',
    pair=f'{PIECES.cls} $A {PIECES.sep} $B:1 {PIECES.sep}:1',
    special_tokens=[(PIECES.cls, special.cls), (PIECES.sep, special.sep)],
  )
  return fast


def files(fast: Any, max_length: int, type_vocab_size: int) -> dict[str, str]:
  """What `AutoTokenizer` reads, by file name.

  Args:
    fast: from `make`.
    max_length: the most ids that the model takes.
    type_vocab_size: token types that it knows.
  """
  inputs = ['input_ids', 'token_type_ids', 'attention_mask']
  if type_vocab_size == 1:
    inputs.remove('token_type_ids')  # the second text of a pair would have 1
  pieces = {f'{name}_token': piece for name, piece in PIECES._asdict().items()}
  settings = pieces | {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'model_max_length': max_length,
    'model_input_names': inputs,
    'clean_up_tokenization_spaces': False,
  }
  return {
    'tokenizer.json': fast.to_str(),
    'tokenizer_config.json': json.dumps(settings, indent=2) + '\n',
    'special_tokens_map.json': json.dumps(pieces, indent=2) + '\n',
  }


def differing(
  tokenizer: Tokenizer, fast: Any, lines: list[str]
) -> list[tuple[str, list[int], list[int]]]:
  """Lines whose ids differ: the line, the ids, those of `fast`."""
  encoded = fast.encode_batch(lines, add_special_tokens=False)
  pairs = zip(lines, tokenizer.encode_batch(lines), encoded, strict=True)
  return [
    (line, ours.tolist(), theirs.ids)
    for line, ours, theirs in pairs
    if not np.array_equal(ours, theirs.ids)
  ]


def _from_sentence_piece(library: Any, tokenizer: SentencePiece) -> Any:
  from sentencepiece import sentencepiece_model_pb2

  model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model)
  _check(model)
  pieces = model.pieces
  has_bytes = any(piece.type == _BYTE for piece in pieces)
  if model.trainer_spec.model_type == _UNIGRAM:
    fast = library.Tokenizer(
      library.models.Unigram(
        [(piece.piece, piece.score) for piece in pieces],
        unk_id=tokenizer.special.unk,
        byte_fallback=has_bytes,
      )
    )
  else:
    fast = library.Tokenizer(
      library.models.BPE(
        vocab={piece.piece: i for i, piece in enumerate(pieces)},
        merges=_merges(pieces),
        unk_token=PIECES.unk,
        fuse_unk=True,
        byte_fallback=has_bytes,
      )
    )
  fast.normalizer = _normalizer(
    library, model.normalizer_spec.precompiled_charsmap
  )
  fast.pre_tokenizer = library.pre_tokenizers.Metaspace(
    _SPACE, prepend_scheme='first'
  )
  decoders = library.decoders
  fast.decoder = decoders.Sequence(
    [
      decoders.Replace(_SPACE, ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', left=1, right=0),
    ]
  )
  return fast


def _normalizer(library: Any, table: bytes) -> Any:
  """SentencePiece's normalization: its table, then its rules for spaces."""
  normalizers = library.normalizers
  steps = []
  if table:
    mapped = normalizers.Precompiled(table)
    deleted = [
      x
      for x in map(chr, range(1, 0xA0))
      if mapped.normalize_str(f'a{x}') == 'a'
    ]
    if _DELETED in deleted:
      # `Precompiled` maps the beginning of a base with its combining marks and
      # forgets the rest: what composes is composed, what does not is parted,
      # by a character that the table deletes. It deletes none that begins a
      # text, but there white space counts for nothing.
      first = ''.join(f'\\x{{{ord(x):x}}}' for x in deleted)
      marks = library.Regex(r'(?<=[\s\S])(?=\p{M})')
      steps = [
        normalizers.NFC(),
        normalizers.Replace(library.Regex(rf'\A[{first}]+'), ' '),
        normalizers.Replace(marks, _DELETED),
      ]
    steps.append(mapped)
  # Only what ends a text is cut: behind a [MASK] a space starts the next word.
  steps += [
    normalizers.Replace(library.Regex(' {2,}'), ' '),
    normalizers.Replace(library.Regex(r' +\z'), ''),
  ]
  return normalizers.Sequence(steps)


def _check(model: Any) -> None:
  """Refuses rules that a fast tokenizer would not follow."""
  normalizer, trainer = model.normalizer_spec, model.trainer_spec
  rules = {
    'must be a BPE or unigram model': trainer.model_type in (_BPE, _UNIGRAM),
    'must add a space before a text': normalizer.add_dummy_prefix,
    'must take runs of spaces as one': normalizer.remove_extra_whitespaces,
    'must write spaces as ▁': normalizer.escape_whitespaces,
    'must have ▁ in front of a word': not trainer.treat_whitespace_as_suffix,
    'must have no user-defined pieces': not any(
      piece.type == _USER_DEFINED for piece in model.pieces
    ),
  }
  for rule, holds in rules.items():
    if not holds:
      raise errors.DataError(f'tokenizer: cannot be exported: {rule}')


def _merges(pieces: Any) -> list[tuple[str, str]]:
  """Every way to put a piece together from two, the first pieces first."""
  ranks = {
    piece.piece: -piece.score for piece in pieces if piece.type == _NORMAL
  }
  found = []
  for piece, rank in ranks.items():
    for i in range(1, len(piece)):
      left, right = piece[:i], piece[i:]
      if left in ranks and right in ranks:
        found.append((rank, ranks[left], ranks[right], left, right))
  return [(left, right) for *_, left, right in sorted(found)]


def _library() -> Any:
  try:
    import tokenizers
  except ImportError:
    raise errors.DataError(
      f'a fast tokenizer needs {extras.missing("hf")}'
    ) from None
  return tokenizers
