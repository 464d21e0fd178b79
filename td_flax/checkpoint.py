"""Checkpoints: saved in the background, verified, never silently wrong.

What a step consists of is told in `saved.py`. One that cannot be read or
differs from its record is renamed to `<step>.damaged`, never deleted, and the
next older one is restored. orbax's CheckpointManager is not used: it trusts
directory names, its `save` returns False and writes nothing after a rollback,
and it asks for preemption from a background thread.

The state is replicated: process 0 alone judges and writes, without barriers;
all processes read the same directory.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from td_flax import errors, layout, leaves, progress, saved

_NO_CHECKPOINT, _NONE_SOUND = -1, -2


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
    self._writer: saved.Writer | None = None
    if jax.process_index() == 0:
      with _clear_errors(self._directory):
        self._directory.mkdir(parents=True, exist_ok=True)
      self._remove_leftovers()
      self._writer = saved.Writer()

  def _path(self, step: int) -> pathlib.Path:
    return self._directory / str(step)

  def steps(self) -> list[int]:
    """The finished steps on disk, oldest first; not yet verified."""
    with _clear_errors(self._directory):
      return saved.steps(self._directory)

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
      record = {'step': step, 'eval_loss': eval_loss, 'metadata': metadata}
      self._saving = step
      try:
        self._check_space(sum(array.nbytes for array in arrays.values()))
        self._writer.save(self._path(step), arrays, record)
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
    arrays, record = data or saved.read(self._path(step), step=step)
    state = leaves.fit(arrays, abstract_state, origin=self._path(step))
    return step, state, record['metadata']

  def _settle(self) -> None:
    """Waits for the save in progress, then deletes what is not kept."""
    if self._saving is None:
      return
    try:
      self._writer.wait()
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
    self._writer = (
      saved.Writer()
    )  # the old one would raise the same error again

  def _prune(self) -> None:
    losses = saved.eval_losses(self._directory)
    best = saved.best(losses) if self._keep_best else None
    kept = {*list(losses)[-self._keep :], best}
    for step in losses:
      if step not in kept:
        # Renamed first: half a directory must not look like a checkpoint.
        doomed = self._directory / f'{step}{layout.DELETING}'
        shutil.rmtree(self._path(step).rename(doomed))

  def _remove_leftovers(self) -> None:
    for mark in layout.UNFINISHED:
      for path in self._directory.glob(f'*{mark}*'):
        shutil.rmtree(path, ignore_errors=True)  # costs space, nothing else

  def _newest_sound(self) -> tuple[int, Any]:
    for step in reversed(self.steps()):
      try:
        return step, saved.read(self._path(step), step=step)
      except saved.DamagedError as error:
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


@contextlib.contextmanager
def _clear_errors(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise errors.CheckpointError(
      f'{path}: cannot be used as a directory of checkpoints: {error.strerror}'
    ) from error
