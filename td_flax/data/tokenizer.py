"""A path becomes a tokenizer: SentencePiece, or BERT's WordPiece."""

import os
import pathlib

from td_flax import errors
from td_flax.data import vocabulary, word_piece
from td_flax.data.sentence_piece import SentencePiece
from td_flax.data.word_piece import WordPiece

TRAINED_KINDS = ('bpe', 'unigram')
# In a folder of several, the first of these is taken: of a folder that we
# exported, the SentencePiece model itself. Two are transformers' names for one.
FILES = (
  SentencePiece.file,
  'spiece.model',
  'sentencepiece.bpe.model',
  WordPiece.file,
  word_piece.VOCAB,
)
_VALID = (
  f'one of {", ".join(TRAINED_KINDS)} or the path of a SentencePiece model '
  '(.model), a WordPiece vocab.txt or tokenizer.json, or a folder with one'
)


def load(
  path: str | os.PathLike[str],
  key: str = 'data.tokenizer',
  *,
  lowercase: bool = True,
) -> vocabulary.Tokenizer:
  """Reads a tokenizer.

  Args:
    path: a `.model`, a `tokenizer.json`, a `vocab.txt`, or a folder that holds
      one of them.
    key: the config key that errors name; '' where the path is no value of one.
    lowercase: whether a `vocab.txt` folds case, where no
      `tokenizer_config.json` beside it says so.

  Raises:
    errors.ConfigError: there is no such file, or it cannot be read.
    errors.DataError: it is not a usable tokenizer.
  """
  origin = f'{key}={str(path)!r}' if key else str(path)
  path = pathlib.Path(path)
  try:
    if path.is_dir():
      path = find(path) or path / SentencePiece.file
    content = path.read_bytes()
  except OSError as error:
    raise errors.ConfigError(
      f'{origin}: must be {_VALID} ({error.strerror})'
    ) from error
  if path.suffix == '.txt':
    options = word_piece.options_of(path.parent, lowercase=lowercase)
    return WordPiece.from_vocab(content, origin, **options)
  loaded = parse(path.name, content, origin)
  if isinstance(loaded, WordPiece):
    word_piece.check_options(path.parent, loaded)
  return loaded


def parse(name: str, content: bytes, origin: str) -> vocabulary.Tokenizer:
  """The tokenizer in a file's content.

  Args:
    name: of the file: `.json` is WordPiece, anything else SentencePiece.
    content: of the file.
    origin: the file, for error messages.

  Raises:
    errors.DataError: it is not a usable tokenizer.
  """
  if name.endswith('.json'):
    return WordPiece.from_json(content, origin)
  return SentencePiece(content, origin)


def save(made: vocabulary.Tokenizer, folder: pathlib.Path) -> None:
  """Makes it the tokenizer of `folder`, which need not exist.

  Any other, such as one of a start that was killed, goes.

  Raises:
    OSError: for example a full disk.
  """
  for name in FILES:
    if name != made.file:
      (folder / name).unlink(missing_ok=True)
  made.save(folder)


def find(folder: pathlib.Path) -> pathlib.Path | None:
  """The file of the tokenizer in `folder`, None where there is none."""
  present = [folder / name for name in FILES if (folder / name).is_file()]
  return present[0] if present else None
