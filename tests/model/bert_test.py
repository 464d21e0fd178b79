import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import masking
from td_flax.dropping import plan as plans
from td_flax.dropping import routing
from td_flax.model import bert

VOCAB = 300


def make(config, **changes):
  model_config = dataclasses.replace(config.model, **changes)
  return bert.Bert(model_config, VOCAB, nnx.Rngs(0))


def segments(ids, special, **switches):
  switches = {'attend_across': False, 'restart_positions': True} | switches
  return masking.segment(jnp.asarray(ids, jnp.int32), special, **switches)


def encode(model, ids, special, plan=None, router=None, seeds=None, **switches):
  plan = plan or plans.full(len(model.layers))
  return model.encode(
    jnp.asarray(ids, jnp.int32),
    segments(ids, special, **switches),
    plan,
    router,
    seeds,
  )


def keep_first(k):
  """A router that keeps the first k positions."""

  def router(span, x, received):
    ranks = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    return routing.select(ranks, k)

  return router


@pytest.mark.parametrize('norm', ['post', 'pre'])
def test_packed_documents_do_not_see_each_other(
  make_config, make_rows, special, norm
):
  model = make(make_config(), norm=norm)
  ids = make_rows(2)
  changed = ids.copy()
  changed[:, 18:30] = 77  # inside the second document
  before, after = (encode(model, x, special) for x in (ids, changed))
  np.testing.assert_array_equal(before[:, :17], after[:, :17])
  assert (before[:, 17:] != after[:, 17:]).any()
  across = [
    encode(model, x, special, attend_across=True) for x in (ids, changed)
  ]
  assert (across[0][:, :17] != across[1][:, :17]).any()


def test_a_packed_document_is_encoded_as_if_it_were_alone(
  make_config, make_rows, special
):
  model = make(make_config())
  ids = make_rows(2)
  alone = np.zeros_like(ids)
  alone[:, :15] = ids[:, 17:]
  packed = encode(model, ids, special)[:, 17:]
  np.testing.assert_allclose(
    packed, encode(model, alone, special)[:, :15], atol=1e-6
  )
  continued = encode(model, ids, special, restart_positions=False)[:, 17:]
  assert not np.allclose(packed, continued, atol=1e-3)


def test_padding_changes_nothing(make_config, make_rows, special):
  model = make(make_config())
  ids = make_rows(2, length=24)
  padded = np.pad(ids, ((0, 0), (0, 8)))
  np.testing.assert_allclose(
    encode(model, ids, special),
    encode(model, padded, special)[:, :24],
    atol=1e-6,
  )


@pytest.mark.parametrize('norm', ['post', 'pre'])
@pytest.mark.parametrize('cross_attend', [True, False])
def test_keeping_all_tokens_is_plain_bert(
  make_config, make_rows, special, norm, cross_attend
):
  model = make(make_config(), norm=norm)
  ids = make_rows(2)
  plan = plans.token_dropping(3, 1, 1, 32, cross_attend=cross_attend)
  np.testing.assert_allclose(
    encode(model, ids, special, plan, keep_first(32)),
    encode(model, ids, special),
    atol=1e-6,
  )


def test_a_dropped_token_enters_the_last_layer_as_it_entered_the_span(
  make_config, make_rows, special
):
  model = make(make_config())
  ids = make_rows(2)
  spans = plans.token_dropping(3, 1, 1, 10, cross_attend=True)
  states = encode(model, ids, special, spans[:2], keep_first(10))
  entered = encode(model, ids, special, spans[:1])
  np.testing.assert_array_equal(states[:, 10:], entered[:, 10:])
  assert (states[:, :10] != entered[:, :10]).any()


def test_the_transition_layer_sees_dropped_tokens_if_asked(
  make_config, make_rows, special
):
  model = make(make_config())
  ids = make_rows(2)
  changed = ids.copy()
  changed[:, 12:16] = 77  # dropped, in the first document

  def narrow(ids, cross_attend):
    # No full layer before: nothing else carries the change to the kept.
    plan = plans.token_dropping(3, 0, 1, 10, cross_attend=cross_attend)[:1]
    return encode(model, ids, special, plan, keep_first(10))[:, :10]

  np.testing.assert_array_equal(narrow(ids, False), narrow(changed, False))
  assert (narrow(ids, True) != narrow(changed, True)).any()


def test_kept_tokens_keep_their_documents(make_config, make_rows, special):
  model = make(make_config())
  ids = make_rows(1)
  changed = ids.copy()
  changed[:, 20] = 77
  plan = plans.token_dropping(3, 1, 1, 25, cross_attend=False)
  before, after = (
    encode(model, x, special, plan, keep_first(25)) for x in (ids, changed)
  )
  np.testing.assert_array_equal(before[:, :17], after[:, :17])


def task(ids, special, p=4):
  """A masked batch that predicts p random positions of each row."""
  draws = jax.random.normal(jax.random.key(1), ids.shape)
  predicted = routing.select(routing.rank(draws), p)
  return masking.MaskedBatch(
    ids=jnp.asarray(ids, jnp.int32),
    segments=segments(ids, special),
    predicted=predicted,
    labels=jnp.zeros((len(ids), p), jnp.int32),
    weights=jnp.ones((len(ids), p)),
    is_predicted=predicted.kept,
  )


@pytest.mark.parametrize('norm', ['post', 'pre'])
@pytest.mark.parametrize('drops', [False, True])
def test_a_last_layer_of_predicted_positions_changes_no_logit_and_no_gradient(
  make_config, make_rows, special, norm, drops
):
  model = make(make_config(), norm=norm)
  batch = task(make_rows(2), special)
  whole = plans.full(3)
  if drops:
    whole = plans.token_dropping(3, 1, 1, 10, cross_attend=True)
  graph, params = nnx.split(model)
  weights = jax.random.normal(jax.random.key(2), (2, 4, VOCAB))

  def loss(params, plan):
    logits = nnx.merge(graph, params)(batch, plan, keep_first(10))
    return jnp.sum(weights * logits[..., :VOCAB]), logits

  gradient = jax.value_and_grad(loss, has_aux=True)
  (_, logits), grads = gradient(params, whole)
  (_, logits_only), grads_only = gradient(
    params, plans.predicted_only(whole, 4)
  )
  assert logits.shape == logits_only.shape == (2, 4, 384)
  np.testing.assert_allclose(logits_only, logits, atol=1e-5)
  chex.assert_trees_all_close(grads_only, grads, atol=1e-4)


def test_padded_vocabulary_has_no_weight_no_gradient_and_no_probability(
  make_config, make_rows, special
):
  model = make(make_config())
  table = model.embeddings.word.embedding[...]
  assert table.shape == (384, 16)
  np.testing.assert_array_equal(table[VOCAB:], 0)
  assert (np.asarray(table[:VOCAB]) != 0).any(axis=1).all()
  graph, params = nnx.split(model)

  def loss(params):
    model = nnx.merge(graph, params)
    logits = model.predict(encode(model, make_rows(2), special))
    return -jax.nn.log_softmax(logits)[..., 7].sum()

  grads = nnx.merge(graph, jax.grad(loss)(params))
  np.testing.assert_array_equal(grads.embeddings.word.embedding[...][VOCAB:], 0)
  np.testing.assert_array_equal(grads.head.bias[...][VOCAB:], 0)
  logits = model.predict(encode(model, make_rows(2), special))
  probabilities = np.asarray(jax.nn.softmax(logits))
  np.testing.assert_array_equal(probabilities[..., VOCAB:], 0)


def test_dropout_follows_its_seeds(make_config, make_rows, special):
  model = make(make_config(), dropout=0.5, attention_dropout=0.5)
  ids = make_rows(2)
  first, second = jnp.arange(8, dtype=jnp.uint32).reshape(2, 2, 2)
  runs = [
    encode(model, ids, special, seeds=seeds)
    for seeds in (first, first, second, None)
  ]
  np.testing.assert_array_equal(runs[0], runs[1])
  assert (runs[0] != runs[2]).any()
  assert (runs[0] != runs[3]).any()
  plain = encode(make(make_config()), ids, special)
  np.testing.assert_array_equal(runs[3], plain)


def test_bfloat16_computes_in_bfloat16_on_float32_parameters(
  make_config, make_rows, special
):
  model = make(make_config(), dtype='bfloat16')
  leaves = jax.tree.leaves(nnx.state(model))
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}
  states = encode(model, make_rows(2), special)
  assert states.dtype == jnp.bfloat16
  exact = encode(make(make_config()), make_rows(2), special)
  np.testing.assert_allclose(states.astype(jnp.float32), exact, atol=0.1)


def test_weights_start_as_published(make_config):
  model = make(make_config(), hidden_dim=128, mlp_dim=512)
  kernel = np.asarray(model.layers[0].mlp.inner.kernel[...])
  assert np.abs(kernel).max() <= 0.04  # truncated at two deviations
  assert kernel.std() == pytest.approx(0.02 * 0.8796, rel=0.02)
  np.testing.assert_array_equal(model.layers[0].mlp.inner.bias[...], 0)
  np.testing.assert_array_equal(model.layers[0].mlp_norm.scale[...], 1)


@pytest.mark.parametrize('norm', ['post', 'pre'])
@pytest.mark.parametrize('clusters', [0, 3])
def test_states_of_layers_are_those_that_the_model_computes(
  make_config, make_rows, special, norm, clusters
):
  model = make(make_config(), norm=norm, num_layers=5)
  ids = make_rows(2)
  given = jnp.asarray(ids, jnp.int32), segments(ids, special)

  def router(span, x, received):
    route = keep_first(10)(span, x, received)
    clusters = routing.cluster(
      ~route.kept, jnp.ones(ids.shape), given[1].segments, span.clusters
    )
    return route._replace(clusters=clusters if span.clusters else None)

  full = model.states(*given, plans.full(5))
  assert len(full) == 6
  np.testing.assert_array_equal(full[-1], model.encode(*given, plans.full(5)))
  x = model.embed(*given, None)
  for i, state in enumerate(full[:-1]):
    np.testing.assert_array_equal(state, x)
    x = model.through(x, given[1], (plans.Span((i,)),), None, None, None)

  plan = plans.token_dropping(5, 1, 3, 10, cross_attend=True, clusters=clusters)
  found = model.states(*given, plan, router)
  np.testing.assert_array_equal(found[-1], model.encode(*given, plan, router))
  np.testing.assert_array_equal(found[1], full[1])
  # In the narrow layers 1 to 3 the dropped ones stay, the others move.
  for before, after in itertools.pairwise(found[1:5]):
    np.testing.assert_array_equal(before[:, 10:], after[:, 10:])
    assert (before[:, :10] != after[:, :10]).any(-1).all()
