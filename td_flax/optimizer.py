"""Config -> optax transformation and learning-rate schedule.

The learning rate is not part of the transformation: it is a function of the
train state's step, so that an update that was skipped does not delay it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from td_flax.config import OptimizerConfig

Schedule = Callable[[Int[Array, '']], Float[Array, '']]


def make(
  config: OptimizerConfig, num_steps: int
) -> tuple[optax.GradientTransformation, Schedule]:
  """AdamW or LAMB without its learning rate, and that rate per step.

  Args:
    config: the `optimizer` section.
    num_steps: length of the run; the rate is 0 behind its last step.

  Returns:
    The transformation (gradients -> direction to descend) and the schedule.
  """
  parts = [
    optax.scale_by_adam(config.beta1, config.beta2, config.eps),
    optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
  ]
  if config.clip_norm:
    parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if config.name == 'lamb':
    parts.append(optax.scale_by_trust_ratio())
  return optax.chain(*parts), schedule(config, num_steps)


def schedule(config: OptimizerConfig, num_steps: int) -> Schedule:
  """Linear warmup over a share of the steps, then decay to 0.

  Step 0 already moves (a rate of 0 would waste it) and so does the last step.
  """
  warmup = max(1, round(config.warmup * num_steps))

  def rate(step: Int[Array, '']) -> Float[Array, '']:
    rising = (step + 1) / warmup
    left = (num_steps - step) / max(1, num_steps - warmup + 1)
    if config.decay == 'cosine':
      left = 0.5 - 0.5 * jnp.cos(jnp.pi * jnp.clip(left, 0, 1))
    share = jnp.where(step < warmup, rising, jnp.clip(left, 0, 1))
    return config.learning_rate * share.astype(jnp.float32)

  return rate


def decay_mask(params: Any) -> Any:
  """True for what weight decay applies to: kernels and embeddings.

  Not norms and biases, and not the pooler of a masked language model, which
  pretraining does not train. Rows of embeddings without a gradient (token type
  1, positions behind the row) decay as in the published code: weights to start
  from shrink there by the sum of the rates times `weight_decay`.
  """
  trained = 'classifier' in params  # a task's head reads the pooler

  def decays(path: tuple, leaf: Array) -> bool:
    name = jax.tree_util.keystr(path)
    return leaf.ndim > 1 and (trained or 'pooler' not in name)

  return jax.tree_util.tree_map_with_path(decays, params)
