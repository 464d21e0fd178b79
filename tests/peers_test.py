"""Processes that meet, wait for each other and lose each other."""

import contextlib
import signal
import socket
import subprocess
import sys

import pytest
import support

_PEER = """
import sys
from td_flax import errors, peers

port, count, index, join_timeout, lost_timeout, grace = map(int, sys.argv[1:])
peers._REPORT, peers._GRACE = 0.3, grace
others = peers.Peers(
  'localhost',
  port,
  count,
  index,
  join_timeout=join_timeout,
  lost_timeout=lost_timeout,
)
try:
  others.meet()
  print('met', flush=True)
  word = sys.stdin.readline().strip()
  if word == 'fail':
    raise errors.ConfigError('train.batch_size=3: wrong')
  others.leave()
except errors.UserError as error:
  if isinstance(error, errors.ConfigError):
    others.leave(error)
  print(f'error: {error}', file=sys.stderr, flush=True)
  sys.exit(error.exit_code)
print('left', flush=True)
"""


@pytest.fixture
def port():
  return support.free_ports()


@pytest.fixture
def start(start, port):
  """Starts peers of (index, count)."""

  def one(index, count, join_timeout=60, lost_timeout=30, grace=1):
    numbers = port, count, index, join_timeout, lost_timeout, grace
    command = [sys.executable, '-c', _PEER, *map(str, numbers)]
    return start(command, stdin=subprocess.PIPE)

  return one


def tell(process, word):
  process.stdin.write(f'{word}\n')
  process.stdin.flush()


def met(processes):
  for process in processes:
    assert process.stdout.readline() == 'met\n'
  return processes


def end(process):
  """Its exit code and the last line that it said."""
  code, _, err = support.finish(process)
  lines = err.splitlines()
  return code, lines[-1] if lines else ''


def test_all_meet_and_leave_together(start):
  processes = met([start(index, 3) for index in (2, 0, 1)])
  tell(processes[0], 'done')
  tell(processes[1], 'done')
  with pytest.raises(subprocess.TimeoutExpired):
    processes[1].wait(timeout=1)  # the third is not done
  tell(processes[2], 'done')
  assert [end(process) for process in processes] == [(0, '')] * 3


def test_they_say_for_whom_they_wait_and_give_up(start, port):
  processes = [start(0, 4, join_timeout=20)]
  connect(port).close()  # it listens: from now on the other can come
  processes.append(start(2, 4, join_timeout=20))
  for process in processes:
    code, _, err = support.finish(process)
    assert code == 75
    assert 'waiting for processes 1, 3 of 4\n' in err
    assert err.splitlines()[-1] == (
      'error: processes 1, 3 of 4 did not join within 20 seconds '
      '(--join_timeout)'
    )


def test_without_the_first_the_others_say_where_it_should_be(start):
  process = start(1, 2, join_timeout=8)
  code, _, err = support.finish(process)
  assert code == 75
  assert 'waiting for process 0 at localhost:' in err
  assert 'did not join within 8 seconds' in err.splitlines()[-1]


@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_process_is_named_at_once(start, victim):
  processes = met([start(index, 3) for index in range(3)])
  processes[victim].kill()
  for index in {0, 1, 2} - {victim}:
    assert end(processes[index]) == (
      75,
      f'error: process {victim} is gone; run the same command again to '
      'continue from the last checkpoint',
    )


def test_a_silent_process_is_lost(start):
  processes = met([start(index, 2, lost_timeout=4) for index in range(2)])
  processes[1].send_signal(signal.SIGSTOP)
  code, line = end(processes[0])
  assert code == 75
  assert 'process 1 was silent for 4 seconds' in line


def test_a_process_that_fails_alone_ends_the_others(start):
  processes = met([start(index, 3) for index in range(3)])
  tell(processes[1], 'fail')
  assert end(processes[1]) == (2, 'error: train.batch_size=3: wrong')
  for index in (0, 2):
    code, line = end(processes[index])
    assert code == 75
    assert 'process 1 ended: train.batch_size=3: wrong' in line


def test_the_first_reason_counts_though_another_is_lost_after_it(start):
  processes = met(
    [start(index, 3, grace=(6, 1, 1)[index]) for index in range(3)]
  )
  tell(processes[1], 'fail')
  # While process 0 waits to fail too. Its input stays open: it is not done.
  assert processes[2].wait(timeout=support.TIMEOUT) == 75
  assert 'process 1 ended: train.batch_size=3: wrong' in end(processes[0])[1]


def test_processes_that_do_not_fit_together_are_refused(start):
  first, second = start(0, 3), start(1, 3)
  while first.stderr.readline() != 'waiting for process 2 of 3\n':
    assert first.poll() is None  # until the second has come
  code, line = end(start(1, 2))
  assert code == 75
  assert 'process 1 has --num_processes=2, not 3' in line
  code, line = end(start(1, 3))
  assert code == 75
  assert '--process_id=1: another process has it already' in line
  processes = met([first, second, start(2, 3)])
  for process in processes:
    tell(process, 'done')
  assert [end(process)[0] for process in processes] == [0, 0, 0]


@pytest.mark.parametrize(
  'said', [b'', b'GET / HTTP/1.0\r\n\r\n', b'\xff\xfe', b'hello 1\n']
)
def test_strangers_are_ignored(start, port, said):
  first = start(0, 2)
  stranger = connect(port)
  stranger.sendall(said)
  stranger.shutdown(socket.SHUT_WR)
  with stranger:
    answer = stranger.recv(100)
  assert answer == b''  # closed, without a word
  processes = met([first, start(1, 2)])
  for process in processes:
    tell(process, 'done')
  assert [end(process)[0] for process in processes] == [0, 0]


def test_a_silent_stranger_is_not_waited_for(start, port):
  first = start(0, 2)
  with connect(port):
    processes = met([first, start(1, 2)])
  for process in processes:
    tell(process, 'done')
  assert [end(process)[0] for process in processes] == [0, 0]


def connect(port):
  """A connection to process 0, as soon as it listens."""
  found = []

  def listens():
    with contextlib.suppress(ConnectionRefusedError):
      found.append(socket.create_connection(('localhost', port), timeout=60))
    return found

  support.wait_until(listens)
  return found[0]
