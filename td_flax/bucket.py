"""Workdirs and packed data on gs://, without TensorFlow.

A bucket has no locks, no renames and no appending, and objects appear whole. So
a run works in a folder on local disk, as ever, and process 0 keeps the bucket
like it: a changed file is written anew, a checkpoint's record after its arrays,
a deleted file is deleted. Every start begins with what the bucket holds, on all
hosts alike: what a lost machine had not written yet is lost.

    gs://BUCKET/RUN/...            as in `workdir.py`, without data/ and .lock
    gs://BUCKET/RUN/lease.json     who writes there; changes while it is alive

Local folders lie under `$XDG_CACHE_HOME/td_flax/buckets`; one per process for a
workdir, one per machine for packed data. Needs the extra `gcs`.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures

from td_flax import errors, progress

_SCHEME = 'gs://'
_LEASE = 'lease.json'
_SECONDS_BETWEEN_WRITES = 10.0
# A lease that stays the same this long belongs to a run that is no more.
_LEASE_SECONDS = 45.0
_RECORD = 'record/record.json'  # as in `checkpoint.py`: makes one complete
_NOT_MIRRORED = ('.tmp', '.orbax-checkpoint-tmp', '.deleting')
_NUM_READERS = 8


def is_url(path: str) -> bool:
  """Whether a path names something in a bucket."""
  return path.startswith(_SCHEME)


@contextlib.contextmanager
def workdir(path: str) -> Iterator[pathlib.Path]:
  """The local folder of a workdir, kept the same as its bucket.

  Args:
    path: a local path, which is used as it is, or gs://BUCKET/RUN. All
      processes of a run enter this after they have joined.

  Raises:
    errors.CheckpointError: the bucket cannot be used, or another run uses it.
  """
  if not is_url(path):
    yield pathlib.Path(path)
    return
  import jax
  from jax.experimental import multihost_utils

  def wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(what)

  index = jax.process_index()
  folder = _local(path) / f'process-{index}'
  with contextlib.ExitStack() as stack:
    stack.enter_context(_locked(folder, wait=False))
    mirror = _Mirror(path, folder)
    if index == 0:
      stack.enter_context(mirror.holding())
    wait_for_all('the bucket is ours')
    mirror.pull()
    wait_for_all('the bucket was read')  # before anybody changes it
    if index == 0:
      progress.write_line(f'{path}: worked on in {folder}')
      stack.enter_context(mirror.pushing())
    yield folder


def dataset(url: str) -> pathlib.Path:
  """The local folder of a packed dataset, copied once per machine.

  Raises:
    errors.DataError: it is not there, or cannot be copied.
  """
  folder = _local(url)
  with _locked(folder, wait=True):
    try:
      bucket = _Bucket(url)
      sizes = bucket.sizes()
      if 'manifest.json' not in sizes:
        raise errors.DataError(
          f'data.dir={url}: holds no packed dataset (no manifest.json); '
          'pack it with td_flax.tools.prepare in a local folder and copy that'
        )
      manifest = bucket.read('manifest.json')
      if not _same(folder / 'manifest.json', manifest):
        shutil.rmtree(folder, ignore_errors=True)  # of another dataset
      # What only `prepare` needs stays there; the manifest comes last.
      wanted = {
        name: size
        for name, size in sizes.items()
        if not name.startswith('blocks/') and name != 'manifest.json'
      }
      _copy(bucket, folder, wanted)
      (folder / 'manifest.json').write_bytes(manifest)
    except errors.UserError:
      raise
    except Exception as error:  # whatever a client of a bucket raises
      raise errors.DataError(
        f'data.dir={url}: cannot be copied to {folder}: {_one_line(error)}'
      ) from error
  return folder


def _copy(
  bucket: '_Bucket', folder: pathlib.Path, sizes: dict[str, int]
) -> None:
  missing = [x for x, size in sizes.items() if _size(folder / x) != size]
  total = sum(sizes[name] for name in missing) / 1e6
  if not missing:
    return
  progress.write_line(f'copying {total:,.1f} MB from {bucket.url} to {folder}')
  with futures.ThreadPoolExecutor(_NUM_READERS) as pool:
    for _ in pool.map(lambda name: bucket.get(name, folder / name), missing):
      pass


class _Bucket:
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
        f"{url}: needs the extra `gcs`: pip install 'td_flax[gcs]'"
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

  def put(self, path: pathlib.Path, name: str) -> None:
    """Copies a file to an object."""
    self._files.put_file(str(path), f'{self._root}/{name}')

  def delete(self, name: str) -> None:
    """Deletes an object that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
      self._files.rm_file(f'{self._root}/{name}')


class _Mirror:
  """A local folder and the bucket that is to hold the same."""

  def __init__(self, url: str, folder: pathlib.Path) -> None:
    self._bucket = _Bucket(url)
    self._folder = folder
    self._stamps: dict[str, tuple[int, int]] = {}  # of what the bucket has
    self._ended = threading.Event()  # the work
    self._released = threading.Event()  # the lease
    self._is_failing = False
    self._owner = f'{socket.gethostname()}:{folder}'

  @contextlib.contextmanager
  def holding(self) -> Iterator[None]:
    """Holds the bucket's lease; refuses one that another run holds."""
    with self._clear_errors():
      self._wait_for_lease()
      self._renew()
    beat = threading.Thread(target=self._beat, daemon=True)
    beat.start()
    try:
      yield
    finally:
      self._released.set()
      beat.join()
      with contextlib.suppress(Exception):  # then the next run waits for it
        self._bucket.delete(_LEASE)

  def pull(self) -> None:
    """Makes the local folder what the bucket holds."""
    with self._clear_errors():
      if self._folder.exists():
        for path in self._folder.iterdir():
          if path.is_dir() and path.name != 'data':
            shutil.rmtree(path)
          elif path.is_file():
            path.unlink()
      sizes = self._bucket.sizes()
      sizes.pop(_LEASE, None)
      # An upload that was cut off, or a deletion: no checkpoint any more.
      steps = {_step_of(name) for name in sizes}
      whole = {x for x in steps if x is None or f'{x}/{_RECORD}' in sizes}
      sizes = {k: v for k, v in sizes.items() if _step_of(k) in whole}
      self._folder.mkdir(parents=True, exist_ok=True)
      _copy(self._bucket, self._folder, sizes)
      self._stamps = {name: _stamp(self._folder / name) for name in sizes}

  @contextlib.contextmanager
  def pushing(self) -> Iterator[None]:
    """Writes what changes to the bucket, now and then and at the end."""
    thread = threading.Thread(target=self._push_until_ended, daemon=True)
    thread.start()
    try:
      yield
    finally:
      self._ended.set()
      thread.join()
      with self._clear_errors(f'; all of it lies in {self._folder}'):
        self._push()
      progress.write_line(f'{self._bucket.url}: holds all of it')

  def _push_until_ended(self) -> None:
    while not self._ended.wait(_SECONDS_BETWEEN_WRITES):
      try:
        self._push()
        self._is_failing = False
      except Exception as error:  # any kind: a network never ends the training
        if not self._is_failing:  # one line, not one per attempt
          progress.write_line(
            f'warning: {self._bucket.url}: cannot be written '
            f'({_one_line(error)}); training goes on, it is tried again'
          )
        self._is_failing = True

  def _push(self) -> None:
    files = {
      str(path.relative_to(self._folder)): path
      for path in self._folder.rglob('*')
      if path.is_file()
    }
    names = sorted(filter(_is_mirrored, files), key=_order)
    for name in names:
      with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
        stamp = _stamp(files[name])
        if self._stamps.get(name) != stamp:
          self._bucket.put(files[name], name)
          self._stamps[name] = stamp
    gone = sorted(self._stamps.keys() - set(names), key=_order, reverse=True)
    for name in gone:
      self._bucket.delete(name)
      del self._stamps[name]

  def _wait_for_lease(self) -> None:
    """Returns once nobody else holds the lease."""
    seen = self._lease()
    if not seen or json.loads(seen)['owner'] == self._owner:
      return
    owner = json.loads(seen)['owner']
    progress.write_line(
      f'{self._bucket.url}: was used by {owner}; waiting '
      f'{_LEASE_SECONDS:g} seconds to see whether it still is'
    )
    deadline = time.monotonic() + _LEASE_SECONDS
    while time.monotonic() < deadline:
      time.sleep(1)
      now = self._lease()
      if not now:
        return
      if now != seen:
        raise errors.CheckpointError(
          f'{self._bucket.url}: another run is using this workdir ({owner})'
        )

  def _lease(self) -> bytes:
    try:
      return self._bucket.read(_LEASE)
    except FileNotFoundError:
      return b''

  def _renew(self) -> None:
    content = {'owner': self._owner, 'time': time.time()}
    self._bucket.write(_LEASE, json.dumps(content).encode())

  def _beat(self) -> None:
    while not self._released.wait(_LEASE_SECONDS / 4):
      with contextlib.suppress(Exception):  # `_push` says what is wrong
        self._renew()

  @contextlib.contextmanager
  def _clear_errors(self, more: str = '') -> Iterator[None]:
    try:
      yield
    except errors.UserError:
      raise
    except Exception as error:  # whatever a client of a bucket raises
      raise errors.CheckpointError(
        f'{self._bucket.url}: cannot be used as a workdir: '
        f'{_one_line(error)}{more}'
      ) from error


def _order(name: str) -> tuple[bool, bool, str]:
  """Rows of metrics before the checkpoints that say they are there."""
  return ('checkpoints/' in name, name.endswith(_RECORD), name)


def _is_mirrored(name: str) -> bool:
  first = name.partition('/')[0]
  return first not in ('data', '.lock') and not any(
    mark in name for mark in _NOT_MIRRORED
  )


def _step_of(name: str) -> str | None:
  """The folder of the checkpoint that an object belongs to."""
  parts = name.split('/')
  if 'checkpoints' not in parts[:-2]:
    return None
  return '/'.join(parts[: parts.index('checkpoints') + 2])


def _local(url: str) -> pathlib.Path:
  caches = os.environ.get('XDG_CACHE_HOME', '')
  root = caches if os.path.isabs(caches) else pathlib.Path.home() / '.cache'
  return pathlib.Path(root, 'td_flax/buckets', url.removeprefix(_SCHEME))


@contextlib.contextmanager
def _locked(folder: pathlib.Path, *, wait: bool) -> Iterator[None]:
  """Keeps other processes of this machine out."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with folder.with_name(folder.name + '.lock').open('ab') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
      raise errors.CheckpointError(
        f'{folder}: another process is using this workdir'
      ) from error
    yield


def _same(path: pathlib.Path, content: bytes) -> bool:
  return path.exists() and path.read_bytes() == content


def _size(path: pathlib.Path) -> int | None:
  return path.stat().st_size if path.exists() else None


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_mtime_ns, status.st_size


def _one_line(error: Exception) -> str:
  text = ' '.join(str(error).split()) or 'no reason given'
  return f'{type(error).__name__}: {text}'[:300]
