"""Flags that let several processes train together, and how they meet."""

import contextlib
import re
import time
from collections.abc import Iterator

from absl import flags as absl_flags

from td_flax import errors, peers

_COORDINATOR = absl_flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT of process 0 where several processes train together (PORT+1 is '
  'used too); `auto` lets jax find out on TPU slices, SLURM, Open MPI and '
  'Kubernetes.',
)
_NUM_PROCESSES = absl_flags.DEFINE_integer(
  'num_processes', None, 'With --coordinator=HOST:PORT: how many processes.'
)
_PROCESS_ID = absl_flags.DEFINE_integer(
  'process_id', None, 'With --coordinator=HOST:PORT: which one this is.'
)
_JOIN_TIMEOUT = absl_flags.DEFINE_integer(
  'join_timeout', 300, 'Seconds to wait for the other processes.', 1
)
_LOST_TIMEOUT = absl_flags.DEFINE_integer(
  'lost_timeout', 60, 'Seconds after which a silent process is lost.', 4
)
# A process that fails because another one is gone leaves `peers` this long to
# say so.
_SECONDS_TO_HEAR = 2


@contextlib.contextmanager
def joined() -> Iterator[None]:
  """Joins the other processes where the flags say that there are some.

  All leave together: a process whose work is done waits for the others, and
  ends at once, with one line, where one of them fails or is gone.

  Raises:
    errors.UserError: the flags are wrong, or the others cannot be reached.
  """
  place = _place()
  if place is None:
    yield
    return
  address, count, index = place
  host, _, port = address.rpartition(':')
  others = peers.Peers(
    host,
    int(port) + 1,
    count,
    index,
    join_timeout=_JOIN_TIMEOUT.value,
    lost_timeout=_LOST_TIMEOUT.value,
  )
  others.meet()
  try:
    _initialize(address, count, index)
    yield
  except errors.Stopped:
    others.leave()  # all stop after the same step
    raise
  except errors.UserError as error:
    others.leave(error)
    raise
  except BaseException as error:
    time.sleep(_SECONDS_TO_HEAR)
    others.leave(errors.UserError(errors.named(error)))
    raise
  others.leave()


def _place() -> tuple[str, int, int] | None:
  """Process 0's HOST:PORT, how many processes there are, and which this is."""
  address, count, index = (
    _COORDINATOR.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
  )
  if address is None:
    if count is not None or index is not None:
      raise errors.ConfigError(
        '--coordinator: missing; --num_processes and --process_id need it'
      )
    return None
  source = f'--coordinator={address}'
  if address == 'auto':
    if count is not None or index is not None:
      raise errors.ConfigError(
        '--coordinator=auto: finds --num_processes and --process_id itself'
      )
    address, count, index = _found()
    source += f' ({address})'
  if not re.fullmatch(r'.+:\d+', address):
    raise errors.ConfigError(f'{source}: must be HOST:PORT or auto')
  if not 0 < int(address.rpartition(':')[2]) < 65535:
    raise errors.ConfigError(f'{source}: PORT must be from 1 to 65534')
  if count is None or index is None or not 0 <= index < count:
    raise errors.ConfigError(
      f'--num_processes={count}, --process_id={index}: --coordinator=HOST:PORT '
      'needs both, the id from 0 to below the number'
    )
  return address, count, index


def _found() -> tuple[str, int, int]:
  """What jax.distributed would find, so that `peers` can meet there first."""
  # jax has no public name for it.
  from jax._src import clusters

  find = clusters.ClusterEnv.auto_detect_unset_distributed_params
  try:
    address, count, index, _ = find(
      None, None, None, None, None, _JOIN_TIMEOUT.value
    )
  except (OSError, RuntimeError, ValueError, KeyError) as error:
    raise errors.UserError(
      '--coordinator=auto: jax cannot find the other processes: '
      f'{errors.one_line(error)}'
    ) from error
  if address is None:
    raise errors.ConfigError(
      '--coordinator=auto: jax finds no TPU slice, SLURM, Open MPI or '
      'Kubernetes here; give HOST:PORT'
    )
  return address, count, index


def _initialize(address: str, count: int, index: int) -> None:
  import jax

  try:
    jax.distributed.initialize(
      address,
      count,
      index,
      initialization_timeout=_JOIN_TIMEOUT.value,
      # Later than `peers` notices: it aborts with a native stack trace.
      heartbeat_timeout_seconds=2 * _LOST_TIMEOUT.value,
    )
  except (RuntimeError, ValueError) as error:
    raise errors.UserError(
      f'--coordinator={_COORDINATOR.value}: cannot join the other processes: '
      f'{errors.one_line(error)}'
    ) from error
