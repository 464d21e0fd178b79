"""Tensors of transformers and parameters of ours: names, shapes, files."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from td_flax import artifacts, errors, extras, leaves, progress
from td_flax.config import ModelConfig
from td_flax.hub import architecture
from td_flax.model.bert import padded_vocab
from td_flax.model.task_model import SPAN

SAFE = 'model.safetensors'
_TORCH = 'pytorch_model.bin'
_ENCODER = ('embeddings.', 'encoder.')
_HEAD = 'cls.predictions'
_WORDS = 'bert.embeddings.word_embeddings.weight'
_DECODER = f'{_HEAD}.decoder.weight'
# Buffers, and copies of other tensors.
_REDUNDANT = {'bert.embeddings.position_ids', f'{_HEAD}.decoder.bias'}


class Name(NamedTuple):
  """One parameter.

  Attributes:
    ours: its path.
    theirs: its name in transformers.
    is_kernel: [in, out] here, [out, in] there.
    is_vocab: padded here in its first dimension, not there.
  """

  ours: str
  theirs: str
  is_kernel: bool = False
  is_vocab: bool = False


def names(model: ModelConfig, reads: str | None = None) -> Iterator[Name]:
  """Every parameter of a model.

  Args:
    model: its encoder.
    reads: what the head of a task reads; None is the masked-LM head.
  """

  def dense(ours: str, theirs: str) -> Iterator[Name]:
    yield Name(f'{ours}/kernel', f'{theirs}.weight', is_kernel=True)
    yield Name(f'{ours}/bias', f'{theirs}.bias')

  def norm(ours: str, theirs: str) -> Iterator[Name]:
    yield Name(f'{ours}/scale', f'{theirs}.weight')
    yield Name(f'{ours}/bias', f'{theirs}.bias')

  pre = model.norm == 'pre'
  embeddings = 'bert.embeddings'
  yield Name('embeddings/word/embedding', _WORDS, is_vocab=True)
  yield Name(
    'embeddings/position/embedding', f'{embeddings}.position_embeddings.weight'
  )
  yield Name(
    'embeddings/type/embedding', f'{embeddings}.token_type_embeddings.weight'
  )
  if pre:
    yield from norm('norm', 'bert.encoder.ln')
  else:
    yield from norm('embeddings/norm', f'{embeddings}.LayerNorm')
  for i in range(model.num_layers):
    ours, theirs = f'layers/{i}', f'bert.encoder.layer.{i}'
    attention = f'{theirs}.attention'
    for part in ('query', 'key', 'value'):
      yield from dense(f'{ours}/attention/{part}', f'{attention}.self.{part}')
    yield from dense(f'{ours}/attention/output', f'{attention}.output.dense')
    yield from dense(f'{ours}/mlp/inner', f'{theirs}.intermediate.dense')
    yield from dense(f'{ours}/mlp/outer', f'{theirs}.output.dense')
    first = f'{attention}.ln' if pre else f'{attention}.output.LayerNorm'
    second = f'{theirs}.ln' if pre else f'{theirs}.output.LayerNorm'
    yield from norm(f'{ours}/attention_norm', first)
    yield from norm(f'{ours}/mlp_norm', second)
  if reads is None:
    yield from dense('head/dense', f'{_HEAD}.transform.dense')
    yield from norm('head/norm', f'{_HEAD}.transform.LayerNorm')
    yield Name('head/bias', f'{_HEAD}.bias', is_vocab=True)
  else:
    yield from dense(
      'classifier', 'qa_outputs' if reads == SPAN else 'classifier'
    )
  if model.pooler:
    yield from dense('pooler', 'bert.pooler.dense')


def to_tensors(
  params: Any, model: ModelConfig, vocab_size: int, reads: str | None = None
) -> dict[str, np.ndarray]:
  """Our parameters under transformers' names, without padding.

  Args:
    params: of a model, all of them.
    model: its encoder.
    vocab_size: ids of the tokenizer.
    reads: what the head of a task reads; None is the masked-LM head.

  Raises:
    ValueError: a parameter has no name in transformers.
  """
  arrays = leaves.to_host(params)
  tensors = {}
  for name in names(model, reads):
    array = arrays.pop(name.ours)
    array = array.T if name.is_kernel else array
    array = array[:vocab_size] if name.is_vocab else array
    tensors[name.theirs] = np.ascontiguousarray(array)
  if arrays:
    raise ValueError(f'no name in transformers: {sorted(arrays)}')
  return tensors


def fill(
  initial: Any,
  model: ModelConfig,
  vocab_size: int,
  folder: pathlib.Path,
  reads: str | None = None,
) -> Any:
  """`initial` with the tensors of a folder; says what is missing there.

  Args:
    initial: the parameters of a fresh model on an `Encoder`; what the folder
      lacks of its heads and its pooler stays as it is.
    model: what they are parameters of.
    vocab_size: ids of the tokenizer, not more than the folder has rows.
    folder: of transformers.
    reads: of the task's head that is wanted too; None wants none.

  Returns:
    `initial` with numpy leaves, float32.

  Raises:
    errors.CheckpointError: a file is missing or damaged, a tensor is missing,
      has another shape, or has no place here.
  """
  arrays = leaves.to_host(initial)
  rows = architecture.vocab_size(folder)
  model = dataclasses.replace(model, pooler='pooler/kernel' in arrays)
  tensors = _own_names(read(folder))
  decoder = tensors.pop(_DECODER, None)
  words = tensors.get(_WORDS)
  if 'head/bias' not in arrays:
    decoder = None  # of no use here
  if decoder is not None and not np.array_equal(decoder, words):
    raise errors.CheckpointError(
      f'{folder}: {_DECODER} differs from {_WORDS}: the two must be tied'
    )
  absent: dict[str, list[str]] = {}
  for name in names(model, reads):
    if name.ours not in arrays:  # the head, of a model of a task
      continue
    if name.theirs not in tensors:
      absent.setdefault(name.ours.partition('/')[0], []).append(name.theirs)
      continue
    tensor = tensors.pop(name.theirs).astype(np.float32)
    array = tensor.T if name.is_kernel else tensor
    if name.is_vocab:
      if len(array) != rows:
        raise errors.CheckpointError(
          f'{folder}: {name.theirs} has {len(array):,} rows, but '
          f'{architecture.FILE} has vocab_size={rows:,}'
        )
      array = _padded(array, vocab_size)
    if array.shape != arrays[name.ours].shape:
      raise errors.CheckpointError(
        f'{folder}: {name.theirs} has the shape {list(tensor.shape)}, which '
        f"does not fit the folder's config.json"
      )
    arrays[name.ours] = np.ascontiguousarray(array)
  _report(folder, names(model, reads), absent, tensors)
  return leaves.fit(arrays, jax.eval_shape(lambda: initial), origin=folder)


def check_head(folder: pathlib.Path) -> None:
  """Refuses a folder without a masked-LM head.

  Raises:
    errors.CheckpointError: it has none, or cannot be read.
  """
  if not any(name.startswith(_HEAD) for name in read(folder)):
    raise errors.CheckpointError(
      f'{folder}: has no masked-LM head ({_HEAD}.*), so it cannot be scored; '
      'pretrain it further, or fine-tune it'
    )


def _padded(array: np.ndarray, vocab_size: int) -> np.ndarray:
  # Rows behind the tokenizer's last id are padding: no text leads to them.
  padding = padded_vocab(vocab_size) - vocab_size
  array = array[:vocab_size]
  return np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))


def _report(
  folder: pathlib.Path,
  wanted: Iterator[Name],
  absent: dict[str, list[str]],
  left: dict[str, np.ndarray],
) -> None:
  """Warns of what may be missing or left; refuses what may not."""
  counts: dict[str, int] = {}
  for name in wanted:
    part = name.ours.partition('/')[0]
    counts[part] = counts.get(part, 0) + 1
  for part, missing in absent.items():
    if part not in ('head', 'pooler') or len(missing) < counts[part]:
      raise errors.CheckpointError(f'{folder}: {missing[0]} is missing')
    what = 'masked-LM head' if part == 'head' else 'pooler'
    progress.write_line(
      f'warning: {folder}: has no {what}; it starts at random'
    )
  encoder = tuple(f'bert.{x}' for x in _ENCODER)
  for name in left:
    if name.startswith(encoder):
      raise errors.CheckpointError(
        f'{folder}: {name} has no place in the architecture that its '
        'config.json names'
      )
  if left:
    parts = sorted({'.'.join(name.split('.')[:2]) for name in left})
    progress.write_line(
      f'{folder}: left out, as nothing here uses them: {", ".join(parts)}'
    )


def _own_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """One spelling: with `bert.`, and norms of old as `weight` and `bias`."""
  renamed = {}
  for name, tensor in tensors.items():
    if name.startswith((*_ENCODER, 'pooler.')):
      name = f'bert.{name}'
    name = re.sub(r'LayerNorm\.gamma$', 'LayerNorm.weight', name)
    name = re.sub(r'LayerNorm\.beta$', 'LayerNorm.bias', name)
    if name not in _REDUNDANT:
      renamed[name] = tensor
  return renamed


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of a folder, from safetensors if there are any.

  Raises:
    errors.CheckpointError: there are none, a file is missing or damaged, or
      PyTorch's format is there and PyTorch is not.
  """
  tensors: dict[str, np.ndarray] = {}
  for path in _files(folder):
    tensors |= _read(path)
  return tensors


def fingerprint(folder: pathlib.Path) -> str:
  """A digest of the files that `read` reads.

  Raises:
    errors.CheckpointError: there are none, or a file is missing.
  """
  return artifacts.fingerprint(
    {path.name: artifacts.file_sha256(path) for path in _files(folder)}
  )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  for file in (SAFE, _TORCH):
    if (folder / file).exists():
      return [folder / file]
    index = folder / f'{file}.index.json'
    if index.exists():
      paths = [folder / part for part in _parts(index)]
      if missing := [path for path in paths if not path.exists()]:
        raise errors.CheckpointError(
          f'{missing[0]}: missing; the folder is half-copied'
        )
      return paths
  raise errors.CheckpointError(
    f'{folder}: holds no weights: neither {SAFE} nor {_TORCH}'
  )


def _parts(index: pathlib.Path) -> list[str]:
  """The files that an index names."""
  try:
    return sorted(set(json.loads(index.read_bytes())['weight_map'].values()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.CheckpointError(f'{index}: damaged ({error})') from error


def write(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  """Writes a safetensors file.

  Raises:
    errors.CheckpointError: the extra `hf` is not installed.
  """
  # transformers asks who wrote a file; torch's layout is numpy's.
  content = _safetensors(path).save(tensors, metadata={'format': 'pt'})
  path.write_bytes(content)  # `save_file` lets nobody else read it


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  if path.suffix != '.bin':
    load = _safetensors(path).load_file
  else:
    load = _torch_loader(path)
  try:
    return load(path)
  except Exception as error:  # whatever the libraries make of damaged files
    reason = errors.one_line(error, 300)
    raise errors.CheckpointError(f'{path}: cannot be read: {reason}') from error


def _safetensors(path: pathlib.Path) -> Any:
  try:
    import safetensors.numpy
  except ImportError:
    raise errors.CheckpointError(
      f'{path}: needs {extras.missing("hf")}'
    ) from None
  return safetensors.numpy


def _torch_loader(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError:
    raise errors.CheckpointError(
      f"{path}: is in PyTorch's format, which needs PyTorch: pip install torch"
    ) from None

  def load(path: pathlib.Path) -> dict[str, np.ndarray]:
    tensors = torch.load(path, map_location='cpu', weights_only=True)
    return {
      name: (x.float() if x.is_floating_point() else x).numpy()
      for name, x in tensors.items()
    }

  return load
