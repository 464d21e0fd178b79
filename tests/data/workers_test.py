import os
import signal
from concurrent import futures

import pytest

from td_flax import errors
from td_flax.data import workers


def square(x):
  return x * x


def die(x):
  os._exit(9)


def refuse(x):
  raise errors.DataError(f'some.txt:{x}: cannot be read')


def signal_handler():
  return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def tasks(count):
  return ((x, (x,)) for x in range(count))


def test_every_task_is_done_and_tasks_are_not_drawn_ahead():
  drawn = []

  def counted():
    for x in range(40):
      drawn.append(x)
      yield x, (x,)

  results = {}
  with workers.pool(2) as run:
    for x, result in run(square, counted()):
      results[x] = result
      assert len(drawn) <= len(results) + 4
  assert results == {x: x * x for x in range(40)}


def test_a_worker_that_dies_is_one_line():
  with (
    pytest.raises(errors.DataError, match='was killed, most likely'),
    workers.pool(1) as run,
  ):
    list(run(die, tasks(5)))


def test_a_worker_s_error_is_the_caller_s():
  with (
    pytest.raises(errors.DataError, match=r'some\.txt:0: cannot be read'),
    workers.pool(1) as run,
  ):
    list(run(refuse, tasks(1)))


def test_ctrl_c_stops_with_the_code_that_says_try_again():
  def interrupted():
    yield 0, (0,)
    raise KeyboardInterrupt

  with (
    pytest.raises(
      errors.Stopped, match='run the same command again to continue'
    ) as caught,
    workers.pool(1) as run,
  ):
    list(run(square, interrupted()))
  assert caught.value.exit_code == 75


def test_sigterm_stops_like_ctrl_c_and_only_in_the_context():
  def terminated():
    yield 0, (0,)
    signal.raise_signal(signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  with (
    pytest.raises(
      errors.Stopped, match='run the same command again to continue'
    ),
    workers.pool(1) as run,
  ):
    list(run(square, terminated()))
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_pool_works_in_another_thread():
  with futures.ThreadPoolExecutor(1) as thread:
    before = signal.getsignal(signal.SIGTERM)

    def inside():
      with workers.pool(1) as run:
        return list(run(square, tasks(2)))

    # They come as they are done, in any order.
    assert sorted(thread.submit(inside).result()) == [(0, 0), (1, 1)]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('count', [None, 3])
def test_usable_cores_are_counted_on_every_system(monkeypatch, count):
  if hasattr(os, 'sched_getaffinity'):
    assert workers.usable_cores() == len(os.sched_getaffinity(0))
  monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
  monkeypatch.setattr(os, 'cpu_count', lambda: count)
  assert workers.usable_cores() == (count or 1)


def test_workers_leave_ctrl_c_to_the_parent():
  with workers.pool(1) as run:
    assert list(run(signal_handler, [(0, ())])) == [(0, True)]
