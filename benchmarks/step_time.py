"""Step time with and without dropping, interleaved in one process.

    python benchmarks/step_time.py --config=configs/bert_mini_text.py \
      --config.data.files=unused --rounds=10 --json=step_time.json

Times the config's train step against the same with `drop.policy=none`, turn by
turn on random rows, and prints the median of the ratios beside the ratio of
matmul FLOPs. Speed does not depend on what the ids are.
"""

import datetime
import json
import pathlib
import platform
import shlex
import sys
import time
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from td_flax import config as config_lib
from td_flax import flags, parallel, step
from td_flax.data.tokenizer import SpecialIds
from td_flax.dropping import plan as plans
from td_flax.model import flops

_ROUNDS = absl_flags.DEFINE_integer('rounds', 10, 'Turns per arm.')
_STEPS = absl_flags.DEFINE_integer('steps', 3, 'Steps per turn.')
_JSON = absl_flags.DEFINE_string('json', None, 'Write the figures here.')
_SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


class Arm:
  """A compiled train step and its state."""

  def __init__(self, config: config_lib.Config):
    size = config.data.vocab_size
    self.config = config
    self.engine = parallel.make(config.parallel)
    self.steps = step.Steps(config, size, _SPECIAL, self.engine)
    table = self.steps.policy.initial_table(np.ones(size, np.int64))
    state = jax.device_get(jax.jit(self.steps.init)(table))
    self.state = self.engine.place(state)
    shape = config.train.batch_size, config.data.sequence_length
    rows = np.random.default_rng(0).integers(5, size, shape, np.uint16)
    rows[:, 0], rows[:, -1] = _SPECIAL.cls, _SPECIAL.sep
    self.rows = self.engine.split(rows)
    begun = time.monotonic()
    self.train = self.engine.compile_train(self.steps.train, self.state, shape)
    self.compile_seconds = time.monotonic() - begun

  def turn(self, steps: int) -> float:
    """Seconds per step."""
    begun = time.monotonic()
    for _ in range(steps):
      self.state, _ = self.train(self.state, self.rows)
    jax.block_until_ready(self.state)
    return (time.monotonic() - begun) / steps

  def flops(self, plan: plans.Plan) -> int:
    """Of one row."""
    return flops.train_flops(
      self.config.model,
      plan,
      sequence_length=self.config.data.sequence_length,
      num_predicted=self.config.num_predicted,
      vocab_size=self.steps.vocab_size,
    )


def measure(config: config_lib.Config) -> dict[str, Any]:
  """The figures of `config` against the same without dropping."""
  raw = config_lib.default()
  raw.update_from_flattened_dict(config_lib.flatten(config))
  raw.drop.policy = 'none'
  arms = {'dropped': Arm(config), 'plain': Arm(config_lib.load(raw))}
  seconds: dict[str, list[float]] = {name: [] for name in arms}
  for arm in arms.values():
    arm.turn(1)  # the first step also fills caches
  for _ in range(_ROUNDS.value):
    for name, arm in arms.items():
      seconds[name].append(arm.turn(_STEPS.value))
  ratios = np.array(seconds['dropped']) / np.array(seconds['plain'])
  dropped, plain = arms['dropped'], arms['plain']
  tokens = config.train.batch_size * config.data.sequence_length
  row_flops = {n: arm.flops(arm.steps.plan) for n, arm in arms.items()}
  return {
    'config': config.name,
    'policy': config.drop.policy,
    'step_time_ratio': float(np.median(ratios)),
    'step_time_ratio_quartiles': np.percentile(ratios, [25, 75]).tolist(),
    'flops_ratio': row_flops['dropped'] / row_flops['plain'],
    'layer_tokens_kept': dropped.steps.layer_tokens_kept,
    **{
      name: {
        'milliseconds': 1e3 * float(np.median(seconds[name])),
        'tokens_per_second': tokens / float(np.median(seconds[name])),
        'gflops_per_second': row_flops[name]
        * config.train.batch_size
        / float(np.median(seconds[name]))
        / 1e9,
        'compile_seconds': arm.compile_seconds,
      }
      for name, arm in (('dropped', dropped), ('plain', plain))
    },
    'devices': dropped.engine.num_devices,
    'platform': jax.devices()[0].device_kind,
    'machine': platform.processor() or platform.machine(),
    'jax': jax.__version__,
    'python': platform.python_version(),
    'rounds': _ROUNDS.value,
    'steps_per_turn': _STEPS.value,
    'command': shlex.join(['python', *sys.argv]),
    'date': datetime.date.today().isoformat(),
  }


def main() -> None:
  """Prints the table, writes the JSON."""
  result = measure(flags.load())
  for name in ('plain', 'dropped'):
    figures = result[name]
    print(
      f'{name:<8} {figures["milliseconds"]:9.1f} ms/step '
      f'{figures["tokens_per_second"]:12,.0f} tokens/s '
      f'{figures["gflops_per_second"]:9.1f} GFLOP/s '
      f'{figures["compile_seconds"]:6.1f} s to compile'
    )
  low, high = result['step_time_ratio_quartiles']
  print(
    f'step time ratio {result["step_time_ratio"]:.3f} (quartiles {low:.3f} to '
    f'{high:.3f}), matmul FLOP ratio {result["flops_ratio"]:.3f}'
  )
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  flags.config_flag()
  flags.run(main)
