"""What a step costs as one thing grows: N, k, layers, batch, devices.

    python benchmarks/scaling.py --config=configs/bert_mini_text.py \
      --config.data.files=unused --sweep=keep=16,32,64,128 --json=keep.json

Sweeps one key at a time; the arms of a sweep are interleaved. Without --sweep:
N, k, layers and batch around the config, and all numbers of devices there are.
Rows per step stay as they are but in the sweep of the batch.
"""

from typing import Any

import harness
import jax
from absl import flags as absl_flags

from td_flax import config as config_lib
from td_flax import errors, flags

_SWEEP = absl_flags.DEFINE_multi_string(
  'sweep', [], 'NAME=VALUE,VALUE...; NAME is length, keep, layers, batch or '
  'devices. May be repeated.'
)  # fmt: skip


def changes(name: str, value: int, config: config_lib.Config) -> dict[str, Any]:
  """The keys that a point of a sweep replaces."""
  drop = config.drop
  if name == 'length':
    return {'data.sequence_length': value, 'model.max_positions': value}
  if name == 'keep':
    return {'drop.keep': float(value)}
  if name == 'layers':
    # As far in begins the span, and it ends before the last: a growing share.
    first = drop.first_layer * value // config.model.num_layers
    return {
      'model.num_layers': value,
      'drop.first_layer': first,
      'drop.last_layer': value - 2,
    }
  if name == 'batch':
    return {'train.batch_size': value}
  if name == 'devices':
    return {'parallel.num_devices': value}
  raise errors.ConfigError(
    f'--sweep={name}: must be length, keep, layers, batch or devices'
  )


def default_sweeps(config: config_lib.Config) -> dict[str, list[int]]:
  """Around the config, by factors of two."""
  n, batch = config.data.sequence_length, config.train.batch_size
  least = config.num_predicted + 2
  count = len(jax.devices())
  return {
    'length': [n // 2, n, 2 * n],
    'keep': [k for k in (n // 4, n // 2, 3 * n // 4, n) if k >= least],
    'layers': [config.model.num_layers, 2 * config.model.num_layers],
    'batch': [batch // 2, batch, 2 * batch],
    'devices': [d for d in (1, 2, 4, 8) if d <= count],
  }


def parse(sweep: str) -> tuple[str, list[int]]:
  """`keep=16,32` -> its name and values."""
  name, _, values = sweep.partition('=')
  try:
    return name, [int(value) for value in values.split(',')]
  except ValueError as error:
    raise errors.ConfigError(
      f'--sweep={sweep}: must be NAME=VALUE,VALUE... with whole numbers'
    ) from error


def measure(config: config_lib.Config) -> dict[str, Any]:
  """The figures of every point of every sweep."""
  sweeps = dict(map(parse, _SWEEP.value)) or default_sweeps(config)
  result: dict[str, Any] = {}
  for name, values in sweeps.items():
    arms = {
      value: harness.TimedStep(
        config_lib.with_changes(config, changes(name, value, config))
      )
      for value in values
    }
    seconds = harness.interleave(
      {value: lambda arm=arm: arm.turn(1) for value, arm in arms.items()},
      harness.ROUNDS.value,
    )
    result[name] = {
      str(value): arm.figures(seconds[value])
      | {'time': harness.ratio(seconds[value], seconds[values[0]])}
      | {'flops_ratio': arm.flops / arms[values[0]].flops}
      for value, arm in arms.items()
    }
  return {
    'config': config.name,
    'sweeps': result,
    'rounds': harness.ROUNDS.value,
  }


def main() -> None:
  """Prints the tables, writes the JSON."""
  result = measure(harness.load())
  for name, points in result['sweeps'].items():
    print(f'{name:>8}    ms/step   tokens/s  GFLOP/s  time  FLOPs  compile s')
    for value, row in points.items():
      print(
        f'{value:>8} {row["milliseconds"]:10.1f} '
        f'{row["tokens_per_second"]:10,.0f} {row["gflops_per_second"]:8.1f} '
        f'{row["time"]["ratio"]:5.2f} {row["flops_ratio"]:6.2f} '
        f'{row["compile_seconds"]:10.1f}'
      )
  harness.write(result)


if __name__ == '__main__':
  flags.config_flag()
  flags.run(main)
