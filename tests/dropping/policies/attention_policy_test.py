import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import errors, step
from td_flax.devices import OneDevice
from td_flax.dropping import plan as plans
from td_flax.dropping import policies
from td_flax.dropping.policies.base import Context
from td_flax.model import attention, flops

IDS = jnp.array([[2, 9, 8, 7, 6, 3, 2, 5, 4, 3, 0, 0]])
SEGMENTS = jnp.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
SCORES = jnp.array([[0, 0.1, 0.4, 0.2, 0.3, 0, 0, 0.5, 0, 0, 9, 9]])


def route(make_config, special, *, k, **drop):
  config = make_config(
    drop__policy='attention', **{f'drop__{x}': y for x, y in drop.items()}
  )
  policy = policies.load('attention')(config, 300, special)
  context = Context(
    IDS,
    SEGMENTS,
    special.mask == IDS,
    jnp.zeros(300),
    jax.random.key(0)[None],
    lambda: SCORES,
  )
  span = plans.Span((1,), k, clusters=drop.get('clusters', 0), scored=True)
  return policy.route(span, jnp.zeros((1, 12, 4)), context)


def test_what_receives_most_attention_stays_behind_the_pinned(
  make_config, special
):
  found = route(make_config, special, k=7)
  # [CLS] [SEP] [CLS] [MASK] [SEP], then 0.5 and 0.4; never [PAD].
  assert found.positions.tolist() == [[0, 2, 5, 6, 7, 8, 9]]
  assert found.clusters is None


def test_clusters_divide_the_dropped_tokens_in_order(make_config, special):
  found = route(make_config, special, k=5, pool='mean', clusters=2).clusters
  # Dropped: 1 2 3 4 of document 1, 7 of document 2; parts 1 2 3 and 4 7.
  expected = np.zeros((1, 2, 12), np.float32)
  expected[0, 0, [1, 2, 3]] = 1 / 3
  expected[0, 1, 4] = 1  # and not 7: a document does not see another
  np.testing.assert_allclose(found.weights, expected, rtol=1e-6)
  np.testing.assert_array_equal(found.segments, [[1, 1]])


def test_weighted_clusters_weigh_by_score(make_config, special):
  found = route(make_config, special, k=5, pool='weighted', clusters=1)
  expected = np.zeros(12)
  expected[1:5] = 0.1, 0.4, 0.2, 0.3
  np.testing.assert_allclose(found.clusters.weights[0, 0], expected, atol=1e-6)


def test_attention_received_is_the_column_sum_without_the_diagonal():
  query, key = jax.random.normal(jax.random.key(0), (2, 2, 256, 3, 4))
  segments = jnp.repeat(jnp.array([[1, 2]]), 128, axis=1)
  segments = jnp.concatenate([segments, jnp.ones_like(segments)])
  scores = jnp.einsum('bqhe,bmhe->bhqm', query, key)
  same = segments[:, None, :, None] == segments[:, None, None, :]
  weights = jax.nn.softmax(jnp.where(same, scores, -jnp.inf), -1).mean(1)
  expected = weights.sum(1) - jnp.diagonal(weights, axis1=1, axis2=2)
  found = attention.received(query, key, segments)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_square_of_scores_is_held_in_memory():
  lowered = jax.jit(attention.received).lower(
    *jnp.zeros((2, 1, 512, 3, 4)), jnp.ones((1, 512), jnp.int32)
  )
  assert '512x512' not in lowered.as_text()


@pytest.mark.parametrize('norm', ['post', 'pre'])
def test_a_pass_by_hand(make_config, make_rows, special, drawn, norm):
  config = make_config(
    drop__policy='attention',
    drop__first_layer=1,
    drop__last_layer=2,
    drop__pool='weighted',
    drop__clusters=3,
    model__num_layers=4,
    model__norm=norm,
    model__init_stddev=0.3,
  )
  steps = step.Steps(config, 300, special, OneDevice())
  model = steps._model()
  batch, router = drawn(steps, make_rows(4))
  plan = steps.policy.plan(config)
  found = model.encode(batch.ids, batch.segments, plan, router)

  segments = batch.segments.segments
  x = model.embed(batch.ids, batch.segments, None)
  x = model.layers[0](x, segments, None, None, None)
  # What layer 1, the first narrow one, would attend to.
  read = model.layers[1].attention_norm(x) if norm == 'pre' else x
  query, key = (
    np.asarray(dense(read)).reshape(4, 32, 2, -1)
    for dense in (
      model.layers[1].attention.query,
      model.layers[1].attention.key,
    )
  )
  scores = np.einsum('bqhe,bmhe->bhqm', query, key) / query.shape[-1] ** 0.5
  same = segments[:, None, :, None] == segments[:, None, None, :]
  weights = np.asarray(jax.nn.softmax(jnp.where(same, scores, -jnp.inf), -1))
  weights = weights.mean(1) * (1 - np.eye(32))
  received = weights.sum(1)
  pinned = np.isin(batch.ids, [special.cls, special.sep, special.mask])
  order = np.argsort(-np.where(pinned, np.inf, received), axis=1)
  kept = np.sort(order[:, : steps.config.num_kept], axis=1)

  states, documents = [], []
  for row, positions in enumerate(kept):
    dropped = np.setdiff1d(np.arange(32), positions)
    parts = np.arange(len(dropped)) * 3 // len(dropped)
    y, y_documents = [*x[row, positions]], [*segments[row, positions]]
    for part in range(3):
      members = dropped[parts == part]
      document = segments[row, members[0]]
      members = members[segments[row, members] == document]
      share = received[row, members] / received[row, members].sum()
      y.append((share[:, None] * x[row, members]).sum(0))
      y_documents.append(document)
    states.append(jnp.stack(y))
    documents.append(y_documents)
  y, y_segments = jnp.stack(states), jnp.array(documents)
  y = model.layers[1](y, y_segments, x, segments, None)
  y = model.layers[2](y, y_segments, None, None, None)
  rows = np.arange(4)[:, None]
  x = x.at[rows, kept].set(y[:, : kept.shape[1]])
  x = model.layers[3](x, segments, None, None, None)
  expected = x if model.norm is None else model.norm(x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_finite(make_config, make_rows, special):
  config = make_config(
    drop__policy='attention', drop__pool='weighted', drop__clusters=3
  )
  steps = step.Steps(config, 300, special, OneDevice())
  params = nnx.split(steps._model())[1]
  rows = jnp.asarray(make_rows(8))
  value, gradient = jax.value_and_grad(steps._loss, has_aux=True)(
    params, steps.init(np.zeros(300)), rows, jnp.arange(8)
  )
  assert np.isfinite(value[0])
  for leaf in jax.tree.leaves(gradient):
    assert np.isfinite(leaf).all()


def test_scores_and_clusters_are_counted(make_config):
  config = make_config(drop__policy='attention')
  pooled = make_config(
    drop__policy='attention', drop__pool='mean', drop__clusters=4
  )
  other = make_config(drop__policy='random')

  def count(config):
    return flops.train_flops(
      config.model,
      policies.load(config.drop.policy).plan(config),
      sequence_length=32,
      num_predicted=4,
      vocab_size=300,
    )

  n, d = 32, 16
  assert count(config) - count(other) == 4 * n * d * d + 2 * n * n * d
  more = flops.layer_flops(config.model, 20, 32) - flops.layer_flops(
    config.model, 16, 32
  )
  assert count(pooled) - count(config) == 3 * more


@pytest.mark.parametrize(
  ('overrides', 'complaint'),
  [
    ({'drop__policy': 'random', 'drop__pool': 'weighted'}, "pool='weighted'"),
    ({'drop__policy': 'random_ltd', 'drop__pool': 'mean'}, 'no span to pool'),
    (
      {'drop__policy': 'attention', 'drop__pool': 'mean', 'drop__clusters': 17},
      'drop.clusters=17: must be at most N-k=16',
    ),
  ],
)
def test_pools_that_cannot_be_are_told(make_config, overrides, complaint):
  with pytest.raises(errors.ConfigError, match=complaint):
    make_config(**overrides)
