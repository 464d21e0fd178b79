"""A checkpoint becomes a folder that `transformers` loads, or nothing.

config.json              the architecture
model.safetensors        the weights, float32
tokenizer.json, ...      the tokenizer, as a fast one
tokenizer.model          the same for SentencePiece, as it was trained
README.md                the model card: what was trained, and how it went
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from td_flax import errors, leaves
from td_flax.config import ModelConfig
from td_flax.data import embedded
from td_flax.data.sentence_piece import SentencePiece
from td_flax.data.vocabulary import Tokenizer
from td_flax.hub import architecture, card, fast_tokenizer, weights
from td_flax.model.task_model import FIRST

# Lines of prose on which the two tokenizers are compared.
_COMPARED_LINES = 2000


class Exported(NamedTuple):
  """What an export was checked for.

  Attributes:
    num_lines: lines that both tokenizers encoded.
    differing: those whose ids differ: the line, our ids, theirs.
    num_params: parameters written.
  """

  num_lines: int
  differing: list[tuple[str, list[int], list[int]]]
  num_params: int


def export(
  folder: pathlib.Path,
  model: ModelConfig,
  params: Any,
  tokenizer: Tokenizer,
  run: card.Run,
  head: architecture.Head | None = None,
) -> Exported:
  """Writes `folder`, reads it again and compares every bit.

  The pooler of a masked-LM model is left out: pretraining does not train it,
  and such a model of transformers has none.

  Args:
    folder: must not exist, or be empty.
    model: what `params` are parameters of.
    params: of a `Bert`, or of the `TaskModel` with this head.
    tokenizer: what makes its ids.
    run: for the model card.
    head: of a fine-tuned model; None is the masked-LM head.

  Raises:
    errors.ConfigError: `folder` holds something, or one that is needed beside
      it is there already.
    errors.DataError: the tokenizer has no counterpart, or the extra `hf` is not
      installed.
    errors.CheckpointError: the folder cannot be written.
  """
  check_folder(folder)
  vocab_size = tokenizer.vocab_size
  fast = fast_tokenizer.make(tokenizer)
  lines = list(_lines())
  differing = fast_tokenizer.differing(tokenizer, fast, lines)
  arrays = leaves.to_host(params)
  reads = head.output.reads if head else None
  if reads is None:
    arrays = {k: v for k, v in arrays.items() if not k.startswith('pooler/')}
  model = dataclasses.replace(model, pooler=reads == FIRST)
  tensors = weights.to_tensors(arrays, model, vocab_size, reads)
  num_params = sum(x.size for x in tensors.values())
  files = fast_tokenizer.files(
    fast, model.max_positions, model.type_vocab_size
  ) | {
    architecture.FILE: _json(
      architecture.describe(model, vocab_size, tokenizer.special, head)
    ),
    'README.md': card.write(run, model, tokenizer, num_params, head),
  }
  with _whole(folder) as part:
    weights.write(part / weights.SAFE, tensors)
    for name, text in files.items():
      (part / name).write_text(text, encoding='utf-8')
    if isinstance(tokenizer, SentencePiece):
      tokenizer.save(part)
    _verify(part, model, arrays, vocab_size, reads)
  return Exported(len(lines), differing, num_params)


def _verify(
  folder: pathlib.Path,
  model: ModelConfig,
  arrays: dict[str, np.ndarray],
  vocab_size: int,
  reads: str | None,
) -> None:
  """Refuses a folder that would not give the same parameters back."""
  empty = jax.tree.map(np.zeros_like, arrays)
  back = weights.fill(empty, model, vocab_size, folder, reads)
  for name, array in arrays.items():
    if array.tobytes() != back[name].tobytes():
      raise errors.CheckpointError(
        f'{folder}: {name} is another one when it is read again; nothing was '
        'exported'
      )


def _lines() -> Iterator[str]:
  """Lines of the prose that comes with Python."""
  blocks = embedded.EmbeddedSource('embedded', None).blocks()
  lines = (
    line
    for block in blocks
    for text in block.documents()
    for line in text.split('\n')
    if line.strip()
  )
  return itertools.islice(lines, _COMPARED_LINES)


def check_folder(folder: pathlib.Path) -> None:
  """Refuses a folder that cannot be written from nothing to the end.

  Raises:
    errors.ConfigError: it holds something, or the one that it is written as
      is there already.
  """
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise errors.ConfigError(
      f'--output={str(folder)!r}: exists; name a new folder'
    )
  part = _part(folder.resolve())
  if part.exists():
    raise errors.ConfigError(
      f'--output={str(folder)!r}: is written as {part}, which exists; delete '
      'that if an export was killed, or name another folder'
    )


def _part(folder: pathlib.Path) -> pathlib.Path:
  """What an unfinished folder is called."""
  return folder.with_name(f'{folder.name}.tmp')


@contextlib.contextmanager
def _whole(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to write into, which becomes `folder` when all went well."""
  folder = folder.resolve()
  part = _part(folder)
  try:
    part.mkdir(parents=True)
    yield part
    part.replace(folder)
  except OSError as error:
    raise errors.CheckpointError(
      f'{folder}: cannot be written: {error.strerror or error}'
    ) from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _json(content: Any) -> str:
  return json.dumps(content, indent=2) + '\n'
