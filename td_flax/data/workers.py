"""A pool of worker processes that reads no further ahead than it needs."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import process
from typing import Any

from td_flax import errors, signals

# One that is worked on and one that waits.
_TASKS_PER_WORKER = 2


class Runner:
  """Runs tasks in a pool with a bounded number of them under way."""

  def __init__(self, pool: futures.Executor, in_flight: int) -> None:
    self._pool = pool
    self._in_flight = in_flight

  def __call__(
    self, function: Callable, tasks: Iterable[tuple[Any, tuple]]
  ) -> Iterator[tuple[Any, Any]]:
    """Yields `(label, function(*arguments))` as they come.

    Args:
      function: what a worker calls.
      tasks: `(label, arguments)`; drawn only when a task can be started, so
        that the text of a few blocks is held and no more.
    """
    labels: dict[futures.Future, Any] = {}
    tasks = iter(tasks)
    while True:
      while len(labels) < self._in_flight and (task := next(tasks, None)):
        label, arguments = task
        labels[self._pool.submit(function, *arguments)] = label
      if not labels:
        return
      done, _ = futures.wait(labels, return_when=futures.FIRST_COMPLETED)
      for future in done:
        yield labels.pop(future), future.result()


def core_numbers() -> list[int]:
  """The cores this process may use, ascending; none where macOS tells none."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return []


def usable_cores() -> int:
  """How many cores this process may use."""
  return len(core_numbers()) or os.cpu_count() or 1


@contextlib.contextmanager
def pool(num_workers: int) -> Iterator[Runner]:
  """Worker processes for as long as the context lasts.

  Raises:
    errors.Stopped: Ctrl-C or SIGTERM in the context; blocks under way are
      finished first.
    errors.DataError: a worker died.
  """
  executor = futures.ProcessPoolExecutor(
    num_workers,
    # A forked child would inherit JAX's threads and their locks.
    multiprocessing.get_context('spawn'),
    initializer=_start,
  )
  try:
    with _sigterm_as_ctrl_c():
      yield Runner(executor, _TASKS_PER_WORKER * num_workers)
  except KeyboardInterrupt:
    raise errors.Stopped(
      'interrupted while preparing data; finished blocks are kept; '
      'run the same command again to continue'
    ) from None
  except process.BrokenProcessPool as error:
    raise errors.DataError(
      'a process that packs data was killed, most likely for lack of memory; '
      'finished blocks are kept; run the same command again to continue'
    ) from error
  finally:
    executor.shutdown(cancel_futures=True)  # waits for the blocks under way


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
  if threading.current_thread() is not threading.main_thread():
    yield  # Python lets no other thread set handlers
    return
  previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    yield
  finally:
    signals.restore({signal.SIGTERM: previous})


def _start() -> None:
  """Leaves Ctrl-C to the parent, and ends when the parent has ended."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signals.end_with_parent()
