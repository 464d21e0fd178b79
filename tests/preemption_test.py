import signal
import subprocess
import sys

import jax
import pytest
from jax.experimental import multihost_utils

from td_flax import errors, preemption

_LOOP = """
import os, signal, sys
from td_flax import errors, preemption

first, second = (int(x) for x in sys.argv[1:])
try:
  with preemption.StopRequest() as stop:
    for step in range(1, 100):
      if step == 3:
        os.kill(os.getpid(), first)
      if second and step == 4:
        os.kill(os.getpid(), second)
      if not second and stop.requested(step):
        print('saved at', step)
        raise errors.Stopped('stopped')
except errors.Stopped as error:
  sys.exit(error.exit_code)
"""


def run_loop(first, second=0):
  return subprocess.run(
    [sys.executable, '-c', _LOOP, str(int(first)), str(int(second))],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish(number):
  run = run_loop(number)
  assert run.returncode == 75
  assert run.stdout == 'saved at 3\n'
  assert run.stderr == (
    'stopping after this step; signal again to abort at once\n'
  )


def test_a_second_sigterm_ends_at_once():
  run = run_loop(signal.SIGTERM, signal.SIGTERM)
  assert run.returncode == -signal.SIGTERM
  assert run.stdout == ''


@pytest.mark.parametrize('first', [signal.SIGTERM, signal.SIGINT])
def test_a_second_sigint_interrupts(first):
  run = run_loop(first, signal.SIGINT)
  assert run.returncode == -signal.SIGINT
  assert 'KeyboardInterrupt' in run.stderr


def test_without_a_signal_nothing_is_requested_and_handlers_come_back():
  before = [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)]
  with preemption.StopRequest() as stop:
    assert not any(stop.requested(step) for step in range(5))
    assert signal.getsignal(signal.SIGTERM) != before[0]
  after = [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)]
  assert after == before


def test_handlers_come_back_after_a_stop():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.StopRequest() as stop:
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested(7)
    assert stop.requested(8)
  assert signal.getsignal(signal.SIGTERM) == before


def test_several_processes_stop_where_jax_says(monkeypatch):
  """SIGTERM belongs to jax's notifier, and SIGINT is passed on to it."""
  told, asked = [], []
  previous = signal.signal(
    signal.SIGTERM, lambda number, _: told.append(number)
  )

  def sync_point(step):
    asked.append(step)
    return step == 6

  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    multihost_utils, 'reached_preemption_sync_point', sync_point
  )
  try:
    with preemption.StopRequest() as stop:
      signal.raise_signal(signal.SIGINT)
      assert told == [signal.SIGTERM]
      stopped = [step for step in range(1, 8) if stop.requested(step)]
  finally:
    signal.signal(signal.SIGTERM, previous)
  assert stopped == [6]
  assert asked == [*range(1, 8)]


def test_the_exit_code_says_try_again():
  assert errors.Stopped.exit_code == 75
