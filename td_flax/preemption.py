"""Signals become "stop after this step", agreed between processes.

A run that stops early saves its state and exits with `Stopped.exit_code` (75);
the same command resumes it.

One process: SIGTERM and SIGINT set a flag; the second one aborts at once.

Several processes must stop at the same step. `jax.distributed` already agrees
on one after a SIGTERM to any process: its notifier (started by
`jax.distributed.initialize`, in place of Python's handler) looks for the
signal once a second, the processes exchange the steps they are at, and
`reached_preemption_sync_point` is true at the step after the furthest one. So
SIGTERM is left to it, and SIGINT is passed on to it as a SIGTERM. Without a
signal this costs a lock per step and no communication. The step agreed on must
come, on every process, or the signal is lost: where it came before any step, a
resumed run must ask for the first one, and where it came behind the last of a
run, the next run for one more. So what is counted is how often the processes
asked. A second SIGTERM is ignored there; a second SIGINT aborts.
"""

import itertools
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils

from td_flax import errors, signals

_MESSAGE = 'stopping after this step; signal again to abort at once\n'


class StopRequest:
  """Whether the run was asked to stop; a context manager.

  It handles SIGTERM and SIGINT while it is entered and must be entered in the
  main thread, after `jax.distributed.initialize`. A program that goes on after
  the run installs a handler of its own before, such as `stop`: it gets a signal
  that came after the last step.
  """

  _times_asked = itertools.count(1)  # in all runs of this process

  def __init__(self) -> None:
    self._is_requested = False
    self._signal = 0  # that requested it
    self._previous: dict[int, object] = {}

  def __enter__(self) -> Self:
    handled = [signal.SIGINT]
    if jax.process_count() == 1:
      handled.append(signal.SIGTERM)
    for number in handled:
      self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    outer = self._previous.get(self._signal)
    self._restore()
    # It came too late for any step: whatever follows has yet to hear of it.
    # Python's own handlers would abort what is as good as finished.
    is_own = callable(outer) and outer is not signal.default_int_handler
    if self._is_requested and kind is None and is_own:
      outer(self._signal, None)

  def requested(self) -> bool:
    """Whether to stop after the step that was just dispatched.

    The same on every process: each asks once a step.

    Returns:
      True at the one step after which to stop (one process: from the signal
      on).
    """
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(
        next(self._times_asked)
      )
    return self._is_requested

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if self._is_requested:
      self._restore()
      signal.raise_signal(number)  # what it does without us
      return
    self._is_requested, self._signal = True, number
    # Not print: the signal may have come while something was being printed.
    os.write(sys.__stderr__.fileno(), _MESSAGE.encode())
    if jax.process_count() > 1:
      signal.raise_signal(signal.SIGTERM)

  def _restore(self) -> None:
    signals.restore(self._previous)
    self._previous.clear()


def stop(number: int, frame: FrameType | None) -> None:
  """A handler for what has no steps: between runs, or while one is evaluated.

  Raises:
    errors.Stopped: always.
  """
  del number, frame
  raise errors.Stopped(
    'stopped by a signal; run the same command again to continue'
  )
