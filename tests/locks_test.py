import errno
import threading

import pytest

from td_flax import errors, locks


@pytest.fixture(params=['file', 'folder'])
def path(request, tmp_path):
  return tmp_path / 'new' if request.param == 'file' else tmp_path


def test_one_at_a_time(path):
  busy = errors.DataError('is in use')
  with (
    locks.exclusive(path, ''),
    pytest.raises(errors.DataError, match='is in use'),
    locks.exclusive(path, '', busy),
  ):
    pytest.fail('two hold the lock')
  with locks.exclusive(path, '', busy):
    pass


def test_a_lock_is_waited_for(path):
  order = []

  def wait():
    with locks.exclusive(path, ''):
      order.append('second')

  with locks.exclusive(path, ''):
    waiting = threading.Thread(target=wait)
    waiting.start()
    order.append('first')
  waiting.join()
  assert order == ['first', 'second']


def test_an_error_inside_is_not_taken_for_another_process(path):
  # What fork says where there are too many processes is a BlockingIOError too.
  error = BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable')
  with (
    pytest.raises(BlockingIOError, match='unavailable'),
    locks.exclusive(path, '', errors.DataError('is in use')),
  ):
    raise error


def test_a_file_system_without_locks_costs_a_warning(path, monkeypatch, capsys):
  def refuse(descriptor, operation):  # as NFS does for a folder
    raise OSError(errno.EBADF, 'Bad file descriptor')

  monkeypatch.setattr(locks.fcntl, 'flock', refuse)
  with locks.exclusive(path, 'use it once'):
    pass
  assert capsys.readouterr().err == (
    f'warning: {path}: cannot be locked (Bad file descriptor); use it once\n'
  )


def test_a_path_that_cannot_be_opened_is_an_error(tmp_path):
  with (
    pytest.raises(FileNotFoundError),
    locks.exclusive(tmp_path / 'none' / 'file', ''),
  ):
    pass
