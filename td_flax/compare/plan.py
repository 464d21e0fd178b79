"""Which runs a comparison consists of: arms, lengths, seeds.

A run is (arm, steps, seed). Several protocols may ask for the same one.
"""

import pathlib
from typing import NamedTuple

from td_flax import config as config_lib
from td_flax import errors, programs, step
from td_flax.compare import settings as settings_lib
from td_flax.compare.settings import PLAIN, SHALLOW, Settings
from td_flax.config import Config

_MLP_MULTIPLE = 8  # of the width of the MLPs of `shallow`

# Protocol -> arm -> the steps of its runs, ascending.
Lengths = dict[str, dict[str, tuple[int, ...]]]


class Arm(NamedTuple):
  """One way of training.

  Attributes:
    change: what it changes of the base config, as on a command line.
    config: but for the length and the seed.
    flops_per_row: matmul FLOPs of a train step on one row, averaged over the
      steps of the run.
  """

  change: str
  config: Config
  flops_per_row: float


class Run(NamedTuple):
  """What identifies a run."""

  arm: str
  steps: int
  seed: int

  @property
  def folder(self) -> str:
    """Its workdir within the folder of runs."""
    return f'{self.arm}/{self.steps}/seed{self.seed}'


def row_flops(config: Config, vocab_size: int) -> float:
  """Matmul FLOPs of a train step on one row, averaged over the run's steps."""
  schedule = programs.Schedule(config)
  return schedule.mean({
    key: sum(
      step.plan_flops(part, one, vocab_size) for one in schedule.passes(key)
    )
    for key, part in schedule.configs.items()
  })  # fmt: skip


def arms(settings: Settings, vocab_size: int) -> dict[str, Arm]:
  """All arms by name, `shallow` last.

  A model of other depth cannot start from the weights that
  `base.train.init_from` names: there is no `shallow` then.

  Args:
    settings: the comparison.
    vocab_size: ids of the tokenizer.
  """
  found = {
    name: Arm(settings.changes[name], config, row_flops(config, vocab_size))
    for name, config in settings.arms.items()
  }
  if settings.base.train.init_from:
    return found
  plain, target = settings.arms[PLAIN], found[settings.reference].flops_per_row
  found[SHALLOW] = _shallow(plain, settings.changes[PLAIN], target, vocab_size)
  return found


def _shallow(plain: Config, change: str, target: float, vocab_size: int) -> Arm:
  """Fewer layers of plain BERT, whose MLPs are as wide as `target` leaves.

  The number of layers is the one whose FLOPs are nearest at plain's width; of
  two as near, the larger.
  """

  def flops(layers: int, width: int) -> float:
    changes = {'model.num_layers': layers, 'model.mlp_dim': width}
    return row_flops(config_lib.with_changes(plain, changes), vocab_size)

  width = plain.model.mlp_dim
  layers = min(
    range(plain.model.num_layers - 1, 0, -1),
    key=lambda layers: abs(flops(layers, width) - target),
  )
  there = flops(layers, width)
  slope = (flops(layers, width + _MLP_MULTIPLE) - there) / _MLP_MULTIPLE
  wanted = width + (target - there) / slope
  width = max(1, round(wanted / _MLP_MULTIPLE)) * _MLP_MULTIPLE
  changes = {'model.num_layers': layers, 'model.mlp_dim': width}
  pairs = ' '.join(f'{key}={value}' for key, value in changes.items())
  config = config_lib.with_changes(plain, changes)
  return Arm(f'{change} {pairs}', config, flops(layers, width))


def lengths(settings: Settings, ratios: dict[str, float]) -> Lengths:
  """How many steps the runs of every arm take, by protocol.

  Args:
    settings: the comparison.
    ratios: every arm's step time over that of `plain`.
  """
  steps = settings.base.train.num_steps

  def chosen(protocol: str, ratio: float) -> tuple[int, ...]:
    if protocol == settings_lib.EQUAL_STEPS:
      return (steps,)
    whole = max(1, round(steps / ratio))
    if protocol == settings_lib.EQUAL_TIME:
      return (whole,)
    shorter = {max(1, round(x * steps / ratio)) for x in settings.budgets}
    if settings_lib.EQUAL_STEPS in settings.protocols:
      shorter.add(steps)  # is run anyway
    return (*sorted(x for x in shorter if x < whole), whole)

  return {
    protocol: {name: chosen(protocol, ratio) for name, ratio in ratios.items()}
    for protocol in settings.protocols
  }


def runs(settings: Settings, found: Lengths) -> list[Run]:
  """Every run once: all of the first seed, then all of the next one.

  So that a comparison that is not finished is balanced already.
  """
  return list(
    dict.fromkeys(
      Run(name, steps, seed)
      for seed in settings.seeds
      for by_arm in found.values()
      for name, several in by_arm.items()
      for steps in several
    )
  )


def scored(settings: Settings, found: Lengths) -> list[Run]:
  """The runs whose final checkpoints are scored."""
  if not settings.scores.names:
    return []
  chosen = {x: found[x] for x in settings_lib.SCORED if x in found}
  return runs(settings, chosen)


def configs(
  settings: Settings,
  arms: dict[str, Arm],
  found: Lengths,
  data_dir: pathlib.Path,
) -> dict[Run, Config]:
  """The config of every run, in the order of `runs`.

  Raises:
    errors.ConfigError: an arm cannot be as short as a run of it.
  """
  return {
    run: run_config(arms[run.arm], run, data_dir)
    for run in runs(settings, found)
  }


def run_config(arm: Arm, run: Run, data_dir: pathlib.Path) -> Config:
  """The config of a run: a normal one, whose schedule ends with it.

  Raises:
    errors.ConfigError: the arm cannot be that short.
  """
  changes = {
    'name': run.arm,
    'train.num_steps': run.steps,
    'train.seed': run.seed,
    'data.dir': str(data_dir),
  }
  try:
    config = config_lib.with_changes(arm.config, changes)
    programs.Schedule(config)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'arms.{run.arm}: {error}') from None
  return config
