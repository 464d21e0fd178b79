"""Step time against transformers' PyTorch BERT on the CPU, in one process.

    pip install -e '.[reference]'
    python benchmarks/vs_torch.py --config=configs/bert_base_td.py \
      --config.data.files=unused --config.model.num_layers=4 \
      --config.drop.first_layer=1 --config.drop.last_layer=2 \
      --config.train.batch_size=4 --compile --json=vs_torch.json

Times the config's train step, the same without dropping, and PyTorch's step on
a BertForMaskedLM of the same shape, turn by turn, each with all the cores that
the process may use (`taskset -c 0` gives both one). PyTorch gets what makes it
fast: its default attention (SDPA), the fused form of the same GELU and of
AdamW, inputs that are masked already, no padding to look for. Both sides drop
out, in the attention too, clip the gradient and update. In bfloat16 PyTorch
runs under autocast. Its head sees all positions, as transformers has it, or, by
hand, the predicted ones only. Speed does not depend on what the ids are.

On a machine with other work, give both one core and compare CPU time
(`OMP_WAIT_POLICY=passive taskset -c 0 python ...`): PyTorch's threads wait for
each other at every operation, and lose more than XLA's to what interrupts them.
"""

import functools
import os
import shutil
import time
from typing import Any

import harness
import jax
import numpy as np
import torch
import transformers
from absl import flags as absl_flags

from td_flax import config as config_lib
from td_flax import errors, flags
from td_flax.data import workers

_STEPS = absl_flags.DEFINE_integer('steps', 1, 'Steps per turn.', 1)
_COMPILE = absl_flags.DEFINE_bool('compile', False, 'Also torch.compile.')
_DTYPES = absl_flags.DEFINE_list(
  'dtypes', ['float32', 'bfloat16'], 'Values of model.dtype.'
)


class TorchArm:
  """PyTorch's train step and its state.

  Args:
    config: the same as on our side.
    predicted_only: the head runs on the predicted positions only.
    compiled: the loss goes through torch.compile.
  """

  def __init__(
    self, config: config_lib.Config, *, predicted_only: bool, compiled: bool
  ):
    model, self.optimizer_config = config.model, config.optimizer
    self.model = transformers.BertForMaskedLM(
      transformers.BertConfig(
        vocab_size=config.data.vocab_size,
        hidden_size=model.hidden_dim,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        intermediate_size=model.mlp_dim,
        hidden_act='gelu_pytorch_tanh',
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=model.attention_dropout,
        max_position_embeddings=model.max_positions,
        layer_norm_eps=model.norm_eps,
      )
    ).train()
    self.is_bfloat16 = model.dtype == 'bfloat16'
    params = list(self.model.parameters())
    decay = config.optimizer.weight_decay
    self.optimizer = torch.optim.AdamW(
      [
        {'params': [p for p in params if p.ndim > 1], 'weight_decay': decay},
        {'params': [p for p in params if p.ndim < 2], 'weight_decay': 0.0},
      ],
      lr=config.optimizer.learning_rate,
      betas=(config.optimizer.beta1, config.optimizer.beta2),
      eps=config.optimizer.eps,
      fused=True,
    )
    rng = np.random.default_rng(0)
    shape = config.train.batch_size, config.data.sequence_length
    ids = torch.from_numpy(rng.integers(5, config.data.vocab_size, shape))
    chosen = rng.permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1)
    chosen = torch.from_numpy(chosen[:, : config.num_predicted])
    self.loss = self._predicted_loss if predicted_only else self._full_loss
    if predicted_only:
      self.inputs = ids, ids.gather(1, chosen), chosen
    else:
      labels = torch.full_like(ids, -100)  # torch's cross entropy skips these
      self.inputs = ids, labels.scatter(1, chosen, ids.gather(1, chosen))
    if compiled:
      self.loss = torch.compile(self.loss)

  def _full_loss(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return self.model(input_ids=ids, labels=labels).loss

  def _predicted_loss(
    self, ids: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor
  ) -> torch.Tensor:
    states = self.model.bert(input_ids=ids).last_hidden_state
    wide = chosen[..., None].expand(-1, -1, states.shape[-1])
    logits = self.model.cls(states.gather(1, wide))
    return torch.nn.functional.cross_entropy(
      logits.flatten(0, 1), labels.flatten()
    )

  def turn(self, steps: int) -> float:
    """Seconds per step."""
    begun = time.monotonic()
    for _ in range(steps):
      self.optimizer.zero_grad()
      with torch.autocast('cpu', torch.bfloat16, enabled=self.is_bfloat16):
        loss = self.loss(*self.inputs)
      loss.backward()
      if self.optimizer_config.clip_norm:
        torch.nn.utils.clip_grad_norm_(
          self.model.parameters(), self.optimizer_config.clip_norm
        )
      self.optimizer.step()
    return (time.monotonic() - begun) / steps


def _arms(config: config_lib.Config) -> dict[str, Any]:
  """Every arm of the comparison, in the order of the table."""
  arms = {}
  for compiled in (False, True) if _can_compile() else (False,):
    for predicted_only in (False, True):
      name = 'torch' + ', compiled' * compiled + ', P only' * predicted_only
      arms[name] = TorchArm(
        config, predicted_only=predicted_only, compiled=compiled
      )
  for policy in dict.fromkeys(['none', config.drop.policy]):
    arms[f'td_flax, {policy}'] = harness.TimedStep(
      config_lib.with_changes(config, {'drop.policy': policy})
    )
  return arms


def _can_compile() -> bool:
  compiler = os.environ.get('CXX', 'g++')
  if _COMPILE.value and shutil.which(compiler) is None:
    print(f'--compile: skipped, {compiler} is no C++ compiler here (see CXX)')
    return False
  return _COMPILE.value


def measure(config: config_lib.Config) -> list[dict[str, Any]]:
  """Times every arm of `config`; one row of the table per arm."""
  arms = _arms(config)
  cpu_seconds: dict[str, list[float]] = {name: [] for name in arms}

  def turn(name: str) -> float:
    begun = time.process_time()
    seconds = arms[name].turn(_STEPS.value)
    cpu_seconds[name].append((time.process_time() - begun) / _STEPS.value)
    return seconds

  seconds = harness.interleave(
    {name: functools.partial(turn, name) for name in arms}, harness.ROUNDS.value
  )
  return [
    {
      'arm': name,
      'dtype': config.model.dtype,
      'milliseconds': 1e3 * float(np.median(times)),
      'fastest_milliseconds': 1e3 * min(times),
      # Of all threads: on a busy machine steadier than the clock.
      'cpu_milliseconds': 1e3 * float(np.median(cpu_seconds[name])),
      **harness.ratio(times, seconds['torch']),
    }
    for name, times in seconds.items()
  ]


def main() -> None:
  """Prints the table, writes the JSON."""
  config = harness.load()
  if jax.default_backend() != 'cpu':
    raise errors.ConfigError(
      f'JAX_PLATFORMS: must be cpu (jax runs on {jax.default_backend()}): '
      'PyTorch is timed on the CPU'
    )
  threads = workers.usable_cores()  # XLA's pool has as many
  torch.set_num_threads(threads)
  rows = []
  for dtype in _DTYPES.value:
    rows += measure(config_lib.with_changes(config, {'model.dtype': dtype}))
  for row in rows:
    low, high = row['quartiles']
    print(
      f'{row["dtype"]:<8} {row["arm"]:<26} {row["milliseconds"]:8.0f} ms '
      f'(fastest {row["fastest_milliseconds"]:6.0f}, cpu '
      f'{row["cpu_milliseconds"]:6.0f}), ratio to torch '
      f'{row["ratio"]:.3f} (quartiles {low:.3f} to {high:.3f})'
    )
  harness.write(
    {
      'config': config_lib.flatten(config),
      'arms': rows,
      'threads': threads,
      'cpu': torch.backends.cpu.get_cpu_capability(),
      'torch': torch.__version__,
      'transformers': transformers.__version__,
      'rounds': harness.ROUNDS.value,
      'steps_per_turn': _STEPS.value,
    },
  )


if __name__ == '__main__':
  flags.config_flag()
  flags.run(main)
