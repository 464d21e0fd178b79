"""A workdir on gs://: a local folder that the bucket is kept like.

A bucket has no locks, no renames and no appending, and objects appear whole. So
a run works in a folder on local disk, as ever, and process 0 keeps the bucket
like it: a changed file is written anew, a checkpoint's record after its arrays,
a deleted file is deleted. Every start begins with what the bucket holds, on all
hosts alike: what a lost machine had not written yet is lost.

    gs://BUCKET/RUN/...            as in `workdir.py`, without data/ and .lock
    gs://BUCKET/RUN/lease.json     who writes there; changes while it is alive
"""

import contextlib
import json
import pathlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator

from td_flax import bucket, errors, progress

_SECONDS_BETWEEN_WRITES = 10.0
# A lease that stays the same this long belongs to a run that is no more.
_LEASE_SECONDS = 45.0
_NOT_MIRRORED = ('.tmp', '.orbax-checkpoint-tmp', '.deleting')


@contextlib.contextmanager
def workdir(path: str) -> Iterator[pathlib.Path]:
  """The local folder of a workdir, kept the same as its bucket.

  Args:
    path: a local path, which is used as it is, or gs://BUCKET/RUN. All
      processes of a run enter this after they have joined.

  Raises:
    errors.CheckpointError: the bucket cannot be used, or another run uses it.
  """
  if not bucket.is_url(path):
    yield pathlib.Path(path)
    return
  import jax
  from jax.experimental import multihost_utils

  def wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(what)

  index = jax.process_index()
  folder = bucket.local(path) / f'process-{index}'
  with contextlib.ExitStack() as stack:
    stack.enter_context(bucket.locked(folder, wait=False))
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


class _Mirror:
  """A local folder and the bucket that is to hold the same."""

  def __init__(self, url: str, folder: pathlib.Path) -> None:
    self._bucket = bucket.Bucket(url)
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
        self._bucket.delete(bucket.LEASE)

  def pull(self) -> None:
    """Makes the local folder what the bucket holds."""
    with self._clear_errors():
      if self._folder.exists():
        for path in self._folder.iterdir():
          if path.is_dir() and path.name != 'data':
            shutil.rmtree(path)
          elif path.is_file():
            path.unlink()
      sizes = bucket.whole(self._bucket.sizes())
      sizes.pop(bucket.LEASE, None)
      self._folder.mkdir(parents=True, exist_ok=True)
      self._bucket.copy(self._folder, sizes)
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
            f'({bucket.one_line(error)}); training goes on, it is tried again'
          )
        self._is_failing = True

  def _push(self) -> None:
    names = sorted(filter(_is_mirrored, bucket.files(self._folder)), key=_order)
    for name in names:
      with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
        path = self._folder / name
        stamp = _stamp(path)
        if self._stamps.get(name) != stamp:
          self._bucket.put(path, name)
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
      return self._bucket.read(bucket.LEASE)
    except FileNotFoundError:
      return b''

  def _renew(self) -> None:
    content = {'owner': self._owner, 'time': time.time()}
    self._bucket.write(bucket.LEASE, json.dumps(content).encode())

  def _beat(self) -> None:
    while not self._released.wait(_LEASE_SECONDS / 4):
      with contextlib.suppress(Exception):  # `_push` says what is wrong
        self._renew()

  def _clear_errors(
    self, more: str = ''
  ) -> contextlib.AbstractContextManager[None]:
    return bucket.clear_errors(
      f'{self._bucket.url}: cannot be used as a workdir', more
    )


def _order(name: str) -> tuple[bool, bool, str]:
  """Rows of metrics before the checkpoints that say they are there."""
  return ('checkpoints/' in name, name.endswith(bucket.RECORD), name)


def _is_mirrored(name: str) -> bool:
  first = name.partition('/')[0]
  return first not in ('data', '.lock') and not any(
    mark in name for mark in _NOT_MIRRORED
  )


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_mtime_ns, status.st_size
