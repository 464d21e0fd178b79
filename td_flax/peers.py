"""Processes that train together: who is missing, and who is gone.

jax.distributed waits without a word and, when a process is lost, aborts the
others with a native stack trace. So the processes first meet here, at the port
after the coordinator's: process 0 listens, the others stay connected to it, and
what one learns all learn. The kernel closes the connections of a killed process
at once; a lost machine is noticed because each side says that it is alive.

Lines of text, to process 0: `hello INDEX COUNT`, `alive`, `done`, `fail TEXT`;
from it: `wait TEXT`, `go`, `alive`, `done`, `fail TEXT`, `gone TEXT`.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from td_flax import errors, progress

_POLL = 0.2  # seconds between two looks or attempts
_REPORT = 10.0  # seconds between two lines that say who is missing
# A process that fails alone leaves the others this long to end by themselves
# with the same error, as all do where the config is wrong.
_GRACE = 5.0
# Process 0 ends after the others have heard why: jax aborts them when it does.
_HEADSTART = 0.5


class Peers:
  """The other processes of a run.

  Args:
    host: of process 0.
    port: where it listens.
    count: how many processes there are.
    index: which of them this is.
    join_timeout: seconds to wait for all of them.
    lost_timeout: seconds after which a silent one is lost.
  """

  def __init__(
    self,
    host: str,
    port: int,
    count: int,
    index: int,
    *,
    join_timeout: float,
    lost_timeout: float,
  ) -> None:
    self._address = (host, port)
    self._count = count
    self._index = index
    self._join_timeout = join_timeout
    self._lost_timeout = lost_timeout
    self._connections: dict[int, socket.socket] = {}
    self._done: set[int] = set()
    self._changed = threading.Condition()
    self._exit_code: int | None = None  # of a failure of this process
    self._ending = threading.RLock()  # the first reason is the one that counts

  def meet(self) -> None:
    """Returns once all processes are there; from then on, watches them.

    Raises:
      errors.UserError: some did not come, or they do not fit together.
    """
    deadline = time.monotonic() + self._join_timeout
    if self._index == 0:
      self._gather(deadline)
    else:
      self._find_first(deadline)
    for index, connection in self._connections.items():
      self._start(self._watch, index, connection)
    self._start(self._say_alive)

  def leave(self, failure: errors.UserError | None = None) -> None:
    """Returns once all are done, or tells them that this one is not to be.

    Args:
      failure: why this process ends before the others; None where it is done.
    """
    if failure is not None:
      self._exit_code = failure.exit_code
      self._tell(f'fail process {self._index} ended: {failure}')
      return
    if self._index != 0:
      self._tell('done')
    with self._changed:
      self._changed.wait_for(lambda: self._done >= self._connections.keys())
    if self._index == 0:
      self._tell('done')

  def _gather(self, deadline: float) -> None:
    """Process 0: takes in all others."""
    missing = set(range(1, self._count))
    reported = time.monotonic()
    try:
      server = socket.create_server(('', self._address[1]))
    except OSError as error:
      raise errors.UserError(
        f'port {self._address[1]}: cannot listen for the other processes '
        f'({error.strerror}); choose another --coordinator=HOST:PORT, both '
        'PORT and PORT+1 must be free'
      ) from error
    with server:
      server.settimeout(_POLL)
      while missing:
        with contextlib.suppress(TimeoutError):
          connection, _ = server.accept()
          missing.discard(self._take_in(connection))
        now = time.monotonic()
        who = _names(missing)
        if now > deadline:
          message = (
            f'{who} of {self._count} did not join within '
            f'{self._join_timeout:g} seconds (--join_timeout)'
          )
          self._tell(f'fail {message}')
          raise errors.Stopped(message)
        if missing and now - reported > _REPORT:
          reported = now
          progress.write_line(f'waiting for {who} of {self._count}')
          self._tell(f'wait waiting for {who} of {self._count}')
    self._tell('go')

  def _take_in(self, connection: socket.socket) -> int | None:
    """Process 0: who has come; None for one that cannot be used."""
    connection.settimeout(_GRACE)
    try:
      word, index, count = next(_lines(connection)).split()
      index, count = int(index), int(count)
    except (OSError, ValueError, StopIteration):
      connection.close()  # whoever that was, it is none of ours
      return None
    problem = ''
    if word != 'hello' or count != self._count:
      problem = (
        f'process {index} has --num_processes={count}, not {self._count}'
      )
    elif not 0 < index < count:
      problem = f'--process_id={index}: must be from 1 to {self._count - 1}'
    elif index in self._connections and _is_open(self._connections[index]):
      problem = f'--process_id={index}: another process has it already'
    if problem:
      with contextlib.suppress(OSError):
        connection.sendall(f'fail {problem}\n'.encode())
      connection.close()
      progress.write_line(f'refused: {problem}')
      return None
    self._connections[index] = connection
    return index

  def _find_first(self, deadline: float) -> None:
    """The others: connects to process 0 and waits until all are there."""
    where = f'process 0 at {self._address[0]}:{self._address[1]}'
    reported = time.monotonic()
    while (now := time.monotonic()) < deadline:
      try:
        connection = socket.create_connection(self._address, timeout=5)
      except OSError:
        if now - reported > _REPORT:
          reported = now
          progress.write_line(f'waiting for {where}')
        time.sleep(_POLL)
        continue
      connection.settimeout(max(1, deadline - now) + _GRACE)
      with contextlib.suppress(OSError):
        connection.sendall(f'hello {self._index} {self._count}\n'.encode())
        for line in _lines(connection):
          word, _, text = line.partition(' ')
          if word == 'go':
            self._connections[0] = connection
            return
          if word == 'fail':
            raise errors.Stopped(text)
          progress.write_line(text)
      connection.close()  # process 0 ended while we waited: it may come back
      time.sleep(_POLL)
    raise errors.Stopped(
      f'{where} did not join within {self._join_timeout:g} seconds '
      '(--join_timeout)'
    )

  def _watch(self, index: int, connection: socket.socket) -> None:
    """Reads what a process says until it is done or gone."""
    connection.settimeout(self._lost_timeout)
    try:
      for line in _lines(connection):
        word, _, text = line.partition(' ')
        if word == 'fail':
          self._ending.acquire()  # who is lost from now on is so by this
          if self._index == 0:
            self._tell(line)
          time.sleep(_GRACE)
          self._end(text)
        elif word == 'gone':
          self._end(text)
        elif word == 'done':
          with self._changed:
            self._done.add(index)
            self._changed.notify_all()
      if index in self._done:
        return
      self._lost(f'process {index} is gone')
    except TimeoutError:
      self._lost(
        f'process {index} was silent for {self._lost_timeout:g} seconds '
        '(--lost_timeout)'
      )
    except OSError:
      self._lost(f'process {index} is gone')

  def _lost(self, text: str) -> None:
    self._ending.acquire()
    if self._index == 0:
      self._tell(f'gone {text}')
      time.sleep(_HEADSTART)
    self._end(text)

  def _end(self, text: str) -> None:
    self._ending.acquire()
    if self._exit_code is not None:  # this one failed first, and has said so
      os._exit(self._exit_code)
    # Not an exception: the main thread may wait for the lost one for ever.
    line = (
      f'error: {text}; run the same command again to continue from the '
      'last checkpoint\n'
    )
    os.write(sys.__stderr__.fileno(), line.encode())
    os._exit(errors.Stopped.exit_code)

  def _say_alive(self) -> None:
    while True:
      time.sleep(self._lost_timeout / 4)
      self._tell('alive')

  def _tell(self, line: str) -> None:
    line = ' '.join(line.split()) + '\n'
    for connection in self._connections.values():
      with contextlib.suppress(OSError):  # its watcher hears of it
        connection.sendall(line.encode())

  def _start(self, function: Callable[..., None], *args: object) -> None:
    threading.Thread(target=function, args=args, daemon=True).start()


def _lines(connection: socket.socket) -> Iterator[str]:
  """What comes in, until the other side closes."""
  with connection.makefile('rb') as file:
    while line := file.readline(4096):
      yield line.decode(errors='replace').rstrip('\n')


def _is_open(connection: socket.socket) -> bool:
  """Whether the other side, which has nothing to say yet, is still there."""
  connection.setblocking(False)
  try:
    return connection.recv(1) != b''
  except BlockingIOError:
    return True
  except OSError:
    return False
  finally:
    connection.setblocking(True)


def _names(indices: set[int]) -> str:
  listed = ', '.join(map(str, sorted(indices)))
  return f'{"process" if len(indices) == 1 else "processes"} {listed}'
