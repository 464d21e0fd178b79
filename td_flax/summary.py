"""What a finished run leaves: `summary.json`, and a page a person enjoys."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from td_flax import checkpoint, step
from td_flax.config import Config
from td_flax.data.tokenizer import Tokenizer
from td_flax.dropping import plan as plans
from td_flax.model import flops

_EXTREMES = 10


def make(
  config: Config,
  steps: step.Steps,
  state: step.TrainState,
  *,
  num_devices: int,
  resumed_from: int | None,
  memory: dict[str, float],
  speed: dict[str, float] | None,
) -> dict[str, Any]:
  """The content of `summary.json`.

  Args:
    config: the experiment.
    steps: its functions.
    state: at the end, on the host.
    num_devices: over all processes.
    resumed_from: the step this process began at, None for 0.
    memory: `first_eval_loss` and `last_eval_loss`, in nats.
    speed: of this process, None where it took no step.
  """
  model, plan = config.model, steps.policy.plan()
  shape = {
    'sequence_length': config.data.sequence_length,
    'num_predicted': config.num_predicted,
    'vocab_size': steps.vocab_size,
  }
  dropped = flops.train_flops(model, plan, **shape)
  plain = flops.train_flops(model, plans.full(model.num_layers), **shape)
  return {
    'name': config.name,
    'step': int(state.step),
    'devices': num_devices,
    'processes': jax.process_count(),
    'platform': jax.devices()[0].platform,
    'resumed_from': resumed_from,
    'first_eval_loss': memory['first_eval_loss'],
    'last_eval_loss': memory['last_eval_loss'],
    'skipped_updates': int(state.skipped),
    'layer_tokens_kept': steps.layer_tokens_kept,
    'flops_per_row': dropped,
    'flops_ratio': dropped / plain,
    'params_sha256': checkpoint.params_sha256(state.params),
    **(speed or {}),
  }


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes `summary.json`, whole or not at all."""
  new = path.with_suffix('.json.new')
  new.write_text(json.dumps(content, indent=2) + '\n')
  new.replace(path)


def page(
  content: dict[str, Any],
  workdir: pathlib.Path,
  tokenizer: Tokenizer,
  table: np.ndarray,
  known: np.ndarray | None,
) -> str:
  """The summary as text.

  Args:
    content: of `summary.json`.
    workdir: where the run lies.
    tokenizer: names the ids.
    table: f32[V], the policy's importance.
    known: bool[V], the ids whose importance is not the initial one; None
      where the policy has no table.
  """
  where = f'{content["devices"]} {content["platform"]} device(s)'
  skipped = 1 - content['layer_tokens_kept']
  lines = [
    '',
    f'{content["name"]}: {content["step"]:,} steps done',
    '',
    f'  held-out loss    {content["first_eval_loss"]:.3f} -> '
    f'{content["last_eval_loss"]:.3f} nats per predicted token',
  ]
  if 'tokens_per_second' in content:
    lines.append(
      f'  speed            {content["tokens_per_second"]:,.0f} tokens/s on '
      f'{where}, {content["data_wait_share"]:.1%} of it waiting for data'
    )
  lines.append(
    f'  token dropping   {skipped:.1%} of layer-tokens skipped, '
    f"{content['flops_ratio']:.3f} of plain BERT's FLOPs"
  )
  if content['skipped_updates']:
    lines.append(
      f'  skipped updates  {content["skipped_updates"]} (not finite)'
    )
  if known is not None and known.any():
    lines += _extremes(tokenizer, table, known)
  lines += [
    '',
    f'  saved in         {workdir}',
    '    checkpoints/     the model, its optimizer and the importance table',
    '    metrics.jsonl    every figure of the run, also in tensorboard/',
    '    tokenizer/       the SentencePiece model',
    '    summary.json     this summary',
    '',
    '  what next',
    '    the same without dropping, to compare:',
    '      python -m td_flax.main --config=configs/quickstart.py '
    '--config.drop.policy=none --workdir=runs/plain',
    '    your own text:',
    '      python -m td_flax.main --config=configs/bert_mini_text.py '
    "--config.data.files='my_texts/*.txt'",
  ]
  return '\n'.join(lines)


def _extremes(
  tokenizer: Tokenizer, table: np.ndarray, known: np.ndarray
) -> list[str]:
  """The most and the least important ids, side by side."""
  special = set(tokenizer.special.as_tuple())
  ids = [i for i in np.flatnonzero(known) if i not in special]
  ids.sort(key=lambda i: (-table[i], i))

  def cell(index: int) -> str:
    return f'{tokenizer.piece(int(index)):<16} {table[index]:7.3f}'

  most, least = ids[:_EXTREMES], ids[::-1][:_EXTREMES]
  rows = [
    f'    {cell(m)}        {cell(x)}' for m, x in zip(most, least, strict=True)
  ]
  head = f'    {"most important":<24}        least important, dropped first'
  return [
    '',
    f'  importance of {len(ids):,} tokens (▁ begins a word)',
    head,
    *rows,
  ]
