"""Child processes with a share of the machine each, that die with their parent.

Nothing here imports jax: a child is given its cores or its device before it
does, and the parent holds no accelerator.
"""

import contextlib
import itertools
import multiprocessing
import os
import pathlib
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection
from types import FrameType
from typing import Any, NamedTuple, Self

from td_flax import errors, signals
from td_flax.data import workers

# The variable that shows a process some of the devices of a platform; AMD's
# runtime reads CUDA's too.
_VISIBLE = {'gpu': 'CUDA_VISIBLE_DEVICES', 'tpu': 'TPU_VISIBLE_CHIPS'}
# A process of libtpu that sees one chip must not wait for the others'.
_ONE_CHIP = {
  'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
  'TPU_PROCESS_BOUNDS': '1,1,1',
}


class Machine(NamedTuple):
  """What runs can be spread over.

  Attributes:
    platform: of jax: `cpu`, `gpu`, `tpu`.
    devices: accelerators that can be told apart; 1 on a CPU.
  """

  platform: str
  devices: int


class Place(NamedTuple):
  """What a child is given: environment variables and cores."""

  environment: dict[str, str]
  cores: frozenset[int]


class Done(NamedTuple):
  """A child that has ended.

  Attributes:
    name: as given to `start`.
    result: what the function returned, None after an error.
    error: in one line; '' without one.
  """

  name: Any
  result: Any
  error: str


def machine() -> Machine:
  """What jax finds; for a child, since it takes hold of the accelerator."""
  import jax

  platform = jax.default_backend()
  if platform == 'tpu':  # a chip of v2 and v3 is two devices
    return Machine(platform, len({x.coords for x in jax.local_devices()}))
  count = jax.local_device_count() if platform in _VISIBLE else 1
  return Machine(platform, count)


def places(found: Machine, jobs: int) -> list[Place]:
  """An equal share of the machine for each of `jobs` children.

  More children than GPUs share these: while one compiles, another computes.

  Raises:
    errors.ConfigError: there are fewer cores or devices.
  """
  if found.platform in ('cpu', 'gpu'):
    most, what = workers.usable_cores(), 'cores'
  else:
    most, what = found.devices, f'devices ({found.platform})'
  if jobs > most:
    raise errors.ConfigError(
      f'--jobs={jobs}: must be at most {most}, the {what} of this machine'
    )
  if found.platform == 'cpu':
    cores = workers.core_numbers()
    # Neighbouring numbers together: they are often near each other.
    bounds = [round(i * len(cores) / jobs) for i in range(jobs + 1)]
    return [
      Place({}, frozenset(cores[start:stop]))
      for start, stop in itertools.pairwise(bounds)
    ]
  if found.platform not in _VISIBLE:
    return [Place({}, frozenset())]
  variable = _VISIBLE[found.platform]
  already = os.environ.get(variable, '')
  visible = already.split(',') if already else map(str, range(found.devices))
  extra = _ONE_CHIP if found.platform == 'tpu' else {}
  if (sharing := -(-jobs // found.devices)) > 1:
    extra = {'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{0.9 / sharing:.3f}'}
  return [
    Place({variable: device, **extra}, frozenset())
    for device in itertools.islice(itertools.cycle(visible), jobs)
  ]


class Children:
  """Children at work; a context manager, in the main thread.

  SIGINT and SIGTERM are passed on to them as SIGTERM, whose answer a run has:
  it saves its state. A terminal's Ctrl-C does not reach them otherwise, so each
  signal arrives once.

  Attributes:
    stopping: a signal came; nothing should be started any more.
  """

  def __init__(self) -> None:
    self.stopping = False
    self._context = multiprocessing.get_context('spawn')
    self._live: dict[Any, tuple[Any, connection.Connection]] = {}

  def __enter__(self) -> Self:
    self._previous = {
      number: signal.signal(number, self._stop)
      for number in (signal.SIGINT, signal.SIGTERM)
    }
    return self

  def __exit__(self, *error: object) -> None:
    for process, _ in self._live.values():
      process.kill()
    signals.restore(self._previous)

  def __len__(self) -> int:
    return len(self._live)

  def _stop(self, number: int, frame: FrameType | None) -> None:
    del number, frame
    self.stopping = True
    for process, _ in list(self._live.values()):
      process.terminate()

  def start(
    self,
    name: Any,
    place: Place | None,
    log: pathlib.Path | None,
    function: Callable[..., Any],
    *arguments: Any,
  ) -> None:
    """Starts `function(*arguments)` in a child.

    Args:
      name: tells it apart from those that are alive.
      place: its share of the machine; None is all of it.
      log: what it prints is added here; None leaves its output alone.
      function: of a module, so that the child finds it.
      *arguments: for it.
    """
    here, there = self._context.Pipe(duplex=False)
    # Pickled here: what unpickling imports, the child imports in its place.
    work = pickle.dumps((function, arguments))
    process = self._context.Process(
      target=_main, args=(there, place, log, work), name=str(name)
    )
    process.start()
    there.close()
    self._live[name] = process, here
    if self.stopping:  # the signal came before the child was among the live
      process.terminate()

  def wait(self) -> Iterator[Done]:
    """The children that have ended; waits for at least one."""
    # A child's end of its pipe closes with it: no other signal is needed.
    ready = connection.wait([here for _, here in self._live.values()])
    ended = [name for name, x in self._live.items() if x[1] in ready]
    for name in ended:
      process, here = self._live[name]
      done = Done(name, None, '')
      with contextlib.suppress(EOFError):
        done = Done(name, *here.recv())
      process.join()
      here.close()
      del self._live[name]
      if not done.error and process.exitcode:
        how = f'exit code {process.exitcode}'
        if process.exitcode < 0:
          how = f'killed by {signal.Signals(-process.exitcode).name}'
        done = done._replace(error=f'the process ended: {how}')
      yield done

  def call(
    self, place: Place | None, function: Callable[..., Any], *arguments: Any
  ) -> Any:
    """What `function(*arguments)` returns in a child; nothing else may run.

    Raises:
      errors.Stopped: a signal came meanwhile.
      errors.UserError: it failed.
    """
    self.start(function.__name__, place, None, function, *arguments)
    (done,) = self.wait()
    if self.stopping:
      raise errors.Stopped(
        'stopped by a signal; run the same command again to continue'
      )
    if done.error:
      raise errors.UserError(done.error)
    return done.result


def _main(
  answer: connection.Connection,
  place: Place | None,
  log: pathlib.Path | None,
  work: bytes,
) -> None:
  """What a child does; answers with a result and '' or with None and a line."""
  os.setsid()  # out of reach of the terminal's Ctrl-C
  signals.end_with_parent()
  if place is not None:
    os.environ.update(place.environment)
    if place.cores:
      os.sched_setaffinity(0, place.cores)
  if log is not None:
    with log.open('ab') as file:
      os.dup2(file.fileno(), sys.stdout.fileno())
      os.dup2(file.fileno(), sys.stderr.fileno())
  try:
    function, arguments = pickle.loads(work)
    answer.send((function(*arguments), ''))
  except errors.UserError as error:
    answer.send((None, str(error)))
    sys.exit(error.exit_code)
  except Exception as error:  # a bug: the traceback is in the log
    traceback.print_exc()
    answer.send((None, errors.named(error)))
    sys.exit(1)
