"""The train state and the pure functions on it: per device, no I/O.

A step masks its rows, runs the encoder through the policy's plan, and returns
sums; the devices add them up, then everything is divided once.
Letters: B rows of one device, N tokens, P predicted positions, V vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from td_flax import optimizer
from td_flax.config import Config, num_predicted
from td_flax.data import masking
from td_flax.data.vocabulary import SpecialIds
from td_flax.devices import Devices
from td_flax.dropping import plan as plans
from td_flax.dropping import policies
from td_flax.dropping.policies.base import Context
from td_flax.model import bert, dropout, loss

EVAL_MASK_RATE = 0.15  # whatever training uses, so that losses compare


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a step reads and writes.

  Attributes:
    step: steps taken, skipped updates included.
    params: float32.
    opt_state: optax's.
    importance: the policy's table, one entry per token id.
    skipped: updates skipped so far because loss or gradient was not finite.
    skipped_run: how many of the latest steps in a row were skipped.
  """

  step: Int[Array, '']
  params: nnx.State
  opt_state: optax.OptState
  importance: Float[Array, ' V']
  skipped: Int[Array, '']
  skipped_run: Int[Array, '']


class Sums(NamedTuple):
  """What rows contribute; added up over microbatches and devices."""

  loss: Float[Array, '']
  weight: Float[Array, '']
  correct: Float[Array, '']


def training_plan(config: Config) -> plans.Plan:
  """The layers of a training step and how many tokens they see."""
  plan = policies.load(config.drop.policy).plan(config)
  return _with_last_layer(config, plan, config.train.mask_rate)


def _with_last_layer(
  config: Config, plan: plans.Plan, mask_rate: float
) -> plans.Plan:
  if not config.train.predicted_only_last_layer:
    return plan
  n = config.data.sequence_length
  return plans.predicted_only(plan, num_predicted(mask_rate, n))


class Steps:
  """The functions of one experiment; what they close over is static.

  Args:
    config: the experiment.
    vocab_size: ids there are.
    special: the tokenizer's special ids.
    devices: what the functions are mapped over.

  Attributes:
    plan: the layers of a training step and how many tokens they see.
  """

  def __init__(
    self,
    config: Config,
    vocab_size: int,
    special: SpecialIds,
    devices: Devices,
  ):
    self.config = config
    self.vocab_size = vocab_size
    self.special = special
    self.devices = devices
    policy = policies.load(config.drop.policy)
    self.policy = policy(config, vocab_size, special)
    self.plan = training_plan(config)
    self.tx, self.schedule = optimizer.make(
      config.optimizer, config.train.num_steps
    )
    self.graph, _ = nnx.split(nnx.eval_shape(self._model))

  @property
  def layer_tokens_kept(self) -> float:
    """Share of (layer, token) pairs that the policy keeps."""
    return plans.layer_tokens_kept(
      self.policy.plan(self.config), self.config.data.sequence_length
    )

  def _model(self) -> bert.Bert:
    rngs = nnx.Rngs(self.config.train.seed)
    return bert.Bert(self.config.model, self.vocab_size, rngs, self.devices)

  def init(self, table: Float[np.ndarray, ' V']) -> TrainState:
    """The state before the first step, from `policy.initial_table`."""
    params = nnx.split(self._model())[1]
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
      zero, params, self.tx.init(params), jnp.asarray(table), zero, zero
    )

  def train(
    self, state: TrainState, ids: Int[Array, 'B N']
  ) -> tuple[TrainState, dict[str, Array]]:
    """One update from this device's rows of the global batch.

    Args:
      state: the same on every device; so is the result.
      ids: packed rows, any integer type.

    Returns:
      The new state and scalars: `loss_sum`, `weight`, `correct_sum`,
      `grad_norm`, `learning_rate`, `skipped`, `skipped_run`.
    """
    train = self.config.train
    parts = train.microbatches
    rows = self.devices.first_row(len(ids)) + jnp.arange(len(ids))
    ids, rows = self._split(ids.astype(jnp.int32)), self._split(rows)

    def gradient(part: tuple[Array, Array]) -> Any:
      return jax.grad(self._loss, has_aux=True)(
        state.params, state.importance, state.step, *part
      )

    if parts == 1:
      summed = gradient((ids[0], rows[0]))
    else:
      zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, (ids[0], rows[0])),
      )
      summed, _ = jax.lax.scan(
        lambda total, part: (
          jax.tree.map(jnp.add, total, gradient(part)),
          None,
        ),
        zeros,
        (ids, rows),
      )
    grads, (sums, observed) = self.devices.sum(summed)
    return self._update(state, grads, sums, observed)

  def _split(self, x: Int[Array, 'B *N']) -> Int[Array, 'M B/M *N']:
    """Cuts rows into microbatches, each with rows of every device."""
    shards, parts = self.devices.shards, self.config.train.microbatches
    chex.assert_is_divisible(x.shape[0], shards * parts)
    x = x.reshape(shards, parts, -1, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(parts, -1, *x.shape[3:])

  def _update(
    self, state: TrainState, grads: nnx.State, sums: Sums, observed: Any
  ) -> tuple[TrainState, dict[str, Array]]:
    """Applies global sums; leaves the state alone where they are not finite."""
    grads = jax.tree.map(lambda g: g / jnp.maximum(sums.weight, 1), grads)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(grad_norm)
    rate = self.schedule(state.step)
    updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    # A rate can be so large that a finite gradient overflows the parameters.
    finite &= jnp.isfinite(optax.tree.norm(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(params, state.params)
    with jax.named_scope('table'):
      table = self.policy.update(state.importance, observed)
    learned = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, opt_state, table),
      (state.params, state.opt_state, state.importance),
    )
    skip = jnp.where(finite, 0, 1)
    state = TrainState(
      state.step + 1,
      *learned,
      skipped=state.skipped + skip,
      skipped_run=(state.skipped_run + skip) * skip,
    )
    metrics = {
      'loss_sum': sums.loss,
      'weight': sums.weight,
      'correct_sum': sums.correct,
      'grad_norm': grad_norm,
      'learning_rate': rate,
      'skipped': state.skipped,
      'skipped_run': state.skipped_run,
    }
    return state, metrics

  def _loss(
    self,
    params: nnx.State,
    table: Float[Array, ' V'],
    step: Int[Array, ''],
    ids: Int[Array, 'B N'],
    rows: Int[Array, ' B'],
  ) -> tuple[Float[Array, ''], tuple[Sums, Any]]:
    """Summed loss of some rows, and what else is summed."""
    seed = jax.random.key(self.config.train.seed)
    keys = masking.row_keys(seed, step, rows)
    batch = self._masked(ids, keys, self.config.train.mask_rate)
    # Streams of one row: masks use its key, spans and dropout a fold of it.
    context = Context(batch.ids, table, _fold(keys, 1))
    seeds = None
    if self.config.model.dropout or self.config.model.attention_dropout:
      seeds = dropout.seeds(_fold(keys, 2))
    sums, losses = self._forward(
      params,
      batch,
      self.plan,
      lambda span, x: self.policy.route(
        span, x, context._replace(keys=_fold(context.keys, span.layers[0]))
      ),
      seeds,
    )
    with jax.named_scope('table'):
      observed = self.policy.observe(batch.labels, losses, batch.weights)
    return sums.loss, (sums, jax.lax.stop_gradient(observed))

  def _masked(
    self, ids: Int[Array, 'B N'], keys: Key[Array, ' B'], mask_rate: float
  ) -> masking.MaskedBatch:
    model = self.config.model
    segments = masking.segment(
      ids,
      self.special,
      attend_across=model.attend_across_documents,
      restart_positions=model.restart_positions,
    )
    return masking.mask(
      ids,
      segments,
      keys,
      mask_rate=mask_rate,
      vocab_size=self.vocab_size,
      special=self.special,
    )

  def _forward(
    self,
    params: nnx.State,
    batch: masking.MaskedBatch,
    plan: plans.Plan,
    router: bert.Router | None,
    seeds: dropout.Seeds | None,
  ) -> tuple[Sums, Float[Array, 'B P']]:
    """Sums over the rows, and the loss of every predicted position in nats."""
    logits = nnx.merge(self.graph, params)(batch, plan, router, seeds)
    losses, correct = loss.cross_entropy(logits, batch.labels)
    sums = Sums(
      jnp.sum(losses * batch.weights),
      jnp.sum(batch.weights),
      jnp.sum(correct * batch.weights),
    )
    return sums, losses

  def evaluate(
    self,
    params: nnx.State,
    ids: Int[Array, 'B N'],
    first: Int[Array, ''],
  ) -> Sums:
    """Sums over all devices' rows: full sequences, fixed 15% mask, no dropout.

    Args:
      params: of the model.
      ids: packed rows; rows of [PAD] count for nothing.
      first: number of the batch's first row among the held-out rows.

    Returns:
      Loss in nats, weight and correct predictions, summed.
    """
    rows = first + self.devices.first_row(len(ids)) + jnp.arange(len(ids))
    keys = masking.row_keys(jax.random.key(self.config.eval.seed), 0, rows)
    batch = self._masked(ids.astype(jnp.int32), keys, EVAL_MASK_RATE)
    plan = plans.full(self.config.model.num_layers)
    plan = _with_last_layer(self.config, plan, EVAL_MASK_RATE)
    sums, _ = self._forward(params, batch, plan, None, None)
    return self.devices.sum(sums)


def _fold(keys: Key[Array, ' B'], data: int) -> Key[Array, ' B']:
  return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)
