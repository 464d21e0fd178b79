"""Checkpoints: saved in the background, verified, never silently wrong.

The only file that imports orbax. `<directory>/<step>/` holds two orbax items:

  state/   the arrays of the train state, a nested dict by path
  record/  record.json: the step, the held-out loss, the loop's own metadata,
           a digest per array and one of the record itself

orbax trusts what it reads, so every array is compared with its digest. A step
that cannot be read or differs from its record is renamed to `<step>.damaged`,
never deleted, and the next older one is restored. orbax's CheckpointManager is
not used: it trusts directory names, its `save` returns False and writes nothing
after a rollback, and it asks for preemption from a background thread.

The state is replicated: process 0 alone judges and writes, without barriers;
all processes read the same directory.
"""

import contextlib
import hashlib
import json
import math
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from td_flax import errors, leaves, progress

# orbax reports through absl, with tracebacks; what matters becomes one line.
logging.get_absl_logger().addFilter(
  lambda record: f'{ocp.__name__.partition(".")[0]}/' not in record.pathname
)


def _hook(unraisable: Any, report: Any = sys.unraisablehook) -> None:
  # When one file cannot be read or written, orbax closes its event loop under
  # the others that are still under way; the first one's error is the news.
  if 'Event loop is closed' not in str(unraisable.exc_value):
    report(unraisable)


sys.unraisablehook = _hook

_RECORD = pathlib.PurePath('record', 'record.json')
_LEFTOVERS = ('*.orbax-checkpoint-tmp*', '*.deleting')  # of interruptions
_NO_CHECKPOINT, _NONE_SOUND = -1, -2


class _DamagedError(errors.CheckpointError):
  """A step's directory is not what was saved."""


class Checkpoints:
  """The checkpoints of one run.

  Every process constructs it and calls every method at the same steps.

  Args:
    directory: where the steps lie; created if missing.
    keep: the newest steps that are kept.
    keep_best: also keep the step with the lowest held-out loss.
  """

  def __init__(
    self, directory: pathlib.Path, *, keep: int, keep_best: bool
  ) -> None:
    self._directory = directory.absolute()
    self._keep = keep
    self._keep_best = keep_best
    self._saving: int | None = None
    self._failure: str | None = None  # of the latest save
    self._writer: ocp.AsyncCheckpointer | None = None
    if jax.process_index() == 0:
      with _clear_errors(self._directory):
        self._directory.mkdir(parents=True, exist_ok=True)
      self._remove_leftovers()
      self._writer = _writer()

  def _path(self, step: int) -> pathlib.Path:
    return self._directory / str(step)

  def steps(self) -> list[int]:
    """The finished steps on disk, oldest first; not yet verified."""
    with _clear_errors(self._directory):
      return steps(self._directory)

  def save(
    self,
    step: int,
    state: Any,
    metadata: dict[str, Any],
    *,
    eval_loss: float | None,
    wait: bool = False,
  ) -> None:
    """Copies `state` to the host and writes it in the background.

    A save that fails costs one line on standard error; training goes on, and
    the next save tries anew.

    Args:
      step: the step, new to this directory.
      state: pytree of replicated jax or numpy arrays.
      metadata: what the loop needs beside the state; JSON.
      eval_loss: the held-out loss at this step, None where not evaluated.
      wait: return once the checkpoint is on disk.

    Raises:
      errors.CheckpointError: with `wait`, the checkpoint was not written.
    """
    if self._writer is not None:
      self._settle()
      arrays = leaves.to_host(state)
      record = {
        'step': step,
        'eval_loss': eval_loss,
        'metadata': metadata,
        'leaves': leaves.digests(arrays),
      }
      args = ocp.args.Composite(
        record=ocp.args.JsonSave({**record, 'sha256': _record_digest(record)}),
        state=ocp.args.PyTreeSave(leaves.nested(arrays)),
      )
      self._saving = step
      try:
        self._check_space(sum(array.nbytes for array in arrays.values()))
        self._writer.save(self._path(step), args=args)
      except Exception as error:  # any kind: a save never ends the training
        self._fail(error)
    if wait:
      self.wait()

  def wait(self) -> None:
    """Returns once the latest save is on disk.

    Raises:
      errors.CheckpointError: on every process, if it failed.
    """
    self._settle()
    failed = self._failure is not None
    if jax.process_count() > 1:
      failed = bool(multihost_utils.broadcast_one_to_all(np.int32(failed)))
    if failed:
      reason = self._failure or 'process 0 could not save'
      raise errors.CheckpointError(f'{self._directory}: {reason}')

  def close(self) -> None:
    """Finishes what is being written; warns if that fails."""
    self._settle()
    if self._writer is not None:
      self._writer.close()

  def restore_latest(
    self, abstract_state: Any
  ) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest sound checkpoint, bitwise as it was saved.

    Args:
      abstract_state: the state's arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The step, the state with numpy leaves and the metadata; None where
      nothing was ever saved.

    Raises:
      errors.CheckpointError: none is sound, or it does not fit.
    """
    self._settle()
    step, data = _NO_CHECKPOINT, None
    if self._writer is not None:
      step, data = self._newest_sound()
    if jax.process_count() > 1:
      step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
    if step == _NO_CHECKPOINT:
      return None
    if step == _NONE_SOUND:
      raise errors.CheckpointError(
        f'{self._directory}: no checkpoint is sound (see *.damaged there); '
        'bring back a copy, or start over in another workdir'
      )
    arrays, record = data or _read(self._path(step), step=step)
    state = leaves.fit(arrays, abstract_state, origin=self._path(step))
    return step, state, record['metadata']

  def _settle(self) -> None:
    """Waits for the save in progress, then deletes what is not kept."""
    if self._saving is None:
      return
    try:
      self._writer.wait_until_finished()
    except Exception as error:  # any kind: a save never ends the training
      self._fail(error)
      return
    self._saving = self._failure = None
    try:
      self._prune()
    except (OSError, errors.CheckpointError) as error:
      progress.write_line(f'warning: old checkpoints are kept: {error}')

  def _check_space(self, needed: int) -> None:
    free = shutil.disk_usage(self._directory).free
    if free < needed:
      raise OSError(
        f'{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free on the disk'
      )

  def _fail(self, error: Exception) -> None:
    self._failure = (
      f'checkpoint {self._saving} was not saved: {errors.one_line(error, 300)}'
    )
    self._saving = None
    progress.write_line(f'warning: {self._failure}')
    self._remove_leftovers()
    self._writer = _writer()  # the old one would raise the same error again

  def _prune(self) -> None:
    losses = _eval_losses(self._directory)
    best = _best(losses) if self._keep_best else None
    kept = {*list(losses)[-self._keep :], best}
    for step in losses:
      if step not in kept:
        # Renamed first: half a directory must not look like a checkpoint.
        doomed = self._path(step).rename(self._directory / f'{step}.deleting')
        shutil.rmtree(doomed)

  def _remove_leftovers(self) -> None:
    for pattern in _LEFTOVERS:
      for path in self._directory.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)  # costs space, nothing else

  def _newest_sound(self) -> tuple[int, Any]:
    for step in reversed(self.steps()):
      try:
        return step, _read(self._path(step), step=step)
      except _DamagedError as error:
        name = self._quarantine(step).name
        progress.write_line(f'warning: {error}; renamed to {name}')
    existed = any(self._directory.glob('*.damaged*'))
    return (_NONE_SOUND if existed else _NO_CHECKPOINT), None

  def _quarantine(self, step: int) -> pathlib.Path:
    path, count = self._directory / f'{step}.damaged', 1
    while path.exists():
      count += 1
      path = self._directory / f'{step}.damaged.{count}'
    with _clear_errors(self._path(step)):
      return self._path(step).rename(path)


def steps(directory: pathlib.Path) -> list[int]:
  """The finished steps in `directory`, oldest first; not yet verified.

  Raises:
    OSError: there is no such directory.
  """
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
    'best': _best(_eval_losses(directory)),
  } | {str(number): number for number in present}
  if chosen.get(step) is None:
    raise errors.ConfigError(
      f'{where}: has no step {step!r}; there are latest, best (once it was '
      f'evaluated) and {", ".join(map(str, present))}'
    )
  return chosen[step]


def eval_loss(directory: pathlib.Path, step: int) -> float | None:
  """The held-out loss at a step, None where it was not evaluated.

  Raises:
    errors.CheckpointError: the step's record is damaged.
  """
  return _read_record(directory / str(step), step=step)['eval_loss']


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
  arrays, _ = _read(path.absolute(), prefix='params/')
  return leaves.fit(arrays, abstract_params, origin=path, prefix='params/')


def load_importance(path: pathlib.Path) -> np.ndarray:
  """The verified importance table of a pretraining run, f32[V].

  Args:
    path: the directory of one checkpoint.

  Raises:
    errors.CheckpointError: it is damaged.
  """
  return _read(path.absolute(), prefix='importance')[0]['importance']


def _eval_losses(directory: pathlib.Path) -> dict[int, float]:
  """The loss of every step with a sound record; NaN: not evaluated."""
  losses = {}
  for step in steps(directory):
    # What is damaged is `restore_latest`'s to judge: neither counted here
    # nor deleted.
    with contextlib.suppress(_DamagedError):
      loss = _read_record(directory / str(step), step=step)['eval_loss']
      losses[step] = math.nan if loss is None else loss
  return losses


def _best(losses: dict[int, float]) -> int | None:
  finite = {step: x for step, x in losses.items() if math.isfinite(x)}
  return min(finite, key=lambda step: (finite[step], -step), default=None)


def params_sha256(params: Any) -> str:
  """A digest of all parameters: path, dtype, shape, bytes in path order."""
  sha = hashlib.sha256()
  for path, array in sorted(leaves.to_host(params).items()):
    leaves.update(sha, path, array)
  return sha.hexdigest()


def _writer() -> ocp.AsyncCheckpointer:
  alone = _alone()
  return ocp.AsyncCheckpointer(
    ocp.CompositeCheckpointHandler(
      composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
      state=ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
      record=ocp.JsonCheckpointHandler(
        filename=_RECORD.name, multiprocessing_options=alone
      ),
    ),
    async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    multiprocessing_options=alone,
  )


def _alone() -> ocp.options.MultiprocessingOptions:
  """This process reads or writes without waiting for others."""
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=index, active_processes={index}, barrier_sync_key_prefix='td'
  )


def _read_record(
  directory: pathlib.Path, *, step: int | None = None
) -> dict[str, Any]:
  """The record, compared with its own digest and with `step` if given."""
  path = directory / _RECORD
  try:
    record = json.loads(path.read_bytes())
    sound = record.pop('sha256') == _record_digest(record)
  except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
    raise _DamagedError(
      f'{path}: unreadable ({errors.one_line(error, 300)})'
    ) from error
  if not sound:
    raise _DamagedError(f'{path}: does not match its own digest')
  if step not in (None, record['step']):
    raise _DamagedError(f'{directory}: is a copy of step {record["step"]}')
  return record


def _read(
  directory: pathlib.Path, *, prefix: str = '', step: int | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The arrays whose path starts with `prefix`, verified, and the record."""
  record = _read_record(directory, step=step)
  expected = {k: v for k, v in record['leaves'].items() if k.startswith(prefix)}
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  args = ocp.args.PyTreeRestore(
    item=leaves.nested(dict.fromkeys(expected, 0)),
    restore_args=leaves.nested(dict.fromkeys(expected, as_numpy)),
    partial_restore=True,
  )
  alone = _alone()
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
  path = directory / 'state'
  try:
    tree = reader.restore(path, args=args)
  except Exception as error:  # whatever orbax makes of damaged files
    raise _DamagedError(
      f'{path}: unreadable ({errors.one_line(error, 300)})'
    ) from error
  finally:
    reader.close()
  arrays = leaves.to_host(tree)
  digests = leaves.digests(arrays)
  for path, digest in expected.items():
    if digests.get(path) != digest:
      raise _DamagedError(f'{directory}: {path} differs from its digest')
  return arrays, record


def _record_digest(record: dict[str, Any]) -> str:
  text = json.dumps(record, sort_keys=True)  # a loss in it may be NaN
  return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _clear_errors(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise errors.CheckpointError(
      f'{path}: cannot be used as a directory of checkpoints: {error.strerror}'
    ) from error
