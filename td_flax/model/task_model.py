"""The encoder with the head of a task instead of the masked-LM head."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from td_flax import masking
from td_flax.config import ModelConfig
from td_flax.data.vocabulary import SpecialIds
from td_flax.devices import Devices
from td_flax.dropping import plan as plans
from td_flax.dropping import routing
from td_flax.model import bert, layer
from td_flax.model.dropout import Seeds, dropout, fold

# What a head reads, and so what P is: the first token (1), every token (N), or
# every token as the beginning and the end of a span (2; C is N).
FIRST, TOKENS, SPAN = 'first', 'tokens', 'span'


class Output(NamedTuple):
  """The head of a task.

  Attributes:
    reads: FIRST, TOKENS or SPAN.
    size: C; 1 for a regression; for SPAN it follows from N and is unused.
    is_regression: the loss is the squared error of a number.
  """

  reads: str
  size: int = 1
  is_regression: bool = False


def plan(config: ModelConfig, output: Output) -> plans.Plan:
  """All tokens in all layers; of the last one only what the head reads."""
  full = plans.full(config.num_layers)
  return plans.predicted_only(full, 1) if output.reads == FIRST else full


def abstract_params(
  config: ModelConfig, output: Output, vocab_size: int, special: SpecialIds
) -> nnx.State:
  """Shapes and dtypes of a `TaskModel`'s parameters."""
  made = nnx.eval_shape(
    lambda: TaskModel(config, output, vocab_size, special, nnx.Rngs(0))
  )
  return nnx.split(made)[1]


class TaskModel(bert.Encoder):
  """BERT for a task (Devlin et al. 2019, figure 4).

  FIRST puts the pooler, a tanh and dropout between encoder and classifier,
  TOKENS dropout, SPAN nothing.

  Args:
    config: the `model` section.
    output: the head.
    vocab_size: ids there are.
    special: their special ones.
    rngs: of the initial parameters.
    devices: what the model is mapped over.
  """

  def __init__(
    self,
    config: ModelConfig,
    output: Output,
    vocab_size: int,
    special: SpecialIds,
    rngs: nnx.Rngs,
    devices: Devices = bert.ONE_DEVICE,
  ):
    super().__init__(config, vocab_size, rngs, devices)
    self.output = output
    self.special = special
    first = output.reads == FIRST
    self.pooler = bert.make_pooler(config, rngs) if first else None
    size = 2 if output.reads == SPAN else output.size
    self.classifier = layer.dense(config, config.hidden_dim, size, rngs)

  def __call__(
    self, ids: Int[Array, 'B N'], seeds: Seeds | None = None
  ) -> Float[Array, 'B P C']:
    """Float32 outputs.

    Args:
      ids: rows of one text or of a pair, each behind [CLS], each text followed
        by [SEP].
      seeds: for dropout; None is deterministic.

    Returns:
      The classifier's outputs; of SPAN, those of [PAD] are the smallest number.
    """
    segments = masking.segment(
      ids, self.special, attend_across=False, restart_positions=True
    )
    queried = None
    if self.output.reads == FIRST:
      ranks = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
      queried = routing.select(ranks, 1)
    states = self.encode(
      ids,
      segments,
      plan(self.config, self.output),
      seeds=seeds,
      queried=queried,
      types=self._types(ids),
    )
    if self.output.reads == FIRST:
      states = jnp.tanh(self.pooler(states))
    if self.output.reads != SPAN:
      seeds = fold(seeds, self.config.num_layers + 1)
      states = dropout(states, self.config.dropout, seeds)
    outputs = self.classifier(states).astype(jnp.float32)
    if self.output.reads != SPAN:
      return outputs
    real = (ids != self.special.pad)[:, None]
    return jnp.where(real, outputs.mT, jnp.finfo(jnp.float32).min)

  def _types(self, ids: Int[Array, 'B N']) -> Int[Array, 'B N']:
    """1 from behind the first [SEP] up to the second."""
    ends = ids == self.special.sep
    before = jnp.cumsum(ends, axis=1, dtype=jnp.int32) - ends
    return jnp.where(ids == self.special.pad, 0, jnp.minimum(before, 1))
