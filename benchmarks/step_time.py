"""Step time of each policy against plain BERT, interleaved in one process.

    python benchmarks/step_time.py --config=configs/bert_mini_text.py \
      --config.data.files=unused --rounds=10 --json=step_time.json

Times the config's train step under every policy named by `--policies` against
the same with `drop.policy=none`, turn by turn on random rows. Prints the median
of the ratios beside the ratio of matmul FLOPs, and the share of the saving that
the clock sees: (1 - time ratio) / (1 - FLOP ratio).
"""

from typing import Any

import harness
from absl import flags as absl_flags

from td_flax import config as config_lib
from td_flax import flags

_STEPS = absl_flags.DEFINE_integer('steps', 3, 'Steps per turn.', 1)
_POLICIES = absl_flags.DEFINE_list(
  'policies', None, "Policies to time; by default the config's own."
)


def measure(config: config_lib.Config) -> dict[str, Any]:
  """The figures of every policy, by name; `none` is plain BERT."""
  policies = _POLICIES.value or [config.drop.policy]
  arms = {
    name: harness.TimedStep(
      config_lib.with_changes(config, {'drop.policy': name})
    )
    for name in dict.fromkeys(['none', *policies])
  }
  seconds = harness.interleave(
    {
      name: lambda arm=arm: arm.turn(_STEPS.value) for name, arm in arms.items()
    },
    harness.ROUNDS.value,
  )
  figures = {}
  for name, arm in arms.items():
    flops_ratio = arm.flops / arms['none'].flops
    time_ratio = harness.ratio(seconds[name], seconds['none'])
    saved = 1 - time_ratio['ratio']
    figures[name] = {
      **arm.figures(seconds[name]),
      'step_time': time_ratio,
      'flops_ratio': flops_ratio,
      'realised_share': saved / (1 - flops_ratio) if flops_ratio < 1 else None,
      'layer_tokens_kept': arm.steps.layer_tokens_kept,
    }
  return {
    'config': config.name,
    'devices': arms['none'].engine.num_devices,
    'rounds': harness.ROUNDS.value,
    'steps_per_turn': _STEPS.value,
    'policies': figures,
  }


def main() -> None:
  """Prints the table, writes the JSON."""
  result = measure(harness.load())
  print(
    'policy            ms/step   tokens/s  GFLOP/s   MFU %  compile s  '
    'time ratio (quartiles)   FLOP ratio  realised'
  )
  for name, row in result['policies'].items():
    low, high = row['step_time']['quartiles']
    share = row['realised_share']
    print(
      f'{name:<16} {row["milliseconds"]:8.1f} '
      f'{row["tokens_per_second"]:10,.0f} {row["gflops_per_second"]:8.1f} '
      + (f'{100 * row["mfu"]:7.1f} ' if row['mfu'] else f'{"-":>7} ')
      + f'{row["compile_seconds"]:10.1f}  '
      f'{row["step_time"]["ratio"]:10.3f} ({low:.3f}-{high:.3f}) '
      f'{row["flops_ratio"]:13.3f}  '
      + ('' if share is None else f'{share:8.2f}')
    )
  harness.write(result)


if __name__ == '__main__':
  flags.config_flag()
  flags.run(main)
