"""What the benchmarks share: compiled arms, interleaved turns, the JSON."""

import datetime
import json
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import machine
import numpy as np

from td_flax import config as config_lib
from td_flax import parallel, step
from td_flax.data.vocabulary import SpecialIds

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


class Arm:
  """A compiled train step, its state and random rows.

  Speed does not depend on what the ids are, but for [CLS] and [SEP].
  """

  def __init__(self, config: config_lib.Config):
    self.config = config
    size = config.data.vocab_size
    self.engine = parallel.make(config.parallel)
    self.steps = step.Steps(config, size, SPECIAL, self.engine)
    table = self.steps.policy.initial_table(np.ones(size, np.int64))
    state = jax.device_get(jax.jit(self.steps.init)(table))
    self.state = self.engine.place(state)
    shape = config.train.batch_size, config.data.sequence_length
    rows = np.random.default_rng(0).integers(5, size, shape, np.uint16)
    rows[:, 0], rows[:, -1] = SPECIAL.cls, SPECIAL.sep
    self.rows = self.engine.split(rows)
    begun = time.monotonic()
    self._train = self.engine.compile_train(
      self.steps.train, self.state, self.steps.batch
    )
    self.compile_seconds = time.monotonic() - begun

  def turn(self, steps: int) -> float:
    """Takes some steps; seconds per step."""
    begun = time.monotonic()
    for _ in range(steps):
      self.state, _ = self._train(self.state, self.rows)
    jax.block_until_ready(self.state)
    return (time.monotonic() - begun) / steps

  @property
  def flops(self) -> int:
    """Matmul FLOPs of a step, over all devices."""
    rows = self.config.train.batch_size
    return rows * self.steps.row_flops

  def figures(self, seconds: list[float]) -> dict[str, float]:
    """Speed from the seconds per step of its turns."""
    median = float(np.median(seconds))
    rows = self.config.train.batch_size
    return {
      'milliseconds': 1e3 * median,
      'tokens_per_second': rows * self.config.data.sequence_length / median,
      'gflops_per_second': self.flops / median / 1e9,
      'compile_seconds': self.compile_seconds,
    }


def interleave(
  turns: dict[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
  """Seconds of every turn, one of each arm in every round.

  A first round is not counted: it fills caches. The order is reversed in every
  second round, so that no arm always follows the same one.
  """
  seconds: dict[str, list[float]] = {name: [] for name in turns}
  for number in range(-1, rounds):
    for name in list(turns)[:: -1 if number % 2 else 1]:
      taken = turns[name]()
      if number >= 0:
        seconds[name].append(taken)
  return seconds


def ratio(one: list[float], other: list[float]) -> dict[str, Any]:
  """The median of the ratios of turns of the same round, and quartiles."""
  ratios = np.array(one) / np.array(other)
  return {
    'ratio': float(np.median(ratios)),
    'quartiles': np.percentile(ratios, [25, 75]).tolist(),
  }


def facts() -> dict[str, Any]:
  """Where and how something was measured."""
  return {
    'platform': jax.devices()[0].device_kind,
    'machine': machine.cpu(),
    'cores': os.cpu_count(),
    'jax': jax.__version__,
    'python': platform.python_version(),
    'command': shlex.join(['python', *sys.argv]),
    'date': datetime.date.today().isoformat(),
  }


def write(path: str | None, result: dict[str, Any]) -> None:
  """Writes `result` and the facts as JSON where a path is given."""
  if path:
    text = json.dumps(result | facts(), indent=2)
    pathlib.Path(path).write_text(text + '\n')
