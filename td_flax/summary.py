"""What a finished run leaves: `summary.json`, and the page that it prints."""

import pathlib
import shlex
from typing import Any

import jax
import numpy as np

from td_flax import bucket, extras, leaves, step
from td_flax.config import Config
from td_flax.data.dataset import PackedDataset
from td_flax.data.vocabulary import Tokenizer
from td_flax.dropping import importance
from td_flax.dropping import plan as plans
from td_flax.learner import TrainState
from td_flax.programs import Programs

_EXTREMES = 10


def make(
  config: Config,
  programs: Programs,
  packed: PackedDataset,
  state: TrainState,
  *,
  num_devices: int,
  resumed_from: int | None,
  memory: dict[str, float],
  speed: dict[str, float] | None,
) -> dict[str, Any]:
  """The content of `summary.json`.

  Args:
    config: the experiment.
    programs: its steps.
    packed: its dataset; the tokenizer names the ids.
    state: at the end, on the host.
    num_devices: over all processes.
    resumed_from: the step this process began at, None for 0.
    memory: the first and last held-out losses, in nats (`loop.Done`).
    speed: of this process, None where it took no step.
  """
  steps = programs.base
  plain = plans.full(config.model.num_layers)
  plain_flops = steps.flops_of(step.with_last_layer(config, plain))
  row_flops = programs.mean(
    {key: x.row_flops for key, x in programs.steps.items()}
  )
  return {
    'name': config.name,
    'step': int(state.step),
    'devices': num_devices,
    'processes': jax.process_count(),
    'platform': jax.devices()[0].platform,
    'resumed_from': resumed_from,
    **memory,
    'skipped_updates': int(state.skipped),
    'layer_tokens_kept': programs.mean(
      {key: x.layer_tokens_kept for key, x in programs.steps.items()}
    ),
    'flops_per_row': row_flops,
    'flops_ratio': row_flops / plain_flops,
    'params_sha256': leaves.sha256(state.params),
    **(speed or {}),
    **extremes(
      packed.tokenizer,
      state.importance,
      steps.policy.known(state.importance, packed.unigram_counts),
    ),
  }


def page(
  content: dict[str, Any],
  config: Config,
  place: str,
  packed: PackedDataset,
  arguments: dict[str, str] | None,
) -> str:
  """The summary as text.

  Args:
    content: of `summary.json`.
    config: the experiment.
    place: the workdir as a person names it, a path or a URL.
    packed: its dataset.
    arguments: of the command, by their flags' names; None where none trained.
  """
  place = place.rstrip('/')
  lines = ['', f'{config.name}: {content["step"]:,} steps done', '']
  lines += [f'  {name:<17}{value}' for name, value in _figures(content)]
  if 'most_important' in content:
    lines += _extremes(content, packed.tokenizer.legend)
  lines += ['', '  saved']
  saved = [
    (f'{place}/checkpoints', 'model, optimizer and importance table'),
    (f'{place}/metrics.jsonl', 'every figure of the run'),
    (f'{place}/tokenizer', 'the tokenizer'),
    (config.data.dir or str(packed.directory), 'the packed rows'),
    (f'{place}/summary.json', 'this summary'),
  ]
  if config.log.tensorboard:
    saved.insert(2, (f'{place}/tensorboard', 'the same figures as curves'))
  lines += [f'    {path:<36} {what}' for path, what in saved]
  lines += ['', '  what next', *_next_steps(config, place, arguments)]
  return '\n'.join(lines)


def _figures(content: dict[str, Any]) -> list[tuple[str, str]]:
  figures = [
    (
      'held-out loss',
      f'{content["first_eval_loss"]:.3f} -> {content["last_eval_loss"]:.3f} '
      'nats per predicted token',
    )
  ]
  if 'last_eval_own_loss' in content:
    figures += [
      (
        'as trained',
        f'{content["first_eval_own_loss"]:.3f} -> '
        f'{content["last_eval_own_loss"]:.3f}, computed as its policy trains',
      )
    ]
  if 'tokens_per_second' in content:
    figures += _speed(content)
  skipped = 1 - content['layer_tokens_kept']
  figures += [
    (
      'token dropping',
      f'{skipped:.1%} of layer-tokens skipped, {content["flops_ratio"]:.3f} of '
      "plain BERT's matmul FLOPs",
    )
  ]
  if content['skipped_updates']:
    figures += [
      ('skipped updates', f'{content["skipped_updates"]} (loss not finite)')
    ]
  return figures


def _speed(content: dict[str, Any]) -> list[tuple[str, str]]:
  devices = f'{content["devices"]} {content["platform"]} device'
  plural = '' if content['devices'] == 1 else 's'
  flops = content['model_flops_per_second'] / 1e12
  work = (
    f'{flops:,.1f} TFLOP/s' if flops >= 1 else f'{1e3 * flops:,.1f} GFLOP/s'
  )
  if 'mfu' in content:
    work += f', {content["mfu"]:.1%} of what the devices can do (MFU)'
  cached = ' (kept from an earlier run)' if content['compile_cached'] else ''
  return [
    (
      'speed',
      f'{content["tokens_per_second"]:,.0f} tokens/s on {devices}{plural}, '
      f'{content["data_wait_share"]:.1%} of the time waiting for data',
    ),
    ('work', f'{work}, matrix multiplications of the model only'),
    (
      'compiling',
      f'{content["compile_seconds"]:.1f} s for the train step{cached}, '
      f'{content["eval_compile_seconds"]:.1f} s for the evaluation',
    ),
  ]


def _next_steps(
  config: Config, place: str, arguments: dict[str, str] | None
) -> list[str]:
  """Commands to try, the first made from the one that was run."""
  lines = []
  drop = config.drop
  if arguments and (drop.policy != 'none' or drop.stages):
    same = [x for name, x in arguments.items() if name != 'workdir']
    plain = shlex.join(
      [
        *('python', '-m', 'td_flax.main', *same),
        '--config.drop.policy=none',
        *(['--config.drop.stages='] if drop.stages else []),
        f'--workdir={place}_plain',
      ]
    )
    lines += ['    the same without dropping, to compare:', f'      {plain}']
  # What is exported is always written to a local folder.
  output = pathlib.PurePath(place).name if bucket.is_url(place) else place
  export = shlex.join(
    [
      *('python', '-m', 'td_flax.tools.export'),
      f'--workdir={place}',
      f'--output={output}_hf',
    ]
  )
  return [
    *lines,
    f'    to transformers; needs {extras.missing("hf")}',
    f'      {export}',
    '    your own text:',
    '      python -m td_flax.main --config=configs/bert_mini_text.py '
    "--config.data.files='my_texts/*.txt'",
  ]


def _extremes(content: dict[str, Any], legend: str) -> list[str]:
  """The most and the least important ids, side by side."""
  rows = []
  for most, least in zip(
    content['most_important'], content['least_important'], strict=True
  ):
    rows.append('        '.join(f'{x:<16} {m:7.3f}' for x, m in (most, least)))
  head = f'{"most important":<24}        least important, dropped first'
  return [
    '',
    f'  importance table ({legend})',
    *(f'    {row}' for row in (head, *rows)),
  ]


def extremes(
  tokenizer: Tokenizer, table: np.ndarray, known: np.ndarray | None
) -> dict[str, list[tuple[str, float]]]:
  """The ten most and ten least important tokens with their importance.

  Args:
    tokenizer: names the ids.
    table: f32[V], the policy's importance.
    known: bool[V], the ids whose importance is not the initial one; None
      where the policy has no table.

  Returns:
    `most_important` and `least_important`, or nothing without a table.
  """
  if known is None or not known.any():
    return {}
  ids = importance.ordered(table, known, tokenizer.special)
  named = [(tokenizer.piece(int(i)), float(table[i])) for i in ids]
  return {
    'most_important': named[:_EXTREMES],
    'least_important': named[::-1][:_EXTREMES],
  }
