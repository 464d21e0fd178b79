"""Children: their share of the machine, their answers, their end."""

import contextlib
import os
import signal
import sys
import time

import pytest
import support

from td_flax import errors
from td_flax.compare import children
from td_flax.compare.children import Machine, Place


def cores():
  return sorted(os.sched_getaffinity(0))


def told(name):
  return os.environ.get(name)


def refuse():
  raise errors.DataError('no such text')


def break_down():
  raise ValueError('a\nbug')


def die():
  os.kill(os.getpid(), signal.SIGKILL)


def imported():
  return 'jax' in sys.modules


def test_cores_are_shared_out():
  mine = cores()
  (alone,) = children.places(Machine('cpu', 1), 1)
  assert sorted(alone.cores) == mine
  if len(mine) > 1:
    one, other = children.places(Machine('cpu', 1), 2)
    assert sorted(one.cores | other.cores) == mine
    assert not one.cores & other.cores
  with pytest.raises(errors.ConfigError, match=r'at most .* the cores'):
    children.places(Machine('cpu', 1), len(mine) + 1)


def test_every_job_has_a_device(monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  found = children.places(Machine('gpu', 4), 2)
  assert [x.environment for x in found] == [
    {'CUDA_VISIBLE_DEVICES': '0'},
    {'CUDA_VISIBLE_DEVICES': '1'},
  ]
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  found = children.places(Machine('gpu', 2), 2)
  assert [x.environment['CUDA_VISIBLE_DEVICES'] for x in found] == ['3', '5']
  found = children.places(Machine('tpu', 4), 4)
  assert found[3].environment['TPU_VISIBLE_CHIPS'] == '3'
  assert children.places(Machine('other', 1), 1) == [Place({}, frozenset())]
  with pytest.raises(errors.ConfigError, match=r'--jobs=3: .* 2, the devices'):
    children.places(Machine('tpu', 2), 3)


def test_jobs_share_gpus_where_there_are_more_of_them(monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
  found = children.places(Machine('gpu', 2), 3)
  assert [x.environment['CUDA_VISIBLE_DEVICES'] for x in found] == list('010')
  fractions = {x.environment['XLA_PYTHON_CLIENT_MEM_FRACTION'] for x in found}
  assert fractions == {'0.450'}
  with pytest.raises(errors.ConfigError, match=r'--jobs=9: .* 8, the cores'):
    children.places(Machine('gpu', 2), 9)


def test_a_child_is_in_its_place_and_answers():
  place = Place({'SOME_DEVICE': '7'}, frozenset(cores()[:1]))
  with children.Children() as found:
    assert found.call(place, cores) == cores()[:1]
    assert found.call(place, told, 'SOME_DEVICE') == '7'
    assert found.call(None, told, 'SOME_DEVICE') is None
    assert not found.call(None, imported)


@pytest.mark.parametrize(
  ('function', 'said'),
  [
    (refuse, 'no such text'),
    (break_down, 'ValueError: a bug'),
    (die, 'the process ended: killed by SIGKILL'),
  ],
)
def test_a_failure_is_one_line(function, said, tmp_path):
  with children.Children() as found:
    found.start('x', None, tmp_path / 'log', function)
    (done,) = found.wait()
  assert done == ('x', None, said)
  log = (tmp_path / 'log').read_text()
  assert ('Traceback' in log) == (function is break_down)


def test_a_signal_reaches_the_children():
  with children.Children() as found:
    found.start('x', None, None, time.sleep, 60)
    signal.raise_signal(signal.SIGINT)
    assert found.stopping
    (done,) = found.wait()
    assert done.error == 'the process ended: killed by SIGTERM'
    with pytest.raises(
      errors.Stopped, match='run the same command again to continue'
    ):
      found.call(None, time.sleep, 60)


def test_children_die_with_their_parent(start, tmp_path):
  modules = sys.modules[__name__], support
  program = (
    'import sys, pathlib\n'
    f'sys.path[:0] = {[os.path.dirname(x.__file__) for x in modules]}\n'
    'from td_flax.compare import children\n'
    'import children_test\n'
    'if __name__ == "__main__":\n'
    '  with children.Children() as found:\n'
    f'    found.start(1, None, None, children_test.tell, {str(tmp_path)!r})\n'
    '    list(found.wait())\n'
  )
  file = tmp_path / 'program.py'
  file.write_text(program)
  parent = start([sys.executable, file])
  mark = tmp_path / 'pid'
  support.wait_until(lambda: mark.exists() and mark.read_text(), parent)
  child = int(mark.read_text())
  parent.kill()
  try:
    support.wait_until(lambda: not support.is_running(child))
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.kill(child, signal.SIGKILL)


def tell(folder):
  with open(os.path.join(folder, 'pid'), 'w') as file:
    file.write(str(os.getpid()))
  time.sleep(2 * support.TIMEOUT)
