"""What pretraining learns: masked language modelling under a policy.

A step masks its rows, runs the encoder through the policy's plan, and returns
sums.
Letters: B rows of one device, N tokens, P predicted positions, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from td_flax.config import Config, num_predicted
from td_flax.data import masking
from td_flax.data.vocabulary import SpecialIds
from td_flax.devices import Devices
from td_flax.dropping import plan as plans
from td_flax.dropping import policies
from td_flax.dropping.policies.base import Context
from td_flax.learner import Learner, Sums
from td_flax.model import bert, dropout, loss

EVAL_MASK_RATE = 0.15  # whatever training uses, so that losses compare


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


class Steps(Learner):
  """The functions of one pretraining; what they close over is static.

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
    self.vocab_size = vocab_size
    self.special = special
    policy = policies.load(config.drop.policy)
    self.policy = policy(config, vocab_size, special)
    self.plan = training_plan(config)
    super().__init__(config, devices)

  @property
  def batch(self) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a global batch: packed rows."""
    shape = self.config.train.batch_size, self.config.data.sequence_length
    return jax.ShapeDtypeStruct(shape, jnp.uint16)

  @property
  def layer_tokens_kept(self) -> float:
    """Share of (layer, token) pairs that the policy keeps."""
    return plans.layer_tokens_kept(
      self.policy.plan(self.config), self.config.data.sequence_length
    )

  def _model(self) -> bert.Bert:
    rngs = nnx.Rngs(self.config.train.seed)
    return bert.Bert(self.config.model, self.vocab_size, rngs, self.devices)

  def _learned_table(
    self, table: Float[Array, ' V'], observed: Any
  ) -> Float[Array, ' V']:
    return self.policy.update(table, observed)

  def _loss(
    self,
    params: nnx.State,
    table: Float[Array, ' V'],
    step: Int[Array, ''],
    ids: Int[Array, 'B N'],
    rows: Int[Array, ' B'],
  ) -> tuple[Float[Array, ''], tuple[Sums, Any]]:
    ids = ids.astype(jnp.int32)
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
