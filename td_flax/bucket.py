"""Objects on gs:// as local files, without TensorFlow.

What is read from a bucket, packed data and models, is copied to a folder below
`$XDG_CACHE_HOME/td_flax/buckets`, one per machine; where a run writes, see
`mirror.py`. Needs the extra `gcs`.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from concurrent import futures

from td_flax import caches, errors, extras, layout, locks, progress

_SCHEME = 'gs://'
LEASE = 'lease.json'  # in a workdir: who writes there
_NUM_READERS = 8


def is_url(path: str) -> bool:
  """Whether a path names something in a bucket."""
  return path.startswith(_SCHEME)


def require_local(key: str, path: str) -> None:
  """Refuses a URL where only a local folder can be written.

  Args:
    key: what `path` was given as.
    path: a folder.

  Raises:
    errors.ConfigError: it is in a bucket.
  """
  if is_url(path):
    raise errors.ConfigError(
      f'{key}={path}: must be a local folder; copy it to the bucket when it is '
      'done: gcloud storage cp -r DIR gs://...'
    )


def dataset(url: str) -> pathlib.Path:
  """The local folder of a packed dataset, copied once per machine.

  Raises:
    errors.DataError: it is not there, or cannot be copied.
  """
  # Beside what is local of workdirs and models below the same URL.
  folder = local(url) / 'packed'
  problem = f'data.dir={url}: cannot be copied to {folder}'
  with clear_errors(problem, kind=errors.DataError), locked(folder):
    bucket = Bucket(url)
    sizes = bucket.sizes()
    if layout.MANIFEST not in sizes:
      raise errors.DataError(
        f'data.dir={url}: holds no packed dataset (no {layout.MANIFEST}); '
        'pack it with td_flax.tools.prepare in a local folder and copy that'
      )
    manifest = bucket.read(layout.MANIFEST)
    whole, begun = folder / layout.MANIFEST, folder / layout.COPYING
    if not _same(whole, manifest) and not _same(begun, manifest):
      shutil.rmtree(folder, ignore_errors=True)  # of another dataset
      folder.mkdir(parents=True)
      begun.write_bytes(manifest)
    # Not what only `prepare` needs, no run below; the manifest comes last.
    wanted = {
      name: size
      for name, size in sizes.items()
      if name.rpartition('/')[0] in ('', layout.TOKENIZER)
      and name != layout.MANIFEST
    }
    bucket.copy(folder, _missing(folder, wanted))
    if begun.exists():
      begun.replace(whole)
  return folder


def model(url: str) -> pathlib.Path:
  """A local copy of a workdir, of one of its checkpoints or of a Hub folder.

  Without the packed data of a workdir, and what a run did not write to its end.
  A checkpoint is copied once per machine: its record has a digest of each
  array, so that equal records mean equal arrays.

  Returns:
    What stands for `url`; does not exist where the bucket has nothing there.

  Raises:
    errors.CheckpointError: the bucket cannot be read.
  """
  root, step = url.rstrip('/'), None
  if re.search(r'/checkpoints/\d+$', root):
    root, _, step = root.rpartition('/checkpoints/')
  folder = local(root) / 'copy'

  def is_wanted(name: str) -> bool:
    if name == LEASE or name.startswith('data/'):
      return False
    return step is None or _step_of(name) in (None, f'checkpoints/{step}')

  with clear_errors(f'{url}: cannot be read'), locked(folder):
    bucket = Bucket(root)
    sizes = whole({k: x for k, x in bucket.sizes().items() if is_wanted(k)})
    _forget(folder, set(filter(is_wanted, files(folder))) - sizes.keys())
    for name in sizes:
      is_record = name.endswith(layout.RECORD)
      if is_record and not _same(folder / name, bucket.read(name)):
        shutil.rmtree(folder / _step_of(name), ignore_errors=True)
    arrays = {k: x for k, x in sizes.items() if _step_of(k)}
    others = {k: x for k, x in sizes.items() if not _step_of(k)}
    bucket.copy(folder, others | _missing(folder, arrays))
  return folder if step is None else folder / 'checkpoints' / step


def _forget(folder: pathlib.Path, names: set[str]) -> None:
  for name in names:
    (folder / name).unlink()
  for path in sorted(folder.rglob('*'), reverse=True):
    if path.is_dir():
      with contextlib.suppress(OSError):  # not empty
        path.rmdir()


def _missing(folder: pathlib.Path, sizes: dict[str, int]) -> dict[str, int]:
  return {x: size for x, size in sizes.items() if _size(folder / x) != size}


class Bucket:
  """The objects below a URL, by their path from there."""

  def __init__(self, url: str) -> None:
    self.url = url.rstrip('/')
    self._root = self.url.removeprefix(_SCHEME)
    if '/' not in self._root:
      raise errors.ConfigError(f'{url}: must be gs://BUCKET/PATH')
    # Ordinary buckets need none of it, and it warns where it may not ask.
    os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    try:
      import fsspec

      self._files = fsspec.filesystem('gs', use_listings_cache=False)
    except ImportError as error:
      raise errors.ConfigError(
        f'{url}: needs {extras.missing("gcs")}'
      ) from error

  def sizes(self) -> dict[str, int]:
    """Bytes by name."""
    found = {}
    with contextlib.suppress(FileNotFoundError):  # nothing was ever there
      found = self._files.find(self._root, detail=True)
    return {
      name.removeprefix(self._root + '/'): item['size']
      for name, item in found.items()
      if not name.endswith('/')  # made by the console, for a folder
    }

  def read(self, name: str) -> bytes:
    """An object's content."""
    return self._files.cat_file(f'{self._root}/{name}')

  def write(self, name: str, content: bytes) -> None:
    """Writes an object whole."""
    self._files.pipe_file(f'{self._root}/{name}', content)

  def get(self, name: str, path: pathlib.Path) -> None:
    """Copies an object to a file that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.tmp')
    self._files.get_file(f'{self._root}/{name}', str(part))
    part.replace(path)

  def copy(self, folder: pathlib.Path, sizes: dict[str, int]) -> None:
    """Copies objects to a folder.

    Args:
      folder: where.
      sizes: of these, their bytes by name.
    """
    if not sizes:
      return
    total = sum(sizes.values()) / 1e6
    progress.write_line(f'copying {total:,.1f} MB from {self.url} to {folder}')
    with futures.ThreadPoolExecutor(_NUM_READERS) as pool:
      for _ in pool.map(lambda name: self.get(name, folder / name), sizes):
        pass

  def put(self, path: pathlib.Path, name: str) -> None:
    """Copies a file to an object."""
    self._files.put_file(str(path), f'{self._root}/{name}')

  def delete(self, name: str) -> None:
    """Deletes an object that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
      self._files.rm_file(f'{self._root}/{name}')


@contextlib.contextmanager
def clear_errors(
  problem: str,
  more: str = '',
  kind: type[errors.UserError] = errors.CheckpointError,
) -> Iterator[None]:
  """Makes one line of what a client of a bucket raises.

  Raises:
    errors.UserError: of this kind: `problem`, the reason, `more`.
  """
  try:
    yield
  except errors.UserError:
    raise
  except Exception as error:  # whatever it is
    raise kind(f'{problem}: {errors.named(error, 300)}{more}') from error


def whole(sizes: dict[str, int]) -> dict[str, int]:
  """Without what a cut-off upload or deletion left: no checkpoint any more."""
  steps = {_step_of(name) for name in sizes}
  found = {x for x in steps if x is None or f'{x}/{layout.RECORD}' in sizes}
  return {k: size for k, size in sizes.items() if _step_of(k) in found}


def _step_of(name: str) -> str | None:
  """The folder of the checkpoint that an object belongs to."""
  parts = name.split('/')
  if 'checkpoints' not in parts[:-2]:
    return None
  return '/'.join(parts[: parts.index('checkpoints') + 2])


def local(url: str) -> pathlib.Path:
  """The folder for what is local of a URL."""
  return caches.folder('buckets') / url.removeprefix(_SCHEME)


@contextlib.contextmanager
def locked(
  folder: pathlib.Path, busy: errors.UserError | None = None
) -> Iterator[None]:
  """Keeps other processes of this machine out of a folder of `local`.

  Args:
    folder: need not exist.
    busy: raised where one of them is in there; None waits for it.

  Raises:
    OSError: the cache cannot be written.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  file = folder.with_name(folder.name + '.lock')
  advice = f'start no second command that uses {folder}'
  with locks.exclusive(file, advice, busy):
    yield


def files(folder: pathlib.Path) -> list[str]:
  """The files below, by their path from there."""
  return [
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_file()
  ]


def _same(path: pathlib.Path, content: bytes) -> bool:
  return path.exists() and path.read_bytes() == content


def _size(path: pathlib.Path) -> int | None:
  return path.stat().st_size if path.exists() else None
