"""Flags that let several processes train together, and how they meet."""

import re

from absl import flags as absl_flags

from td_flax import errors

_COORDINATOR = absl_flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT of process 0 where several processes train together; `auto` lets '
  'jax find out, as on a TPU slice.',
)
_NUM_PROCESSES = absl_flags.DEFINE_integer(
  'num_processes', None, 'With --coordinator=HOST:PORT: how many processes.'
)
_PROCESS_ID = absl_flags.DEFINE_integer(
  'process_id', None, 'With --coordinator=HOST:PORT: which one this is.'
)


def join() -> None:
  """Joins the other processes where the flags say that there are some.

  Raises:
    errors.UserError: the flags are wrong, or the others cannot be reached.
  """
  if _COORDINATOR.value is None:
    if _NUM_PROCESSES.value is not None or _PROCESS_ID.value is not None:
      raise errors.ConfigError(
        '--coordinator: missing; --num_processes and --process_id need it'
      )
    return
  address, count, index = (
    _COORDINATOR.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
  )
  if address == 'auto':
    address = None
  elif not re.fullmatch(r'.+:\d+', address):
    raise errors.ConfigError(
      f'--coordinator={address}: must be HOST:PORT or auto'
    )
  elif count is None or index is None or not 0 <= index < count:
    raise errors.ConfigError(
      f'--num_processes={count}, --process_id={index}: --coordinator=HOST:PORT '
      'needs both, the id from 0 to below the number'
    )
  import jax

  try:
    jax.distributed.initialize(address, count, index)
  except (RuntimeError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise errors.UserError(
      f'--coordinator={_COORDINATOR.value}: cannot join the other processes: '
      f'{reason}'
    ) from error
