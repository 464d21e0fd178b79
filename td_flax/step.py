"""What pretraining learns: masked language modelling under a policy.

A step masks its rows, runs the encoder through the policy's plan, and returns
sums.
Letters: B rows of one device, N tokens, P predicted positions, V vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from td_flax import masking
from td_flax.config import Config
from td_flax.data.vocabulary import SpecialIds
from td_flax.devices import Devices
from td_flax.dropping import consistency, policies, routing
from td_flax.dropping import plan as plans
from td_flax.dropping.policies.base import Context, Policy
from td_flax.learner import Learner, Sums, TrainState
from td_flax.model import bert, dropout, flops, loss

EVAL_MASK_RATE = 0.15  # whatever training uses, so that losses compare


def with_last_layer(
  config: Config, plan: plans.Plan, also: int = 0
) -> plans.Plan:
  """`plan`, whose last layer computes P tokens and `also` some others."""
  if not config.train.predicted_only_last_layer:
    return plan
  return plans.predicted_only(plan, config.num_predicted + also)


def passes(config: Config, *, consistent: bool) -> tuple[plans.Plan, ...]:
  """The plans of a step: its own, and of full sequences where it is consistent.

  Args:
    config: of the stage.
    consistent: the step makes a second pass (`consistency.py`).
  """
  plan = policies.load(config.drop.policy).plan(config)
  if not consistent:
    return (with_last_layer(config, plan),)
  full = plans.full(config.model.num_layers)
  return with_last_layer(config, plan, 1), with_last_layer(config, full, 1)


def plan_flops(config: Config, plan: plans.Plan, vocab_size: int) -> int:
  """Matmul FLOPs of forward and backward pass of one row through a plan.

  Counted as an ideal implementation would need them: nothing that is computed
  twice (rematerialisation) or for nothing (padding of the vocabulary).
  """
  return flops.train_flops(
    config.model,
    plan,
    sequence_length=config.data.sequence_length,
    num_predicted=config.num_predicted,
    vocab_size=vocab_size,
  )


def evaluation_plans(config: Config) -> tuple[plans.Plan, ...]:
  """The plans of evaluation: of full sequences, and of a geometry of its own.

  Args:
    config: of the stage.
  """
  config = _as_evaluated(config)
  policy = policies.load(config.drop.policy)
  full = with_last_layer(config, plans.full(config.model.num_layers))
  if not policy.own_geometry:
    return (full,)
  return full, with_last_layer(config, policy.plan(config))


def _as_evaluated(config: Config) -> Config:
  train = dataclasses.replace(config.train, mask_rate=EVAL_MASK_RATE)
  return dataclasses.replace(config, train=train)


class Steps(Learner):
  """The functions of one pretraining; what they close over is static.

  Args:
    config: the experiment.
    vocab_size: ids there are.
    special: the tokenizer's special ids.
    devices: what the functions are mapped over.
    table_policy: whose table the state holds; by default the config's own.
    consistent: a step also passes full sequences (`consistency.py`).

  Attributes:
    policy: decides what is dropped.
    plan: the layers of a training step and how many tokens they see.
    full: the plan of the second pass; None without one.
  """

  def __init__(
    self,
    config: Config,
    vocab_size: int,
    special: SpecialIds,
    devices: Devices,
    *,
    table_policy: Policy | None = None,
    consistent: bool = False,
  ):
    self.vocab_size = vocab_size
    self.special = special
    policy = policies.load(config.drop.policy)
    self.policy = policy(config, vocab_size, special)
    self.table_policy = table_policy or self.policy
    self.plan, *second = passes(config, consistent=consistent)
    self.full = second[0] if second else None
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

  @property
  def row_flops(self) -> int:
    """Matmul FLOPs of a step on one row."""
    return sum(
      self.flops_of(plan) for plan in (self.plan, self.full) if plan is not None
    )

  def flops_of(self, plan: plans.Plan) -> int:
    """Matmul FLOPs of forward and backward pass of one row through a plan."""
    return plan_flops(self.config, plan, self.vocab_size)

  def _model(self) -> bert.Bert:
    rngs = nnx.Rngs(self.config.train.seed)
    return bert.Bert(self.config.model, self.vocab_size, rngs, self.devices)

  def _learned_table(
    self, table: Float[Array, ' V'], observed: Any
  ) -> Float[Array, ' V']:
    return self.table_policy.update(table, observed)

  def _loss(
    self,
    params: nnx.State,
    state: TrainState,
    ids: Int[Array, 'B N'],
    rows: Int[Array, ' B'],
  ) -> tuple[Float[Array, ''], tuple[Sums, Any]]:
    keys, batch, router = self._drawn(state, ids, rows)
    model = nnx.merge(self.graph, params)
    seeds = self._seeds(keys, 2)
    if self.full is None:
      logits = model(batch, self.plan, router, seeds)
      sums, losses = _sums(logits, batch)
      objective = sums.loss
    else:
      logits, first = model.with_first(batch, self.plan, router, seeds)
      sums, losses = _sums(logits, batch)
      logits, reference = model.with_first(
        batch, self.full, None, self._seeds(keys, 3)
      )
      whole, _ = _sums(logits, batch)
      objective = consistency.CROSS_ENTROPY * (sums.loss + whole.loss)
      # A mean over rows, like the others over predicted positions: the learner
      # divides by the number of these.
      per_row = jnp.sum(batch.weights, axis=-1)
      for ours, theirs in zip(first, reference, strict=True):
        apart = consistency.divergence(ours, theirs)
        objective += consistency.DIVERGENCE * jnp.sum(apart * per_row)
    with jax.named_scope('table'):
      observed = self.table_policy.observe(batch.labels, losses, batch.weights)
    return objective, (sums, jax.lax.stop_gradient(observed))

  def kept(
    self,
    state: TrainState,
    ids: Int[Array, 'B N'],
    rows: Int[Array, ' B'],
    *,
    masked: bool = True,
  ) -> tuple[masking.MaskedBatch, Float[Array, 'B N']]:
    """What the state's next step would keep of some rows; without dropout.

    Args:
      state: before that step.
      ids: packed rows.
      rows: their numbers in the global batch.
      masked: as the step masks them; otherwise as they are.

    Returns:
      The rows, and of the layers that drop tokens the share that each token
      passes through.
    """
    _, batch, router = self._drawn(state, ids, rows, masked=masked)
    passed, layers = jnp.zeros(ids.shape), 0

    def recording(span: plans.Span, *entered: Any) -> routing.Route:
      nonlocal passed, layers
      route = router(span, *entered)
      layers += len(span.layers)
      passed += route.kept * len(span.layers)
      return route

    model = nnx.merge(self.graph, state.params)
    plan = self.policy.plan(self.config)
    model.encode(
      batch.ids, batch.segments, plan, recording, None, batch.predicted
    )
    return batch, passed / layers

  def states(
    self,
    state: TrainState,
    ids: Int[Array, 'B N'],
    rows: Int[Array, ' B'],
    *,
    dropping: bool,
  ) -> list[Float[Array, 'B N D']]:
    """The states of rows as they are, not masked, before and behind each layer.

    Args:
      state: as in `kept`.
      ids: packed rows.
      rows: their numbers in the global batch.
      dropping: what `kept` drops skips its layers; otherwise nothing does.
    """
    _, batch, router = self._drawn(state, ids, rows, masked=False)
    plan = plans.full(self.config.model.num_layers)
    if dropping:
      plan = self.policy.plan(self.config)
    model = nnx.merge(self.graph, state.params)
    return model.states(batch.ids, batch.segments, plan, router)

  def _drawn(
    self,
    state: TrainState,
    ids: Int[Array, 'B N'],
    rows: Int[Array, ' B'],
    *,
    masked: bool = True,
  ) -> tuple[Key[Array, ' B'], masking.MaskedBatch, bert.Router]:
    """The keys of a step's rows, the rows masked, and what routes them."""
    seed = jax.random.wrap_key_data(state.key)
    keys = masking.row_keys(seed, state.step, rows)
    ids = ids.astype(jnp.int32)
    batch = self._masked(self.config, ids, keys, self.policy.all_as_mask)
    if not masked:
      batch = batch._replace(
        ids=ids, is_predicted=jnp.zeros_like(batch.is_predicted)
      )
    # Streams of one row: masks use its key; spans and dropout, folds of it.
    router = self._router(batch, state.importance, _fold(keys, 1))
    return keys, batch, router

  def _masked(
    self,
    config: Config,
    ids: Int[Array, 'B N'],
    keys: Key[Array, ' B'],
    all_as_mask: bool,
  ) -> masking.MaskedBatch:
    model = config.model
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
      mask_rate=config.train.mask_rate,
      vocab_size=self.vocab_size,
      special=self.special,
      all_as_mask=all_as_mask,
    )

  def _seeds(self, keys: Key[Array, ' B'], stream: int) -> dropout.Seeds | None:
    if self.config.model.dropout or self.config.model.attention_dropout:
      return dropout.seeds(_fold(keys, stream))
    return None

  def _router(
    self,
    batch: masking.MaskedBatch,
    table: Float[Array, ' V'],
    keys: Key[Array, ' B'],
  ) -> bert.Router:
    segments = batch.segments.segments
    context = Context(batch.ids, segments, batch.is_predicted, table, keys)

    def router(
      span: plans.Span, x: Float[Array, 'B N D'], received: bert.Received
    ) -> routing.Route:
      own = _fold(keys, span.layers[0])
      return self.policy.route(
        span, x, context._replace(keys=own, received=received)
      )

    return router

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
    plan = evaluation_plans(self.config)[0]
    return self._evaluate(params, ids, first, plan, all_as_mask=False)

  def evaluate_own(
    self,
    params: nnx.State,
    ids: Int[Array, 'B N'],
    first: Int[Array, ''],
  ) -> Sums:
    """The same positions, computed as the policy trains them."""
    plan = evaluation_plans(self.config)[1]
    return self._evaluate(
      params, ids, first, plan, all_as_mask=self.policy.all_as_mask
    )

  def _evaluate(
    self,
    params: nnx.State,
    ids: Int[Array, 'B N'],
    first: Int[Array, ''],
    plan: plans.Plan,
    *,
    all_as_mask: bool,
  ) -> Sums:
    config = _as_evaluated(self.config)
    rows = first + self.devices.first_row(len(ids)) + jnp.arange(len(ids))
    keys = masking.row_keys(jax.random.key(self.config.eval.seed), 0, rows)
    batch = self._masked(config, ids.astype(jnp.int32), keys, all_as_mask)
    table = jnp.zeros(self.vocab_size)  # own geometries read none
    router = self._router(batch, table, _fold(keys, 1))
    model = nnx.merge(self.graph, params)
    logits = model(batch, plan, router)
    return self.devices.sum(_sums(logits, batch)[0])


def _sums(
  logits: Float[Array, 'B P V'], batch: masking.MaskedBatch
) -> tuple[Sums, Float[Array, 'B P']]:
  """Sums over the rows, and the loss of every predicted position in nats."""
  losses, correct = loss.cross_entropy(logits, batch.labels)
  sums = Sums(
    jnp.sum(losses * batch.weights),
    jnp.sum(batch.weights),
    jnp.sum(correct * batch.weights),
  )
  return sums, losses


def _fold(keys: Key[Array, ' B'], data: int) -> Key[Array, ' B']:
  return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)
