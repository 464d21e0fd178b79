"""What choosing tokens costs: routing and the table's update, beside the step.

    python benchmarks/selection.py --config=configs/bert_mini_text.py \
      --config.data.files=unused --rounds=10 --json=selection.json

Times, interleaved, the whole train step and two programs cut out of it at its
shapes, forward and backward: `routing` (score, rank, select, gather, restore)
and `table` (sums per id, update).
"""

import time
from collections.abc import Callable
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from td_flax import config as config_lib
from td_flax import errors, flags, masking
from td_flax.dropping import routing
from td_flax.dropping.policies.base import Context

_POLICIES = 'random', 'frequency', 'cumulative_loss'


def turn_of(function: Callable[..., Any], *args: Array) -> Callable[[], float]:
  """Compiles a function; a turn of it is a few calls."""
  compiled = jax.jit(function).lower(*args).compile()

  def turn(calls: int = 5) -> float:
    begun = time.monotonic()
    for _ in range(calls):
      result = compiled(*args)
    jax.block_until_ready(result)
    return (time.monotonic() - begun) / calls

  return turn


def measure(config: config_lib.Config) -> dict[str, Any]:
  """Seconds of the step and of its parts."""
  name, parts = config.drop.policy, config.train.microbatches
  if name not in _POLICIES:
    raise errors.ConfigError(
      f'drop.policy={name!r}: must be one of {", ".join(_POLICIES)}, which '
      'choose once, before the layers'
    )
  if parts > 1:
    raise errors.ConfigError(f'train.microbatches={parts}: must be 1')
  arm = harness.TimedStep(config)
  policy, size = arm.steps.policy, config.data.vocab_size
  # The program of one device.
  rows = config.train.batch_size // arm.engine.num_devices
  n, p = config.data.sequence_length, config.num_predicted
  rng = np.random.default_rng(0)
  ids = jnp.asarray(rng.integers(5, size, (rows, n)), jnp.int32)
  labels = jnp.asarray(rng.integers(5, size, (rows, p)), jnp.int32)
  losses = jnp.asarray(rng.random((rows, p)), jnp.float32)
  table = jnp.asarray(policy.initial_table(np.ones(size, np.int64)))
  x = jnp.ones((rows, n, config.model.hidden_dim), config.model.dtype)
  (span,) = (s for s in policy.plan(config) if s.keep is not None)

  def route(x: Array, ids: Array, table: Array) -> Array:
    keys = masking.row_keys(jax.random.key(0), 0, jnp.arange(rows))
    segments, is_predicted = jnp.ones_like(ids), jnp.zeros(ids.shape, bool)
    seen = Context(ids, segments, is_predicted, table, keys)
    chosen = policy.route(span, x, seen)
    y = routing.gather(x, chosen)
    return jnp.sum(routing.restore(y, x, chosen).astype(jnp.float32) ** 2)

  def update(table: Array, labels: Array, losses: Array) -> tuple[Array, Array]:
    observed = policy.observe(labels, losses, jnp.ones_like(losses))
    return policy.update(table, observed)

  seconds = harness.interleave(
    {
      'step': lambda: arm.turn(1),
      'routing': turn_of(jax.grad(route), x, ids, table),
      'table': turn_of(update, table, labels, losses),
    },
    harness.ROUNDS.value,
  )
  shares = {
    name: harness.ratio(seconds[name], seconds['step'])
    for name in ('routing', 'table')
  }
  return {
    'config': config.name,
    'milliseconds': {
      name: 1e3 * float(np.median(taken)) for name, taken in seconds.items()
    },
    'share_of_step': shares,
    'rounds': harness.ROUNDS.value,
  }


def main() -> None:
  """Prints the table, writes the JSON."""
  result = measure(harness.load())
  for name, milliseconds in result['milliseconds'].items():
    share = result['share_of_step'].get(name)
    print(
      f'{name:<8} {milliseconds:10.2f} ms'
      + (f' {share["ratio"]:8.2%} of the step' if share else '')
    )
  harness.write(result)


if __name__ == '__main__':
  flags.config_flag()
  flags.run(main)
