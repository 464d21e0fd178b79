"""What a transformer layer is made of, as the `model` section says.

Dimension letters are those of `bert.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from td_flax.config import ModelConfig
from td_flax.model import attention
from td_flax.model import gelu as gelu_lib
from td_flax.model.barrier import fence
from td_flax.model.dense import RESULT, Dense
from td_flax.model.dropout import Seeds, dropout, fold
from td_flax.model.norm import LayerNorm


def initializer(config: ModelConfig) -> Any:
  """Of kernels and embeddings."""
  return nnx.initializers.truncated_normal(config.init_stddev)


def dense(
  config: ModelConfig, inputs: int, outputs: int, rngs: nnx.Rngs
) -> Dense:
  """A dense layer that starts and computes as the `model` section says."""
  return Dense(
    inputs,
    outputs,
    kernel_init=initializer(config),
    dtype=jnp.dtype(config.dtype),
    param_dtype=jnp.float32,
    rngs=rngs,
  )


def gelu(config: ModelConfig, x: Array) -> Array:
  """GELU, or its approximation by tanh."""
  return gelu_lib.gelu(x, config.activation == 'gelu_tanh')


def norm(config: ModelConfig, rngs: nnx.Rngs) -> LayerNorm:
  """A LayerNorm over the model's width."""
  return LayerNorm(
    config.hidden_dim,
    epsilon=config.norm_eps,
    dtype=jnp.dtype(config.dtype),
    param_dtype=jnp.float32,
    rngs=rngs,
  )


class Attention(nnx.Module):
  """Multi-head attention from `y` to `context`."""

  def __init__(
    self, config: ModelConfig, attend: attention.Attend, rngs: nnx.Rngs
  ):
    self.config = config
    self.attend = attend
    width = config.hidden_dim
    self.query = dense(config, width, width, rngs)
    self.key = dense(config, width, width, rngs)
    self.value = dense(config, width, width, rngs)
    self.output = dense(config, width, width, rngs)

  def __call__(
    self,
    y: Float[Array, 'B K D'],
    y_segments: Int[Array, 'B K'],
    context: Float[Array, 'B M D'],
    context_segments: Int[Array, 'B M'],
    seeds: Seeds | None,
  ) -> Float[Array, 'B K D']:
    """Queries from `y`, keys and values from `context`, same segment only."""
    mixed = self.attend(
      self._queries(y),
      self._heads(self.key(context)),
      self._heads(self.value(context)),
      y_segments,
      context_segments,
      seeds,
    )
    return self.output(checkpoint_name(mixed.reshape(y.shape), RESULT))

  def received(
    self, x: Float[Array, 'B N D'], segments: Int[Array, 'B N']
  ) -> Float[Array, 'B N']:
    """Attention that each token receives from the others: without gradient."""
    x = jax.lax.stop_gradient(x)
    summed = attention.received(
      self._queries(x), self._heads(self.key(x)), segments
    )
    return jax.lax.stop_gradient(summed)

  def _queries(self, x: Float[Array, 'B K D']) -> Float[Array, 'B K H E']:
    scale = (x.shape[-1] // self.config.num_heads) ** -0.5
    return self._heads(self.query(x, scale))

  def _heads(self, x: Float[Array, 'B K D']) -> Float[Array, 'B K H E']:
    return x.reshape(*x.shape[:2], self.config.num_heads, -1)


class Mlp(nnx.Module):
  """Dense, GELU, dense."""

  def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
    self.config = config
    self.inner = dense(config, config.hidden_dim, config.mlp_dim, rngs)
    self.outer = dense(config, config.mlp_dim, config.hidden_dim, rngs)

  def __call__(self, x: Float[Array, 'B K D']) -> Float[Array, 'B K D']:
    """Position by position."""
    return self.outer(gelu(self.config, self.inner(fence(x))))


class Layer(nnx.Module):
  """One transformer layer; queries may be fewer than keys and values."""

  def __init__(
    self, config: ModelConfig, attend: attention.Attend, rngs: nnx.Rngs
  ):
    self.config = config
    self.attention = Attention(config, attend, rngs)
    self.attention_norm = norm(config, rngs)
    self.mlp = Mlp(config, rngs)
    self.mlp_norm = norm(config, rngs)

  def __call__(
    self,
    y: Float[Array, 'B K D'],
    y_segments: Int[Array, 'B K'],
    context: Float[Array, 'B M D'] | None,
    context_segments: Int[Array, 'B M'] | None,
    seeds: Seeds | None,
  ) -> Float[Array, 'B K D']:
    """Updates `y`, which attends to `context` (None: to itself)."""
    rate = self.config.dropout
    pre = self.config.norm == 'pre'

    queries = self.attention_norm(y) if pre else y
    if context is None:
      context, context_segments = queries, y_segments
    elif pre:
      context = self.attention_norm(context)
    mixed = self.attention(
      queries, y_segments, context, context_segments, fold(seeds, 0)
    )
    y = y + dropout(mixed, rate, fold(seeds, 1))
    if pre:
      return y + dropout(self.mlp(self.mlp_norm(y)), rate, fold(seeds, 2))
    y = self.attention_norm(y)
    return self.mlp_norm(y + dropout(self.mlp(y), rate, fold(seeds, 2)))

  def received(
    self, x: Float[Array, 'B N D'], segments: Int[Array, 'B N']
  ) -> Float[Array, 'B N']:
    """Attention that each token would receive if all of `x` passed."""
    x = self.attention_norm(x) if self.config.norm == 'pre' else x
    return self.attention.received(x, segments)
