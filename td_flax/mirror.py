"""A workdir on gs://: a local folder that the bucket is kept like.

A bucket has no locks, no renames and no appending, and objects appear whole. So
a run works in a folder on local disk, as ever, and process 0 keeps the bucket
like it: a changed file is written anew, a checkpoint's record after its arrays,
a deleted file is deleted. Every start begins with what the bucket holds, on all
hosts alike: what a lost machine had not written yet is lost. What a machine
could not write, its next start writes before that.

    gs://BUCKET/RUN/...            as in `workdir.py`, without data/ and .lock
    gs://BUCKET/RUN/lease.json     who writes there; changes while it is alive

The lease is read before it is written, which a bucket does not do in one step:
two runs that start at once may both write until one of them renews it.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator

from td_flax import artifacts, bucket, errors, layout, progress

_SECONDS_BETWEEN_WRITES = 10.0
# A lease that stays the same this long belongs to a run that is no more.
_LEASE_SECONDS = 45.0
# Long enough for another start, which saw no lease either, to write its own.
_SECONDS_TO_SETTLE = 1.0
# What the bucket was last known to have; there while it lacks something.
_UNWRITTEN = '.unwritten.json'
_NOT_MIRRORED = ('.tmp', *layout.UNFINISHED)


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
    mirror = _Mirror(path, folder)
    busy = errors.CheckpointError(
      f'{folder}: another process is using this workdir'
    )
    with mirror.clear_errors():
      stack.enter_context(bucket.locked(folder, busy))
    if index == 0:
      stack.enter_context(mirror.holding())
      mirror.catch_up()
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
    with self.clear_errors():
      self._wait_for_lease()
      self._renew()
      time.sleep(_SECONDS_TO_SETTLE)
      if owner := self._other(self._lease()):
        raise self._in_use(owner)
    beat = threading.Thread(target=self._beat, daemon=True)
    beat.start()
    try:
      yield
    finally:
      self._released.set()
      beat.join()
      with contextlib.suppress(Exception):  # then the next run waits for it
        if not self._other(self._lease()):
          self._bucket.delete(bucket.LEASE)

  def catch_up(self) -> None:
    """Writes what an earlier run in the folder could not write.

    Raises:
      errors.CheckpointError: the bucket cannot be written, or holds what came
        from elsewhere since. The folder stays as it is.
    """
    marker = self._folder / _UNWRITTEN
    if not marker.exists():
      return
    with self.clear_errors(f'; all of it lies in {self._folder}'):
      known = json.loads(marker.read_bytes())
      self._stamps = {name: tuple(stamp) for name, stamp in known.items()}
      if self._is_changed():
        raise errors.CheckpointError(
          f'{self._bucket.url}: was changed from elsewhere, and lacks what '
          f'lies in {self._folder}; move that folder away to go on with the '
          'bucket'
        )
      self._push()
    progress.write_line(f'{self._bucket.url}: is up to date')

  def _is_changed(self) -> bool:
    """Whether the bucket holds something else than this folder put there."""
    sizes = self._held()
    for name in bucket.whole(sizes).keys() | self._stamps.keys():
      path = self._folder / name
      here = path.stat().st_size if path.exists() else None
      _, known = self._stamps.get(name, (0, None))
      # As it was, or as an attempt that seemed to fail has made it.
      if sizes.get(name) not in (known, here):
        return True
    return False

  def pull(self) -> None:
    """Makes the local folder what the bucket holds."""
    with self.clear_errors():
      if self._folder.exists():
        for path in self._folder.iterdir():
          if path.is_dir() and path.name != 'data':
            shutil.rmtree(path)
          elif path.is_file():
            path.unlink()
      sizes = bucket.whole(self._held())
      self._folder.mkdir(parents=True, exist_ok=True)
      self._bucket.copy(self._folder, sizes)
      self._stamps = {name: _stamp(self._folder / name) for name in sizes}

  def _held(self) -> dict[str, int]:
    """Bytes by name of what the bucket holds, but for what is not mirrored."""
    sizes = self._bucket.sizes()
    return {name: size for name, size in sizes.items() if _is_mirrored(name)}

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
      with self.clear_errors(
        f'; all of it lies in {self._folder}, and the same command on this '
        'machine writes it'
      ):
        self._push()
      progress.write_line(f'{self._bucket.url}: is up to date')

  def _push_until_ended(self) -> None:
    while not self._ended.wait(_SECONDS_BETWEEN_WRITES):
      try:
        self._push()
        self._is_failing = False
      except Exception as error:  # any kind: a network never ends the training
        if not self._is_failing:  # one line, not one per attempt
          progress.write_line(
            f'warning: {self._bucket.url}: cannot be written '
            f'({errors.named(error, 300)}); training goes on, it is tried again'
          )
        self._is_failing = True

  def _push(self) -> None:
    """Makes the bucket what the folder is; remembers where it cannot."""
    if not self._folder.is_dir():  # then all of the bucket would count as gone
      raise errors.CheckpointError(
        f'{self._folder}: is gone; {self._bucket.url} stays as it is'
      )
    marker = self._folder / _UNWRITTEN
    try:
      self._write_changes()
    except Exception:
      artifacts.write_json(marker, self._stamps)
      raise
    marker.unlink(missing_ok=True)

  def _write_changes(self) -> None:
    self._end_if_taken()
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
    owner = self._other(seen)
    if not owner:
      return
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
        raise self._in_use(owner)

  def _in_use(self, owner: str) -> errors.CheckpointError:
    return errors.CheckpointError(
      f'{self._bucket.url}: another run is using this workdir ({owner})'
    )

  def _lease(self) -> bytes:
    try:
      return self._bucket.read(bucket.LEASE)
    except FileNotFoundError:
      return b''

  def _other(self, lease: bytes) -> str:
    """Who else a lease belongs to; '' if it is ours, or there is none."""
    owner = json.loads(lease)['owner'] if lease else self._owner
    return '' if owner == self._owner else owner

  def _renew(self) -> None:
    content = {'owner': self._owner, 'time': time.time()}
    self._bucket.write(bucket.LEASE, json.dumps(content).encode())

  def _beat(self) -> None:
    while not self._released.wait(_LEASE_SECONDS / 4):
      with contextlib.suppress(Exception):  # `_push` says what is wrong
        self._end_if_taken()
        self._renew()

  def _end_if_taken(self) -> None:
    """Ends the process where another run holds the lease."""
    if owner := self._other(self._lease()):
      # Not an exception: at its end the main thread would write once more.
      line = f'error: {self._in_use(owner)}\n'
      os.write(sys.__stderr__.fileno(), line.encode())
      os._exit(errors.CheckpointError.exit_code)

  def clear_errors(
    self, more: str = ''
  ) -> contextlib.AbstractContextManager[None]:
    """Makes one line of what prevents work in the folder or the bucket."""
    return bucket.clear_errors(
      f'{self._bucket.url}: cannot be used as a workdir', more
    )


def _order(name: str) -> tuple[bool, bool, str]:
  """Rows of metrics before the checkpoints that say they are there."""
  return ('checkpoints/' in name, name.endswith(layout.RECORD), name)


def _is_mirrored(name: str) -> bool:
  first = name.partition('/')[0]
  return first not in ('data', '.lock', _UNWRITTEN, bucket.LEASE) and not any(
    mark in name for mark in _NOT_MIRRORED
  )


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_mtime_ns, status.st_size
