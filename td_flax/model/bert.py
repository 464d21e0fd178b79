"""BERT (Devlin et al. 2019) whose spans of layers may see fewer tokens.

Dimension letters, used everywhere:
  B rows, N tokens, K tokens that pass through a span, M tokens they attend to,
  P predicted positions, D width, H heads, E width of a head, V vocabulary
  (padded).

The order of operations is the published one. Post-LN: attention, dropout, add,
norm, MLP, dropout, add, norm. Pre-LN: norm, attention, dropout, add, norm, MLP,
dropout, add, and one norm behind the last layer.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from td_flax.chips import LANES
from td_flax.config import ModelConfig
from td_flax.devices import Devices, OneDevice
from td_flax.dropping import plan as plans
from td_flax.dropping import routing
from td_flax.masking import MaskedBatch, Segments
from td_flax.model import attention, layer, local_init, lookup, stack
from td_flax.model.dense import Dense, decode
from td_flax.model.dropout import Seeds, dropout, fold

ONE_DEVICE = OneDevice()

# The attention that each token of a row receives: () -> f32[B, N].
Received = Callable[[], Float[Array, 'B N']]
# Decides the tokens of a span, which `x` enters: (span, x, received) -> Route.
Router = Callable[[plans.Span, Float[Array, 'B N D'], Received], routing.Route]


def padded_vocab(vocab_size: int) -> int:
  """V: `vocab_size` rounded up to a multiple of 128."""
  return -(-vocab_size // LANES) * LANES


class Embeddings(nnx.Module):
  """Word, position and type embeddings, summed and normed."""

  def __init__(
    self,
    config: ModelConfig,
    vocab_size: int,
    rngs: nnx.Rngs,
    devices: Devices,
  ):
    self.config = config
    self.lookup = lookup.make(devices)

    def embed(rows: int, padded: int) -> nnx.Embed:
      def init(key: Array, shape: tuple, dtype: Any) -> Array:
        table = layer.initializer(config)(key, (rows, shape[1]), dtype)
        # Padding rows are zero and, having no gradient, stay zero.
        return jnp.pad(table, ((0, padded - rows), (0, 0)))

      return nnx.Embed(
        padded,
        config.hidden_dim,
        embedding_init=init,
        dtype=jnp.float32,  # so that gradients of frequent ids add up exactly
        rngs=rngs,
      )

    self.word = embed(vocab_size, padded_vocab(vocab_size))
    self.position = embed(config.max_positions, config.max_positions)
    self.type = embed(config.type_vocab_size, config.type_vocab_size)
    self.norm = layer.norm(config, rngs) if config.norm == 'post' else None

  def __call__(
    self,
    ids: Int[Array, 'B N'],
    positions: Int[Array, 'B N'],
    types: Int[Array, 'B N'] | None,
    seeds: Seeds | None,
  ) -> Float[Array, 'B N D']:
    """The states that enter layer 0; `types` None is type 0 everywhere."""
    x = self.lookup(self.word.embedding[...], ids) + self.position(positions)
    table = self.type.embedding[...]
    x = x + table[None, :1]
    if types is not None and len(table) > 1:
      x = x + types[..., None] * (table[1] - table[0])[None, None]
    x = x.astype(self.config.dtype)
    if self.norm is not None:
      x = self.norm(x)
    return dropout(x, self.config.dropout, seeds)


def make_pooler(config: ModelConfig, rngs: nnx.Rngs) -> Dense:
  """BERT's dense layer on the first token; a tanh follows."""
  return layer.dense(config, config.hidden_dim, config.hidden_dim, rngs)


class Head(nnx.Module):
  """The masked-LM head; its decoder is the word embedding, plus a bias."""

  def __init__(self, config: ModelConfig, vocab_size: int, rngs: nnx.Rngs):
    self.config = config
    self.vocab_size = vocab_size
    self.dense = layer.dense(config, config.hidden_dim, config.hidden_dim, rngs)
    self.norm = layer.norm(config, rngs)
    self.bias = nnx.Param(jnp.zeros(padded_vocab(vocab_size), jnp.float32))

  def __call__(
    self, x: Float[Array, 'B P D'], table: Float[Array, 'V D']
  ) -> Float[Array, 'B P V']:
    """Float32 logits; those of padding rows are the smallest number."""
    x = self.norm(layer.gelu(self.config, self.dense(x)))
    logits = decode(x, table) + self.bias[None, None]
    real = jnp.arange(logits.shape[-1]) < self.vocab_size
    return jnp.where(real[None, None], logits, jnp.finfo(jnp.float32).min)


class Encoder(nnx.Module):
  """Embeddings and layers: what pretraining and every task have in common.

  Args:
    config: the `model` section.
    vocab_size: ids there are.
    rngs: of the initial parameters.
    devices: what the model is mapped over.
  """

  def __init__(
    self,
    config: ModelConfig,
    vocab_size: int,
    rngs: nnx.Rngs,
    devices: Devices = ONE_DEVICE,
  ):
    self.config = config
    self.devices = devices
    self.embeddings = Embeddings(config, vocab_size, rngs, devices)
    attend = attention.make(config, devices)
    self.layers = nnx.List(
      layer.Layer(config, attend, rngs) for _ in range(config.num_layers)
    )
    self.norm = layer.norm(config, rngs) if config.norm == 'pre' else None
    if config.init == 'local':
      local_init.apply(self)

  def encode(
    self,
    ids: Int[Array, 'B N'],
    segments: Segments,
    plan: plans.Plan,
    router: Router | None = None,
    seeds: Seeds | None = None,
    queried: routing.Route | None = None,
    types: Int[Array, 'B N'] | None = None,
  ) -> Float[Array, 'B N D'] | Float[Array, 'B K D']:
    """The final hidden states.

    Args:
      ids: what the model reads.
      segments: which tokens see each other, and their positions.
      plan: the layers and how many tokens they see.
      router: chooses the tokens of the spans that do not keep all.
      seeds: for dropout; None is deterministic.
      queried: the tokens of a span that restores nothing.
      types: 0, or 1 for the second text of a pair; None is 0 everywhere.

    Returns:
      Hidden states of all tokens, or of the `queried` ones where the plan ends
      in a span that restores nothing. A token dropped by a span leaves it as
      it entered.
    """
    x = self.embed(ids, segments, seeds, types)
    x = self.through(x, segments, plan, router, seeds, queried)
    return x if self.norm is None else self.norm(x)

  def embed(
    self,
    ids: Int[Array, 'B N'],
    segments: Segments,
    seeds: Seeds | None,
    types: Int[Array, 'B N'] | None = None,
  ) -> Float[Array, 'B N D']:
    """The states that enter layer 0; arguments as in `encode`."""
    x = self.embeddings(ids, segments.positions, types, fold(seeds, 0))
    return self.devices.by_rows(x)

  def states(
    self,
    ids: Int[Array, 'B N'],
    segments: Segments,
    plan: plans.Plan,
    router: Router | None = None,
  ) -> list[Float[Array, 'B N D']]:
    """What enters layer 0 and what leaves every layer, without dropout.

    Behind a layer of a span that drops tokens stands what the span would leave
    if it ended there: the kept tokens as that layer made them, the others as
    they entered the span. The last of the states are those of `encode`.

    Args:
      ids: as in `encode`.
      segments: as in `encode`.
      plan: one whose spans all restore.
      router: as in `encode`.
    """
    found = [self.embed(ids, segments, None)]
    for span in plan:
      x = found[-1]
      # Each time from the span's start: its clusters are no states of tokens.
      # What the parts have in common is compiled once.
      for stop in range(1, len(span.layers) + 1):
        part = dataclasses.replace(
          span,
          layers=span.layers[:stop],
          cross_attend=min(span.cross_attend, stop),
        )
        found.append(self.through(x, segments, (part,), router, None, None))
    if self.norm is not None:
      found[-1] = self.norm(found[-1])
    return found

  def through(
    self,
    x: Float[Array, 'B N D'],
    segments: Segments,
    plan: plans.Plan,
    router: Router | None,
    seeds: Seeds | None,
    queried: routing.Route | None,
  ) -> Float[Array, 'B N D'] | Float[Array, 'B K D']:
    """What some spans make of the states; arguments as in `encode`."""
    ids = segments.segments
    for span in plan:
      layers = [self.layers[i] for i in span.layers]
      route, y, y_ids = None, x, ids
      if span.keep is not None:
        with jax.named_scope('routing'):
          route = queried
          if span.restore:
            received = functools.partial(layers[0].received, x, ids)
            route = router(span, x, received)
          y, y_ids = _gathered(x, ids, route)
      y = stack.run(
        self.config,
        self.devices,
        layers,
        y,
        y_ids,
        (x, ids),
        span.cross_attend,
        [fold(seeds, i + 1) for i in span.layers],
      )
      if route is not None and span.restore:
        with jax.named_scope('routing'):
          y = routing.restore(y[:, : span.keep], x, route)
      x = y
    return x


def _gathered(
  x: Float[Array, 'B N D'], segments: Int[Array, 'B N'], route: routing.Route
) -> tuple[Float[Array, 'B K D'], Int[Array, 'B K']]:
  """The kept tokens, then those that stand for the others; their segments."""
  y = routing.gather(x, route)
  y_segments = routing.take_ids(segments, route.positions)
  if route.clusters is None:
    return y, y_segments
  pooled = routing.pool(x, route.clusters)
  return (
    jnp.concatenate([y, pooled], axis=1),
    jnp.concatenate([y_segments, route.clusters.segments], axis=1),
  )


class Bert(Encoder):
  """The encoder, its masked-LM head and, where configured, a pooler."""

  def __init__(
    self,
    config: ModelConfig,
    vocab_size: int,
    rngs: nnx.Rngs,
    devices: Devices = ONE_DEVICE,
  ):
    super().__init__(config, vocab_size, rngs, devices)
    self.head = Head(config, vocab_size, rngs)
    self.pooler = make_pooler(config, rngs) if config.pooler else None

  def predict(self, states: Float[Array, 'B P D']) -> Float[Array, 'B P V']:
    """Logits of the masked-LM head."""
    return self.head(states, self.embeddings.word.embedding[...])

  def __call__(
    self,
    batch: MaskedBatch,
    plan: plans.Plan,
    router: Router | None = None,
    seeds: Seeds | None = None,
  ) -> Float[Array, 'B P V']:
    """Logits of the masked-LM task; arguments as in `encode`."""
    states = self.encode(
      batch.ids, batch.segments, plan, router, seeds, batch.predicted
    )
    if plan[-1].restore:
      states = routing.gather(states, batch.predicted)
    return self.predict(states)

  def with_first(
    self,
    batch: MaskedBatch,
    plan: plans.Plan,
    router: Router | None = None,
    seeds: Seeds | None = None,
  ) -> tuple[
    Float[Array, 'B P V'], tuple[Float[Array, 'B D'], Float[Array, 'B D']]
  ]:
    """Logits, and the first token of each row before and behind the last layer.

    Args:
      batch: as of the masked-LM task.
      plan: ends in the last layer alone, with P + 1 queried tokens.
      router: as in `encode`.
      seeds: as in `encode`.
    """
    queried = routing.with_first(batch.predicted)
    x = self.embed(batch.ids, batch.segments, seeds)
    x = self.through(x, batch.segments, plan[:-1], router, seeds, None)
    y = self.through(x, batch.segments, plan[-1:], router, seeds, queried)
    y = y if self.norm is None else self.norm(y)
    return self.predict(y[:, 1:]), (x[:, 0], y[:, 0])


def abstract_params(config: ModelConfig, vocab_size: int) -> nnx.State:
  """Shapes and dtypes of a `Bert`'s parameters."""
  made = nnx.eval_shape(lambda: Bert(config, vocab_size, nnx.Rngs(0)))
  return nnx.split(made)[1]
