"""The loop. Its order matters: step, log, evaluate, save, stop.

A row of metrics is written before the checkpoint of its step, so that a resumed
run finds every row up to its step. Between two logs nothing waits for the
device.
"""

import contextlib
import dataclasses
import pathlib
import shlex
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from td_flax import (
  checkpoint,
  chips,
  errors,
  evaluate,
  metrics,
  parallel,
  preemption,
  pretrained,
  progress,
  step,
  summary,
)
from td_flax.config import Config
from td_flax.data import dataset, prepare
from td_flax.data.pipeline import Pipeline
from td_flax.dropping import plan as plans
from td_flax.feed import Feed
from td_flax.model import attention
from td_flax.speed import Speed, row_flops
from td_flax.workdir import Workdir


def train(config: Config, path: pathlib.Path) -> dict[str, Any]:
  """Trains to `train.num_steps`, from the newest checkpoint if there is one.

  Args:
    config: the experiment.
    path: its workdir; the packed dataset is made there unless `data.dir` says
      otherwise or another run has made it.

  Returns:
    The content of `summary.json`.

  Raises:
    errors.UserError: what stands in the way, in one line.
  """
  engine = parallel.make(config.parallel)
  _check_devices(config, engine)
  _report_attention(config, engine)
  workdir = Workdir(path)
  workdir.check(config)
  packed = _packed(config, pathlib.Path(config.data.dir or workdir.data))
  fingerprints = {
    'tokenizer': packed.tokenizer.fingerprint,
    'dataset': packed.fingerprint,
  }
  workdir.check(config, fingerprints)
  if config.train.init_from and not workdir.config_json.exists():
    _initial(config).check(config, fingerprints['tokenizer'])
  if jax.process_count() > 1:  # all have looked before one writes
    multihost_utils.sync_global_devices('workdir checked')
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(workdir.lock())
      workdir.check(config, fingerprints)  # now that nobody else may claim it
      workdir.claim(config, fingerprints, packed.tokenizer)
    return _Run(config, workdir, packed, engine).run()


def _initial(config: Config) -> pretrained.Pretrained:
  return pretrained.find(config.train.init_from, 'train.init_from')


def _check_devices(config: Config, engine: parallel.Engine) -> None:
  devices, parts = engine.num_devices, config.train.microbatches
  if config.train.batch_size % (devices * parts):
    raise errors.ConfigError(
      f'train.batch_size={config.train.batch_size}: must be divisible by '
      f'{devices} devices x train.microbatches={parts}'
    )


def _report_attention(config: Config, engine: parallel.Engine) -> None:
  """Says how attention is computed; refuses what cannot be."""
  plan = step.training_plan(config)
  shapes = dict.fromkeys(plans.shapes(plan, config.data.sequence_length))
  for queries, keys in shapes:
    name, reason = attention.choose(config.model, engine, queries, keys)
    progress.write_line(
      f'attention of {queries} queries and {keys} keys: {name} ({reason})'
    )


def _packed(config: Config, directory: pathlib.Path) -> dataset.PackedDataset:
  """The packed dataset; several processes never make it, and must agree."""
  if jax.process_count() == 1:
    return prepare.prepare(config.data, directory)
  packed, problem = None, None
  try:
    dataset.check(directory, config.data)
    packed = dataset.load(directory)
  except (errors.UserError, OSError) as error:
    problem = error
  # Every process says what it has before any gives up: none is left waiting.
  digest = packed.fingerprint if packed else '00' * 32
  digests = multihost_utils.process_allgather(
    np.frombuffer(bytes.fromhex(digest), np.uint8)
  )
  command = shlex.join(
    ['python', '-m', 'td_flax.tools.prepare', *_own_arguments(sys.argv[1:])]
  )
  if problem:
    raise errors.DataError(f'{problem}; once on each host, run: {command}')
  for process, other in enumerate(digests):
    if other.tobytes().hex() != digest:
      raise errors.DataError(
        f'{directory}: process {process} has another dataset or none; once on '
        f'its host, run: {command}'
      )
  return packed


def _own_arguments(arguments: list[str]) -> list[str]:
  """The arguments without those that tell processes apart."""
  shared = []
  for name, value in zip(arguments, [*arguments[1:], ''], strict=True):
    if name.startswith(('--config', '--workdir')):
      # `--workdir DIR` is two arguments, `--workdir=DIR` is one.
      shared += [name] if '=' in name else [name, value]
  return shared


class _Run:
  """One training run, from its restored or fresh state to its end."""

  def __init__(
    self,
    config: Config,
    workdir: Workdir,
    packed: dataset.PackedDataset,
    engine: parallel.Engine,
  ):
    self.config = config
    self.workdir = workdir
    self.packed = packed
    self.engine = engine
    tokenizer = packed.tokenizer
    self.steps = step.Steps(
      config, tokenizer.vocab_size, tokenizer.special, engine
    )
    self.checkpoints = checkpoint.Checkpoints(
      workdir.checkpoints,
      keep=config.checkpoint.keep,
      keep_best=config.checkpoint.keep_best,
    )
    self.evaluator = evaluate.Evaluator(config, self.steps, engine, packed.eval)
    self.window = metrics.Window()
    self._is_profiling = False
    # What a run remembers beside its state, stored in every checkpoint.
    self.memory: dict[str, float] = {}
    self.resumed_from: int | None = None
    self.state = self._restored() or self._fresh()
    rows = config.train.batch_size
    chip = chips.chip_of(engine.devices[0].device_kind)
    self.speed = Speed(
      tokens_per_step=rows * config.data.sequence_length,
      flops_per_step=rows * row_flops(self.steps, self.steps.plan),
      peak_flops=chip and chip.peak_flops * engine.num_devices,
    )
    self.writer = None
    if jax.process_index() == 0:
      self.writer = metrics.Writer(
        workdir.path,
        resume_step=self.resumed_from,
        tensorboard=config.log.tensorboard,
      )

  def _initial_table(self) -> np.ndarray:
    return self.steps.policy.initial_table(self.packed.unigram_counts)

  def _restored(self) -> step.TrainState | None:
    abstract = jax.eval_shape(self.steps.init, self._initial_table())
    restored = self.checkpoints.restore_latest(abstract)
    if restored is None:
      return None
    self.resumed_from, state, memory = restored
    self.window = metrics.Window.from_json(memory.pop('window'))
    self.memory = memory
    progress.write_line(f'resuming from step {self.resumed_from}')
    return self.engine.place(state)

  def _fresh(self) -> step.TrainState:
    state = jax.device_get(jax.jit(self.steps.init)(self._initial_table()))
    if self.config.train.init_from:
      params = _initial(self.config).params(state.params)
      state = dataclasses.replace(state, params=params)
    return self.engine.place(state)

  def run(self) -> dict[str, Any]:
    """Trains, closes everything, then writes and prints the summary."""
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
    content = summary.make(
      self.config,
      self.steps,
      self.packed,
      state,
      num_devices=self.engine.num_devices,
      resumed_from=self.resumed_from,
      memory=self.memory,
      speed=self.speed.total(),
    )
    if self.writer is not None:
      summary.write(self.workdir.summary_json, content)
      print(
        summary.page(
          content,
          self.config,
          self.workdir,
          self.packed,
        ),
        flush=True,
      )
    return content

  def _loop(self, stop: preemption.StopRequest) -> None:
    """Steps from where the state is to `train.num_steps`."""
    config, engine = self.config, self.engine
    start, num_steps = self.resumed_from or 0, config.train.num_steps
    if self.resumed_from is None:
      self._write(0, self._evaluate())
    if start == num_steps:
      return
    with self.speed.compiling():
      train_step = engine.compile_train(
        self.steps.train,
        self.state,
        (config.train.batch_size, config.data.sequence_length),
      )
    pipeline = Pipeline(
      self.packed.train,
      seed=config.train.seed,
      batch_size=config.train.batch_size,
    )
    rows = engine.local_rows(config.train.batch_size)
    bar = progress.Progress(num_steps, 'training', 'steps', initial=start)
    with Feed(pipeline, engine, rows, start, num_steps) as feed, bar:
      self.speed.start()
      shown = start
      for done in range(start + 1, num_steps + 1):
        self._profile(done - 1)
        self.state, measured = train_step(self.state, feed.batch(done - 1))
        self.window.add(measured)
        self.speed.add_step()
        is_last = done == num_steps
        must_stop = stop.requested(done) and not is_last
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
            f'{self.workdir.checkpoints / str(done)}; the same command resumes'
          )

  def _profile(self, step: int) -> None:
    """Starts and stops the profiler's trace around `train.profile_steps`."""
    start, _, stop = self.config.train.profile_steps.partition(':')
    if start and step == int(start):
      jax.profiler.start_trace(str(self.workdir.path / 'profile'))
      self._is_profiling = True
    elif self._is_profiling and step == int(stop):
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
    row['drop/layer_tokens_kept'] = self.steps.layer_tokens_kept
    table = self.engine.fetch(self.state.importance)
    known = self.steps.policy.known(table, self.packed.unigram_counts)
    if known is not None:
      row |= metrics.table_quantiles(table, known)
    self.window.clear()
    return row

  def _evaluate(self) -> dict[str, float]:
    with self.speed.evaluating():
      row = self.evaluator(self.state.params)
    self.memory.setdefault('first_eval_loss', row['eval/loss'])
    self.memory['last_eval_loss'] = row['eval/loss']
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
