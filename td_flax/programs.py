"""The train steps of a run: one program for each of its parts.

A stage has its own shapes, and with `drop.consistency_every` some steps make
two passes. All programs are compiled before the first step and share one state.
"""

from typing import NamedTuple

from td_flax import stages
from td_flax.config import Config
from td_flax.data.vocabulary import SpecialIds
from td_flax.devices import Devices
from td_flax.dropping import plan as plans
from td_flax.dropping import policies
from td_flax.step import Steps, passes


class Key(NamedTuple):
  """Which program: the number of the stage, and whether it makes two passes."""

  stage: int
  consistent: bool


class Schedule:
  """Which step of a run runs which program; nothing is built.

  Args:
    config: the experiment.

  Attributes:
    configs: of the programs, in the order of their stages.

  Raises:
    errors.ConfigError: `drop.stages` cannot be used.
  """

  def __init__(self, config: Config):
    self._stages = stages.of(config)
    self._every = config.drop.consistency_every
    self.configs: dict[Key, Config] = {
      key: stage.config
      for number, stage in enumerate(self._stages)
      for key in (Key(number, False), Key(number, True))
      if self.count(key)
    }

  def passes(self, key: Key) -> tuple[plans.Plan, ...]:
    """The plans of a program's passes."""
    return passes(self.configs[key], consistent=key.consistent)

  def at(self, step: int) -> Key:
    """The program of a step, counted from 0."""
    number = next(i for i, x in enumerate(self._stages) if step < x.stop)
    return Key(number, self._is_consistent(step) and self._drops(number))

  def count(self, key: Key, start: int = 0) -> int:
    """Steps of the run, from `start` on, that run a program."""
    stage = self._stages[key.stage]
    steps = range(max(start, stage.start), stage.stop)
    if not (self._every and self._drops(key.stage)):
      return 0 if key.consistent else len(steps)
    # Steps below n of which one in `every` is consistent: n // every.
    two = len(steps) and steps.stop // self._every - steps.start // self._every
    return two if key.consistent else len(steps) - two

  def mean(self, figures: dict[Key, float]) -> float:
    """The mean over the steps of a run of what each program has."""
    counts = {key: self.count(key) for key in figures}
    total = sum(counts[key] * figure for key, figure in figures.items())
    return total / sum(counts.values())

  def _is_consistent(self, step: int) -> bool:
    return bool(self._every) and (step + 1) % self._every == 0

  def _drops(self, number: int) -> bool:
    config = self._stages[number].config
    plan = policies.load(config.drop.policy).plan(config)
    return plan != plans.full(config.model.num_layers)


class Programs(Schedule):
  """The programs of a run.

  Args:
    config: the experiment.
    vocab_size: ids there are.
    special: the tokenizer's special ids.
    devices: what the functions are mapped over.

  Attributes:
    base: the config's own step, as if there were no stages: its policy owns the
      table.
    steps: by key, in the order of their stages.
    own: the last of them that trains another geometry than plain BERT's; None
      where none does.

  Raises:
    errors.ConfigError: `drop.stages` cannot be used.
  """

  def __init__(
    self,
    config: Config,
    vocab_size: int,
    special: SpecialIds,
    devices: Devices,
  ):
    super().__init__(config)
    self.base = Steps(config, vocab_size, special, devices)
    self.steps: dict[Key, Steps] = {
      key: Steps(
        stage_config,
        vocab_size,
        special,
        devices,
        table_policy=self.base.policy,
        consistent=key.consistent,
      )
      for key, stage_config in self.configs.items()
    }
    others = [x for x in self.steps.values() if x.policy.own_geometry]
    self.own: Steps | None = others[-1] if others else None
