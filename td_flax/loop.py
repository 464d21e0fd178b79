"""The loop. Its order matters: step, log, evaluate, save, stop.

A row of metrics is written before the checkpoint of its step, so that a resumed
run finds every row up to its step. Between logs, evaluations and saves
nothing waits for the device.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from td_flax import (
  artifacts,
  checkpoint,
  chips,
  errors,
  leaves,
  metrics,
  parallel,
  preemption,
  progress,
  saved,
)
from td_flax.config import Config
from td_flax.data.pipeline import Pipeline
from td_flax.data.vocabulary import Tokenizer
from td_flax.dropping import plan as plans
from td_flax.feed import Feed
from td_flax.learner import Learner, TrainState
from td_flax.model import attention
from td_flax.speed import Speed
from td_flax.workdir import Workdir, pinned


def report_attention(
  config: Config, engine: parallel.Engine, several: Iterable[plans.Plan]
) -> None:
  """Says how attention is computed in some plans; refuses what cannot be."""
  n = config.data.sequence_length
  shapes = (shape for plan in several for shape in plans.shapes(plan, n))
  for queries, keys in dict.fromkeys(shapes):
    name, reason = attention.choose(config.model, engine, queries, keys)
    progress.write_line(
      f'attention of {queries} queries and {keys} keys: {name} ({reason})'
    )


def _agree(
  config: Config,
  workdir: Workdir,
  fingerprints: dict[str, str],
  fresh: TrainState | None,
) -> None:
  """Refuses processes that would train something else; all of them call it.

  Each places its own weights: where these differ, nothing else would say so.

  Args:
    config: the run's.
    workdir: the folder.
    fingerprints: of what the config does not pin down.
    fresh: the state to start from, where the run is new.

  Raises:
    errors.CheckpointError: another process differs; every process raises it.
  """
  parts = {
    'config': artifacts.fingerprint(pinned(config)),
    'data or tokenizer': artifacts.fingerprint(fingerprints),
    'weights to start from': leaves.sha256(fresh.params if fresh else {}),
  }
  for what, digest in parts.items():
    for process, other in enumerate(parallel.digests(digest)):
      if other != digest:
        raise errors.CheckpointError(
          f'{workdir.path}: process {process} differs in the {what}; start '
          'all with the same flags and the same files'
        )


@contextlib.contextmanager
def _holding(
  workdir: Workdir,
  config: Config,
  fingerprints: dict[str, str],
  tokenizer: Tokenizer,
) -> Iterator[None]:
  """Makes a folder this run's and keeps others out; every process calls it.

  Args:
    workdir: the folder; `check` found nothing against it.
    config: the run's.
    fingerprints: of what the config does not pin down.
    tokenizer: saved in the folder.

  Raises:
    errors.CheckpointError: another process has it, or has claimed it.
  """
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(workdir.lock())
      workdir.check(config, fingerprints)  # now that nobody else may claim it
      workdir.claim(config, fingerprints, tokenizer)
    yield


class Experiment(Protocol):
  """What a loop needs to know of what is learned.

  Attributes:
    learner: makes the state.
    table: the importance table of a fresh state.
    pipeline: its batches.
  """

  learner: Learner
  table: np.ndarray
  pipeline: Pipeline

  def programs(self, start: int) -> dict[Any, Learner]:
    """What the steps from `start` on run, by their names."""

  def program_at(self, step: int) -> Any:
    """Which of them a step runs."""

  def initial(self, params: Any) -> Any:
    """The parameters to start from, given fresh ones."""

  def evaluate(self, params: Any) -> dict[str, float]:
    """Held-out figures; `eval/loss` decides what the best checkpoint is."""

  def row(self, state: TrainState) -> dict[str, float]:
    """What is logged beside loss, accuracy and speed."""


class Done(NamedTuple):
  """A run at its end.

  Attributes:
    state: on the host.
    resumed_from: the step this process began at, None for 0.
    memory: `first_eval_loss` and `last_eval_loss`; with `eval/own_loss` also
      `first_eval_own_loss` and `last_eval_own_loss`.
    speed: of this process, None where it took no step.
  """

  state: TrainState
  resumed_from: int | None
  memory: dict[str, float]
  speed: dict[str, float] | None


@contextlib.contextmanager
def run(
  config: Config,
  workdir: Workdir,
  engine: parallel.Engine,
  experiment: Experiment,
  fingerprints: dict[str, str],
  tokenizer: Tokenizer,
) -> Iterator[Done]:
  """Trains to `train.num_steps`, from the newest checkpoint if there is one.

  The folder is claimed once the parameters to start from are there, and held
  until the caller has written what it makes of the result.

  Args:
    config: the experiment's.
    workdir: `check` found nothing against it.
    engine: maps its steps.
    experiment: what is learned.
    fingerprints: of what the config does not pin down.
    tokenizer: saved in the folder.

  Raises:
    errors.UserError: what stands in the way, in one line.
  """
  started = _Run(config, workdir, engine, experiment)
  if jax.process_count() > 1:  # and all have looked before one writes
    _agree(config, workdir, fingerprints, started.state)
  with _holding(workdir, config, fingerprints, tokenizer):
    yield started.run()


class _Run:
  """One training run, from its restored or fresh state to its end."""

  def __init__(
    self,
    config: Config,
    workdir: Workdir,
    engine: parallel.Engine,
    experiment: Experiment,
  ):
    self.config = config
    self.workdir = workdir
    self.engine = engine
    self.experiment = experiment
    self.window = metrics.Window()
    self._is_profiling = False
    # What a run remembers beside its state, stored in every checkpoint.
    self.memory: dict[str, float] = {}
    self.resumed_from: int | None = None
    chip = chips.chip_of(engine.devices[0].device_kind)
    self.speed = Speed(peak_flops=chip and chip.peak_flops * engine.num_devices)
    # Here, where nothing is written yet: weights to start from may be unusable.
    with workdir.clear_errors():
      has_steps = saved.steps(workdir.checkpoints)
    self.state = None if has_steps else self._fresh()

  def _open(self) -> None:
    """Begins to use the folder."""
    config, workdir = self.config, self.workdir
    self.checkpoints = checkpoint.Checkpoints(
      workdir.checkpoints,
      keep=config.checkpoint.keep,
      keep_best=config.checkpoint.keep_best,
    )
    state = self._restored() or self.state or self._fresh()
    self.state = self.engine.place(state)
    self.writer = None
    if jax.process_index() == 0:
      self.writer = metrics.Writer(
        workdir,
        resume_step=self.resumed_from,
        tensorboard=config.log.tensorboard,
      )

  def _restored(self) -> TrainState | None:
    learner, table = self.experiment.learner, self.experiment.table
    abstract = jax.eval_shape(learner.init, table)
    restored = self.checkpoints.restore_latest(abstract)
    if restored is None:
      return None
    self.resumed_from, state, memory = restored
    self.window = metrics.Window.from_json(memory.pop('window'))
    self.memory = memory
    progress.write_line(f'resuming from step {self.resumed_from}')
    return state

  def _fresh(self) -> TrainState:
    init, table = self.experiment.learner.init, self.experiment.table
    state = jax.device_get(init(table))
    params = self.experiment.initial(state.params)
    return dataclasses.replace(state, params=params)

  def run(self) -> Done:
    """Trains, then closes everything."""
    self._open()
    try:
      with preemption.StopRequest() as stop:
        self._loop(stop)
    finally:
      if self._is_profiling:
        jax.profiler.stop_trace()
      self.checkpoints.close()
      if self.writer is not None:
        self.writer.close()
    state = self.engine.fetch(self.state)
    del self.state  # frees the devices
    return Done(
      state,
      self.resumed_from,
      self.memory,
      self.speed.total(),
    )

  def _loop(self, stop: preemption.StopRequest) -> None:
    """Steps from where the state is to `train.num_steps`."""
    config, engine = self.config, self.engine
    start, num_steps = self.resumed_from or 0, config.train.num_steps
    if self.resumed_from is None:
      self._write(0, self._evaluate())
    if start == num_steps:
      return
    programs = self.experiment.programs(start)
    # All of them: a switch waits for nothing.
    with self.speed.compiling(len(programs)):
      train_steps = {
        name: engine.compile_train(program.train, self.state, program.batch)
        for name, program in programs.items()
      }
    pipeline = self.experiment.pipeline
    rows = engine.local_rows(config.train.batch_size)
    bar = progress.Progress(num_steps, 'training', 'steps', initial=start)
    with Feed(pipeline, engine, rows, start, num_steps) as feed, bar:
      self.speed.start()
      shown = start
      for done in range(start + 1, num_steps + 1):
        self._start_profile(done - 1)
        name = self.experiment.program_at(done - 1)
        self.state, measured = train_steps[name](
          self.state, feed.batch(done - 1)
        )
        self._stop_profile(done)
        self.window.add(measured)
        count, program = config.train.batch_size, programs[name]
        self.speed.add_step(
          count * program.config.data.sequence_length, count * program.row_flops
        )
        is_last = done == num_steps
        must_stop = stop.requested() and not is_last
        logs = is_last or done % config.log.every == 0
        evaluates = is_last or done % config.eval.every == 0
        saves = is_last or must_stop or done % config.checkpoint.every == 0
        if not (logs or evaluates or saves):
          continue
        self._check_finite(done)
        with self.speed.paused():
          row = self._log(feed) if logs else {}
          row |= self._evaluate() if evaluates else {}
          self._write(done, row)
          if logs:
            bar.set(loss=row['train/loss'])
            bar.update(done - shown)
            shown = done
          if saves:
            self._save(done, row, wait=is_last or must_stop)
        if must_stop:
          raise errors.Stopped(
            f'stopped by a signal after step {done}; saved as '
            f'{self.workdir.checkpoints / str(done)}; run the '
            'same command again to continue'
          )

  def _start_profile(self, step: int) -> None:
    """Starts the profiler's trace before the first of `train.profile_steps`."""
    start, _, _ = self.config.train.profile_steps.partition(':')
    if start and step == int(start):
      jax.block_until_ready(self.state)  # earlier steps are not in it
      jax.profiler.start_trace(str(self.workdir.path / 'profile'))
      self._is_profiling = True

  def _stop_profile(self, done: int) -> None:
    """Stops it behind the last of them."""
    _, _, stop = self.config.train.profile_steps.partition(':')
    if self._is_profiling and done == int(stop):
      jax.block_until_ready(self.state)
      jax.profiler.stop_trace()
      self._is_profiling = False

  def _check_finite(self, done: int) -> None:
    """Waits for the steps so far; stops where too many were skipped."""
    longest, limit = (
      self.window.max_skipped_run,
      self.config.train.max_nonfinite,
    )
    if longest >= limit:
      raise errors.TrainingError(
        f'{longest} updates in a row had a non-finite loss or gradient by step '
        f'{done} (train.max_nonfinite={limit}): none was applied, checkpoints '
        'are finite; try a smaller optimizer.learning_rate'
      )

  def _log(self, feed: Feed) -> dict[str, float]:
    """The window's row; begins the next window."""
    row = self.window.means() | self.speed.row(feed.take_waited())
    row |= self.experiment.row(self.state)
    self.window.clear()
    return row

  def _evaluate(self) -> dict[str, float]:
    with self.speed.evaluating():
      row = self.experiment.evaluate(self.state.params)
    for name in ('loss', 'own_loss'):
      if f'eval/{name}' in row:
        self.memory.setdefault(f'first_eval_{name}', row[f'eval/{name}'])
        self.memory[f'last_eval_{name}'] = row[f'eval/{name}']
    return row

  def _write(self, step: int, row: dict[str, float]) -> None:
    if row and self.writer is not None:
      self.writer.write(step, row)

  def _save(self, step: int, row: dict[str, float], *, wait: bool) -> None:
    self.checkpoints.save(
      step,
      self.engine.fetch(self.state),
      {**self.memory, 'window': self.window.to_json()},
      eval_loss=row.get('eval/loss'),
      wait=wait,
    )
