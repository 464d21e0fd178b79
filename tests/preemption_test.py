import contextlib
import signal
import sys

import pytest
import support

from td_flax import errors, preemption

_LOOP = """
import os, signal, sys
from td_flax import errors, preemption

# Whoever starts the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
first, second = (int(x) for x in sys.argv[1:])
try:
  with preemption.StopRequest() as stop:
    for step in range(1, 100):
      if step == 3:
        os.kill(os.getpid(), first)
      if second and step == 4:
        os.kill(os.getpid(), second)
      if not second and stop.requested():
        print('saved at', step)
        raise errors.Stopped('stopped')
except errors.Stopped as error:
  sys.exit(error.exit_code)
"""

_ONE_OF_TWO = """
import itertools, sys
import jax
from td_flax import preemption

port, index = sys.argv[1:]
jax.config.update('jax_platforms', 'cpu')
jax.distributed.initialize(f'127.0.0.1:{port}', 2, int(index))
assert jax.process_count() == 2
with preemption.StopRequest() as stop:
  print('steps', flush=True)
  for step in itertools.count(1):
    if stop.requested():
      print('saved at', step)
      sys.exit(75)
"""


# A signal before the first step of a run, and maybe behind the last of another.
_BETWEEN = """
import os, signal, sys, time
import jax
from td_flax import preemption

before, port, index = sys.argv[1:]
jax.config.update('jax_platforms', 'cpu')
jax.distributed.initialize(f'127.0.0.1:{port}', 2, int(index))
with preemption.StopRequest() as stop:
  assert not any(stop.requested() for _ in range(int(before)))
if index == '1':
  os.kill(os.getpid(), signal.SIGTERM)
time.sleep(5)  # the notifier looks once a second
with preemption.StopRequest() as stop:
  for step in range(1, 6):
    if stop.requested():
      print('saved at', step)
      sys.exit(75)
"""


def run_loop(first, second=0):
  return support.run(
    [sys.executable, '-c', _LOOP, str(int(first)), str(int(second))]
  )


def test_a_signal_after_the_last_step_is_for_what_follows():
  came = []
  before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
  try:
    with preemption.StopRequest():
      signal.raise_signal(signal.SIGTERM)
      assert not came
    assert came == [signal.SIGTERM]
    with contextlib.suppress(errors.Stopped), preemption.StopRequest():
      signal.raise_signal(signal.SIGTERM)
      raise errors.Stopped('saved')
    with preemption.StopRequest():
      pass
    with preemption.StopRequest():
      signal.raise_signal(signal.SIGINT)  # Python's own handler would raise
    assert came == [signal.SIGTERM]
  finally:
    signal.signal(signal.SIGTERM, before)


def test_a_signal_in_the_last_step_of_a_run_begins_no_other_run():
  before = signal.signal(signal.SIGTERM, preemption.stop)
  try:
    with (
      pytest.raises(
        errors.Stopped, match='run the same command again to continue'
      ),
      preemption.StopRequest(),
    ):
      signal.raise_signal(signal.SIGTERM)
    with pytest.raises(errors.Stopped):
      signal.raise_signal(signal.SIGTERM)  # between two runs
  finally:
    signal.signal(signal.SIGTERM, before)


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
    assert not any(stop.requested() for _ in range(5))
    assert signal.getsignal(signal.SIGTERM) != before[0]
  after = [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)]
  assert after == before


def test_handlers_come_back_after_a_stop():
  before = signal.getsignal(signal.SIGTERM)
  with preemption.StopRequest() as stop:
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested()
    assert stop.requested()
  assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_processes_stop_at_the_same_step(start, number):
  """One of two is told, and both stop."""
  port = support.free_ports()
  processes = [
    start([sys.executable, '-c', _ONE_OF_TWO, str(port), str(index)])
    for index in range(2)
  ]
  for process in processes:
    assert process.stdout.readline() == 'steps\n'
  processes[1].send_signal(number)
  ends = [support.finish(process) for process in processes]
  assert [code for code, *_ in ends] == [75, 75], ends
  (_, one, _), (_, other, told) = ends
  assert one == other
  assert int(one.removeprefix('saved at ')) > 0
  is_ours = number == signal.SIGINT  # SIGTERM never reaches Python here
  assert ('stopping after this step' in told) == is_ours


@pytest.mark.parametrize('before', [0, 5])
def test_a_signal_before_the_first_step_stops_processes_at_it(start, before):
  """Whatever they did before: nothing, or the steps of another run."""
  port = support.free_ports()
  processes = [
    start([sys.executable, '-c', _BETWEEN, str(before), str(port), str(index)])
    for index in range(2)
  ]
  ends = [support.finish(process) for process in processes]
  assert [code for code, *_ in ends] == [75, 75], ends
  assert [said for _, said, _ in ends] == ['saved at 1\n'] * 2


def test_the_exit_code_says_try_again():
  assert errors.Stopped.exit_code == 75
