import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import errors, step
from td_flax.dropping.plan import Span


@pytest.mark.parametrize('norm', ['post', 'pre'])
def test_predicted_tokens_join_behind_the_early_layers(
  make_steps, make_rows, special, drawn, norm
):
  steps, params = make_steps(
    'mask_later',
    drop__last_layer=1,
    train__mask_rate=0.5,
    model__norm=norm,
  )
  # At their initial values the early layers would hardly matter.
  noise = jax.random.key(0)
  params = jax.tree.map(
    lambda x: x + 0.2 * jax.random.normal(noise, x.shape), params
  )
  batch, router = drawn(steps, make_rows(5))
  rows = np.arange(5)[:, None]
  visible, predicted = (
    np.nonzero(at)[1].reshape(5, 16)
    for at in (~batch.is_predicted, batch.is_predicted)
  )

  def by_hand(params):
    model = nnx.merge(steps.graph, params)
    ids = batch.segments.segments
    x = model.embed(batch.ids, batch.segments, None)
    early, early_ids = x[rows, visible], ids[rows, visible]
    for i in (0, 1):
      early = model.layers[i](early, early_ids, early, early_ids, None)
    x = x.at[rows, visible].set(early)
    for i in (2, 3):
      x = model.layers[i](x, ids, x, ids, None)
    x = x if model.norm is None else model.norm(x)
    return model.predict(x[rows, predicted])

  def found(params):
    return nnx.merge(steps.graph, params)(batch, steps.plan, router)

  np.testing.assert_allclose(
    found(params), by_hand(params), rtol=1e-4, atol=1e-4
  )
  gradients, expected = (
    jax.grad(lambda p, f=logits: step._sums(f(p), batch)[0].loss)(params)
    for logits in (found, by_hand)
  )
  for x, y in zip(*map(jax.tree.leaves, (gradients, expected)), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
  first = nnx.state(nnx.merge(steps.graph, gradients).layers[0])
  assert max(jnp.abs(x).max() for x in jax.tree.leaves(first)) > 0.1


def test_it_shows_early_layers_no_predicted_token(
  make_steps, make_rows, special, drawn
):
  steps, params = make_steps(
    'mask_later',
    drop__last_layer=1,
    train__mask_rate=0.5,
  )
  n, p = 32, steps.config.num_predicted
  assert steps.plan[:2] == (Span((0, 1), n - p), Span((2,)))
  batch, router = drawn(steps, make_rows(5))
  assert (batch.ids[batch.is_predicted] == special.mask).all()
  route = router(steps.plan[0], jnp.zeros((5, n, 4)), None)
  np.testing.assert_array_equal(route.kept, ~batch.is_predicted)
  # A predicted token enters the late layers as its embedding.
  model = nnx.merge(steps.graph, params)
  x = model.embed(batch.ids, batch.segments, None)
  y = model.through(x, batch.segments, steps.plan[:1], router, None, None)
  np.testing.assert_array_equal(y[batch.is_predicted], x[batch.is_predicted])
  assert jnp.abs(y[~batch.is_predicted] - x[~batch.is_predicted]).max() > 0.01


def test_it_leaves_padding_out_before_real_tokens(
  make_steps, make_rows, special, drawn
):
  rows = make_rows(5)
  rows[:, 20:] = special.pad
  steps, _ = make_steps('mask_later', train__mask_rate=0.25)
  batch, router = drawn(steps, rows)
  route = router(steps.plan[0], jnp.zeros((5, 32, 4)), None)
  assert (batch.is_predicted.sum(1) == 5).all()
  assert route.kept[:, :20].sum() == 5 * 15  # every visible token
  assert (route.kept & batch.is_predicted).sum() == 0


def test_what_it_cannot_do_is_told(make_config):
  with pytest.raises(
    errors.ConfigError, match=r'drop\.last_layer=2: must be at most 1'
  ):
    make_config(drop__policy='mask_later', drop__last_layer=2)


def test_its_note_names_what_it_computes_and_does_not_read(make_config):
  config = make_config(drop__policy='mask_later', drop__last_layer=1)
  note = step.policies.load('mask_later').note(config)
  assert 'layers 0 to 1 compute the N-P=28 tokens' in note
  assert 'drop.keep and drop.first_layer are not read' in note
