"""Files that appear whole or not at all, their checksums, and fingerprints."""

import functools
import hashlib
import io
import json
import os
import pathlib
import tempfile
from concurrent import futures
from typing import Any

import numpy as np

from td_flax import errors, progress

# From here on, reading takes long enough for a bar.
_BYTES_WORTH_A_BAR = 256 * 10**6
_NUM_READERS = 8


def fingerprint(content: Any) -> str:
  """The sha256, in hexadecimal, of JSON content in canonical form."""
  canonical = json.dumps(
    content, sort_keys=True, separators=(',', ':'), allow_nan=False
  )
  return hashlib.sha256(canonical.encode()).hexdigest()


def write_atomically(
  path: pathlib.Path, content: bytes | np.ndarray
) -> dict[str, Any]:
  """Writes a file so that it appears whole or not at all.

  Args:
    path: the file.
    content: its bytes, or an array to be written as a .npy file.

  Returns:
    What a manifest says about the file: its `bytes` and `sha256`.

  Raises:
    OSError: for example a full disk; `path` is as it was before.
  """
  if isinstance(content, np.ndarray):
    buffer = io.BytesIO()
    np.save(buffer, content, allow_pickle=False)
    content = buffer.getbuffer()
  part = path.with_name(f'{path.name}.tmp')
  try:
    with part.open('wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    part.replace(path)
  except OSError as error:
    part.unlink(missing_ok=True)  # gives a full disk its room back
    # Errors of writing, unlike those of opening, name no file.
    raise OSError(error.errno, error.strerror, str(path)) from error
  sha256 = hashlib.sha256(content).hexdigest()
  return {'bytes': len(content), 'sha256': sha256}


def write_json(path: pathlib.Path, content: Any, **options: Any) -> None:
  """Writes JSON for people and programs, whole or not at all.

  Args:
    path: the file.
    content: what JSON can hold; NaN too.
    options: more of `json.dumps`.

  Raises:
    OSError: for example a full disk; `path` is as it was before.
  """
  text = json.dumps(content, indent=1, **options) + '\n'
  write_atomically(path, text.encode())


def file_sha256(path: pathlib.Path) -> str:
  """The sha256 of a file's content, in hexadecimal."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def require_writable(key: str, folder: str | os.PathLike[str]) -> None:
  """Refuses a folder that files cannot be written into; leaves nothing there.

  Args:
    key: what `folder` was given as.
    folder: need not exist.

  Raises:
    errors.ConfigError: it, or what is there of the folders above it, is no
      folder that can be written.
  """
  path = pathlib.Path(folder).absolute()
  try:
    there = next(x for x in (path, *path.parents) if x.exists())
    with tempfile.TemporaryFile(dir=there):
      pass
  except OSError as error:
    raise errors.ConfigError(
      f'{key}={str(folder)!r}: cannot be written ({error.strerror})'
    ) from error


def verify(directory: pathlib.Path, items: list[dict[str, Any]]) -> None:
  """Compares files, a few at once, with what a manifest says about them.

  Args:
    directory: where they lie.
    items: `file`, `bytes` and `sha256` of each.

  Raises:
    errors.DataError: a file is missing, truncated or damaged.
  """
  total = sum(item['bytes'] for item in items)
  with futures.ThreadPoolExecutor(_NUM_READERS) as pool:
    problems = pool.map(functools.partial(_problem, directory), items)
    if total < _BYTES_WORTH_A_BAR:
      _raise_first(directory, items, problems, update=lambda n: None)
      return
    with progress.Progress(total / 1e6, 'verifying', 'MB') as bar:
      _raise_first(directory, items, problems, update=bar.update)


def _raise_first(
  directory: pathlib.Path, items: list[Any], problems: Any, update: Any
) -> None:
  for item, problem in zip(items, problems, strict=True):
    if problem:
      raise errors.DataError(
        f'{directory / item["file"]}: {problem}; delete this file and run the '
        'same command again: only what belongs to it is made anew'
      )
    update(item['bytes'] / 1e6)


def _problem(directory: pathlib.Path, item: dict[str, Any]) -> str:
  path = directory / item['file']
  try:
    size = path.stat().st_size
    if size != item['bytes']:
      return f'has {size:,} bytes instead of {item["bytes"]:,}'
    digest = file_sha256(path)
  except OSError as error:
    return f'cannot be read ({error.strerror})'
  return '' if digest == item['sha256'] else 'damaged (its sha256 differs)'
