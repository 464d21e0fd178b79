"""One saved step: its files, verified whenever they are read.

The only file that imports orbax. `<directory>/<step>/` holds two orbax items:

  state/   the arrays of the train state, a nested dict by path
  record/  record.json: the step, the held-out loss, the loop's own metadata,
           a digest per array and one of the record itself

orbax trusts what it reads, so every array is compared with its digest.
"""

import contextlib
import functools
import hashlib
import json
import math
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from td_flax import errors, layout, leaves


class DamagedError(errors.CheckpointError):
  """A step's directory is not what was saved."""


class Writer:
  """Writes steps in the background, one at a time."""

  def __init__(self) -> None:
    _quieten_orbax()
    alone = _alone()
    self._orbax = ocp.AsyncCheckpointer(
      ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
        state=ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
        record=ocp.JsonCheckpointHandler(
          filename=pathlib.PurePath(layout.RECORD).name,
          multiprocessing_options=alone,
        ),
      ),
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      multiprocessing_options=alone,
    )

  def save(
    self,
    path: pathlib.Path,
    arrays: dict[str, np.ndarray],
    record: dict[str, Any],
  ) -> None:
    """Begins to write a step; what is wrong is raised here or by `wait`.

    Args:
      path: its directory, which must not exist.
      arrays: by path; not to be changed until they are written.
      record: `step`, `eval_loss` and `metadata`; the digests are added.
    """
    record = {**record, 'leaves': leaves.digests(arrays)}
    args = ocp.args.Composite(
      record=ocp.args.JsonSave({**record, 'sha256': _digest(record)}),
      state=ocp.args.PyTreeSave(leaves.nested(arrays)),
    )
    self._orbax.save(path, args=args)

  def wait(self) -> None:
    """Returns once the step is on disk."""
    self._orbax.wait_until_finished()

  def close(self) -> None:
    """Ends its threads."""
    self._orbax.close()


def steps(directory: pathlib.Path) -> list[int]:
  """The finished steps in `directory`, oldest first; not yet verified.

  Args:
    directory: none is there where it is missing.

  Raises:
    OSError: it cannot be read.
  """
  if not directory.is_dir():
    return []
  names = [path.name for path in directory.iterdir()]
  return sorted(int(x) for x in names if x.isdecimal() and str(int(x)) == x)


def find_step(directory: pathlib.Path, step: str, where: str) -> int:
  """The step that a word or a number names.

  Args:
    directory: where the steps lie; at least one does.
    step: `latest`, `best` (by held-out loss) or a number.
    where: what the directory belongs to, for the message.

  Raises:
    errors.ConfigError: there is no such step.
  """
  present = steps(directory)
  chosen = {
    'latest': present[-1],
    'best': best(eval_losses(directory)),
  } | {str(number): number for number in present}
  if chosen.get(step) is None:
    raise errors.ConfigError(
      f'{where}: has no step {step!r}; choose latest, best (if evaluated) or '
      f'one of {", ".join(map(str, present))}'
    )
  return chosen[step]


def eval_losses(directory: pathlib.Path) -> dict[int, float]:
  """The held-out loss of every step with a sound record; NaN: not evaluated."""
  losses = {}
  for step in steps(directory):
    # What is damaged is for `Checkpoints.restore_latest` to judge: neither
    # counted here nor deleted.
    with contextlib.suppress(DamagedError):
      loss = eval_loss(directory, step)
      losses[step] = math.nan if loss is None else loss
  return losses


def best(losses: dict[int, float]) -> int | None:
  """The newest step with the lowest of the finite losses, None without any."""
  finite = {step: x for step, x in losses.items() if math.isfinite(x)}
  return min(finite, key=lambda step: (finite[step], -step), default=None)


def eval_loss(directory: pathlib.Path, step: int) -> float | None:
  """The held-out loss at a step, None where it was not evaluated.

  Raises:
    DamagedError: the step's record is not what was saved.
  """
  return read_record(directory / str(step), step=step)['eval_loss']


def load_params(path: pathlib.Path, abstract_params: Any) -> Any:
  """The verified parameters of another run.

  Args:
    path: the directory of one checkpoint.
    abstract_params: what the train state has under `params`.

  Returns:
    `abstract_params` with numpy leaves.

  Raises:
    errors.CheckpointError: it is damaged, or its parameters have other names,
      shapes or dtypes.
  """
  arrays, _ = read(path, prefix='params/')
  return leaves.fit(arrays, abstract_params, origin=path, prefix='params/')


def load_importance(path: pathlib.Path) -> np.ndarray:
  """The verified importance table of a pretraining run, f32[V].

  Args:
    path: the directory of one checkpoint.

  Raises:
    DamagedError: it is not what was saved.
  """
  return read(path, prefix='importance')[0]['importance']


def read(
  path: pathlib.Path, *, prefix: str = '', step: int | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The verified arrays whose path starts with `prefix`, and the record.

  Args:
    path: the directory of one checkpoint.
    prefix: of the arrays' paths.
    step: that the record must be of, if given.

  Raises:
    DamagedError: it is not what was saved.
  """
  record = read_record(path, step=step)
  expected = {k: v for k, v in record['leaves'].items() if k.startswith(prefix)}
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  args = ocp.args.PyTreeRestore(
    item=leaves.nested(dict.fromkeys(expected, 0)),
    restore_args=leaves.nested(dict.fromkeys(expected, as_numpy)),
    partial_restore=True,
  )
  _quieten_orbax()
  alone = _alone()
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
  state = path.absolute() / 'state'  # orbax refuses a relative one
  try:
    tree = reader.restore(state, args=args)
  except Exception as error:  # whatever orbax makes of damaged files
    raise _unreadable(state, error) from error
  finally:
    reader.close()
  arrays = leaves.to_host(tree)
  digests = leaves.digests(arrays)
  for name, digest in expected.items():
    if digests.get(name) != digest:
      raise DamagedError(f'{path}: {name} differs from its digest')
  return arrays, record


def read_record(
  path: pathlib.Path, *, step: int | None = None
) -> dict[str, Any]:
  """The record, compared with its own digest and with `step` if given.

  Args:
    path: the directory of one checkpoint.
    step: that the record must be of.

  Raises:
    DamagedError: it is not what was saved.
  """
  file = path / layout.RECORD
  try:
    record = json.loads(file.read_bytes())
    sound = record.pop('sha256') == _digest(record)
  except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
    raise _unreadable(file, error) from error
  if not sound:
    raise DamagedError(f'{file}: does not match its own digest')
  if step not in (None, record['step']):
    raise DamagedError(f'{path}: is a copy of step {record["step"]}')
  return record


def _unreadable(path: pathlib.Path, error: Exception) -> DamagedError:
  return DamagedError(f'{path}: unreadable ({errors.one_line(error, 300)})')


def _digest(record: dict[str, Any]) -> str:
  text = json.dumps(record, sort_keys=True)  # a loss in it may be NaN
  return hashlib.sha256(text.encode()).hexdigest()


def _alone() -> ocp.options.MultiprocessingOptions:
  """This process reads or writes without waiting for others."""
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=index, active_processes={index}, barrier_sync_key_prefix='td'
  )


@functools.cache
def _quieten_orbax() -> None:
  """Silences what orbax reports by itself: what matters becomes one line."""
  logging.get_absl_logger().addFilter(
    lambda record: f'{ocp.__name__.partition(".")[0]}/' not in record.pathname
  )
  report = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    # When one file cannot be read or written, orbax closes its event loop under
    # the others that are still under way; the first one's error is the news.
    if 'Event loop is closed' not in str(unraisable.exc_value):
      report(unraisable)

  sys.unraisablehook = hook
