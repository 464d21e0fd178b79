"""Pretraining: from a config and a workdir to `summary.json`."""

import pathlib
import shlex
from typing import Any

import jax

from td_flax import (
  artifacts,
  bucket,
  errors,
  evaluate,
  loop,
  metrics,
  parallel,
  pretrained,
  progress,
  step,
  summary,
)
from td_flax.config import Config
from td_flax.data import dataset, prepare
from td_flax.data.pipeline import Pipeline
from td_flax.dropping import policies
from td_flax.learner import TrainState
from td_flax.programs import Key, Programs, Schedule
from td_flax.workdir import Workdir


def train(
  config: Config,
  path: pathlib.Path,
  place: str = '',
  arguments: dict[str, str] | None = None,
) -> dict[str, Any]:
  """Trains to `train.num_steps`, from the newest checkpoint if there is one.

  Args:
    config: the experiment.
    path: its workdir; the packed dataset is made there unless `data.dir` says
      otherwise or another run has made it.
    place: how the user named the workdir, where that is not `path`.
    arguments: of `td_flax.main` by their flags' names, so that commands can be
      suggested; None where something else trains.

  Returns:
    The content of `summary.json`.

  Raises:
    errors.UserError: what stands in the way, in one line.
  """
  engine = parallel.make(config.parallel)
  engine.check_batch(config.train)
  schedule = Schedule(config)
  parts = schedule.configs
  plans = [plan for key in parts for plan in schedule.passes(key)]
  for part in parts.values():
    plans += step.evaluation_plans(part)
  loop.report_attention(config, engine, plans)
  for part in parts.values():
    if note := policies.load(part.drop.policy).note(part):
      progress.write_line(note)
  workdir = Workdir(path)
  workdir.check(config)
  if config.train.init_from and not workdir.config_json.exists():
    _initial(config)  # a mistake is told before hours of packing
  packed = _packed(config, workdir, arguments)
  fingerprints = {
    'tokenizer': packed.tokenizer.fingerprint,
    'dataset': packed.fingerprint,
  }
  workdir.check(config, fingerprints)
  pretraining = _Pretraining(config, packed, engine)
  with loop.run(
    config, workdir, engine, pretraining, fingerprints, packed.tokenizer
  ) as done:
    content = None
    if done.speed is None:  # no step was taken: whoever took them has measured
      content = workdir.summary()
    if not content or content['step'] != int(done.state.step):
      content = summary.make(
        config,
        pretraining.all_programs,
        packed,
        done.state,
        num_devices=engine.num_devices,
        resumed_from=done.resumed_from,
        memory=done.memory,
        speed=done.speed,
      )
    if jax.process_index() == 0:
      with workdir.clear_errors():
        artifacts.write_json(workdir.summary_json, content)
      place = place or str(path)
      page = summary.page(content, config, place, packed, arguments)
      print(page, flush=True)
    return content


def _initial(config: Config) -> pretrained.Pretrained:
  return pretrained.find(config.train.init_from, 'train.init_from')


def _packed(
  config: Config, workdir: Workdir, arguments: dict[str, str] | None
) -> dataset.PackedDataset:
  """The packed dataset.

  Several processes never make it, and must agree; one in a bucket is copied.
  """
  in_bucket = bucket.is_url(config.data.dir)
  directory = pathlib.Path(config.data.dir or workdir.data)
  if jax.process_count() == 1 and not in_bucket:
    return prepare.prepare(config.data, directory)
  packed, problem = None, None
  try:
    if in_bucket:
      directory = bucket.dataset(config.data.dir)
    dataset.check(directory, config.data)
    packed = dataset.load(directory)
  except (errors.UserError, OSError) as error:
    problem = error
  # Every process says what it has before any gives up: none is left waiting.
  digest = packed.fingerprint if packed else '00' * 32
  digests = parallel.digests(digest)
  mend = ''
  if arguments and not in_bucket:
    # The others, such as --process_id, are those of one process.
    shared = [
      argument
      for name, argument in arguments.items()
      if name == 'workdir' or name.partition('.')[0] == 'config'
    ]
    command = shlex.join(['python', '-m', 'td_flax.tools.prepare', *shared])
    mend = f'; once on each host, run: {command}'
  if problem:
    raise errors.DataError(f'{problem}{mend}')
  for process, other in enumerate(digests):
    if other != digest:
      raise errors.DataError(
        f'{directory}: process {process} has another dataset or none{mend}'
      )
  return packed


class _Pretraining:
  """Masked language modelling on packed rows, as the loop wants it."""

  def __init__(
    self,
    config: Config,
    packed: dataset.PackedDataset,
    engine: parallel.Engine,
  ):
    self._config = config
    self._packed = packed
    self._engine = engine
    tokenizer = packed.tokenizer
    self.all_programs = Programs(
      config, tokenizer.vocab_size, tokenizer.special, engine
    )
    self.learner = self.all_programs.base
    self.table = self.learner.policy.initial_table(packed.unigram_counts)
    self.evaluate = evaluate.Evaluator(
      config, self.learner, engine, packed.eval, self.all_programs.own
    )
    self.pipeline = Pipeline(
      packed.train, seed=config.train.seed, batch_size=config.train.batch_size
    )

  def programs(self, start: int) -> dict[Key, step.Steps]:
    """Those of the stages that are not over."""
    programs = self.all_programs
    return {
      key: steps
      for key, steps in programs.steps.items()
      if programs.count(key, start)
    }

  def program_at(self, step: int) -> Key:
    """That of its stage."""
    return self.all_programs.at(step)

  def initial(self, params: Any) -> Any:
    """The parameters to start from, given fresh ones."""
    if not self._config.train.init_from:
      return params
    found = _initial(self._config)
    found.check(self._config, self._packed.tokenizer.fingerprint)
    return found.params(params)

  def row(self, state: TrainState) -> dict[str, float]:
    """What dropping is like now."""
    key = self.all_programs.at(int(state.step) - 1)
    row = {
      'drop/layer_tokens_kept': self.all_programs.steps[key].layer_tokens_kept
    }
    if self._config.drop.stages:
      row['drop/stage'] = key.stage
    table = self._engine.fetch(state.importance)
    known = self.learner.policy.known(table, self._packed.unigram_counts)
    if known is not None:
      row |= metrics.table_quantiles(table, known)
    return row
