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
  'used too); `auto` lets jax find out, as on a TPU slice.',
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
  address = _COORDINATOR.value
  _check()
  if address is None:
    yield
    return
  if address == 'auto':
    _initialize(None)
    yield
    return
  host, _, port = address.rpartition(':')
  others = peers.Peers(
    host,
    int(port) + 1,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    join_timeout=_JOIN_TIMEOUT.value,
    lost_timeout=_LOST_TIMEOUT.value,
  )
  others.meet()
  try:
    _initialize(address)
    yield
  except errors.Stopped:
    others.leave()  # all stop after the same step
    raise
  except errors.UserError as error:
    others.leave(error)
    raise
  except BaseException as error:
    time.sleep(_SECONDS_TO_HEAR)
    others.leave(errors.UserError(f'{type(error).__name__}: {error}'))
    raise
  others.leave()


def _check() -> None:
  """Refuses flags that do not fit together."""
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
  elif address == 'auto':
    return
  elif not re.fullmatch(r'.+:\d+', address):
    raise errors.ConfigError(
      f'--coordinator={address}: must be HOST:PORT or auto'
    )
  elif not 0 < int(address.rpartition(':')[2]) < 65535:
    raise errors.ConfigError(
      f'--coordinator={address}: PORT must be from 1 to 65534'
    )
  elif count is None or index is None or not 0 <= index < count:
    raise errors.ConfigError(
      f'--num_processes={count}, --process_id={index}: --coordinator=HOST:PORT '
      'needs both, the id from 0 to below the number'
    )


def _initialize(address: str | None) -> None:
  import jax

  try:
    jax.distributed.initialize(
      address,
      _NUM_PROCESSES.value,
      _PROCESS_ID.value,
      initialization_timeout=_JOIN_TIMEOUT.value,
      # Later than `peers` notices: it aborts with a native stack trace.
      heartbeat_timeout_seconds=2 * _LOST_TIMEOUT.value,
    )
  except (RuntimeError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise errors.UserError(
      f'--coordinator={_COORDINATOR.value}: cannot join the other processes: '
      f'{reason}'
    ) from error
