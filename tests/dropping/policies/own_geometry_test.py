"""Policies that train something else than plain BERT: narrow, mask_later."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import errors, evaluate, parallel, step
from td_flax.config import ParallelConfig
from td_flax.devices import OneDevice
from td_flax.dropping import plan as plans
from td_flax.dropping import routing
from td_flax.dropping.plan import Span


def make(make_config, special, policy, **overrides):
  config = make_config(drop__policy=policy, model__num_layers=4, **overrides)
  steps = step.Steps(config, 300, special, OneDevice())
  return steps, nnx.split(steps._model())[1]


@pytest.mark.parametrize('norm', ['post', 'pre'])
def test_narrow_computes_predicted_tokens_from_states_before_it(
  make_config, make_rows, special, drawn, norm
):
  steps, params = make(
    make_config, special, 'narrow', drop__first_layer=2, model__norm=norm
  )
  p = steps.config.num_predicted
  assert steps.plan == (
    Span((0, 1)), Span((2, 3), p, cross_attend=2, restore=False),
  )  # fmt: skip
  assert list(plans.shapes(steps.plan, 32)) == [(32, 32)] * 2 + [(p, 32)] * 2
  model = nnx.merge(steps.graph, params)
  batch, _ = drawn(steps, make_rows(3))
  found = model(batch, steps.plan)
  # By hand: both late layers attend to what layer 1 returned.
  ids = batch.segments.segments
  x = model.embed(batch.ids, batch.segments, None)
  x = model.through(x, batch.segments, plans.full(2), None, None, None)
  y = routing.gather(x, batch.predicted)
  y_ids = routing.take_ids(ids, batch.predicted.positions)
  for layer in (model.layers[2], model.layers[3]):
    y = layer(y, y_ids, x, ids, None)
  y = y if model.norm is None else model.norm(y)
  np.testing.assert_allclose(found, model.predict(y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('remat', ['none', 'layer'])
def test_narrow_layers_as_a_loop_are_the_same(
  make_config, make_rows, special, remat
):
  losses = []
  for scan in (False, True):
    steps, params = make(
      make_config,
      special,
      'narrow',
      drop__first_layer=1,
      model__scan_layers=scan,
      model__remat=remat,
    )
    rows = jnp.asarray(make_rows(4))
    losses.append(
      jax.value_and_grad(lambda p, s=steps, r=rows: s._loss(
        p, s.init(np.zeros(300)), r, jnp.arange(4)
      )[0])(params)
    )  # fmt: skip
  for x, y in zip(*map(jax.tree.leaves, losses), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_mask_later_shows_early_layers_no_predicted_token(
  make_config, make_rows, special, drawn
):
  steps, params = make(
    make_config,
    special,
    'mask_later',
    drop__last_layer=1,
    train__mask_rate=0.5,
  )
  n, p = 32, steps.config.num_predicted
  assert steps.plan[:2] == (Span((0, 1), n - p), Span((2,)))
  batch, router = drawn(steps, make_rows(5))
  assert (batch.ids[batch.hidden] == special.mask).all()
  route = router(steps.plan[0], jnp.zeros((5, n, 4)), None)
  np.testing.assert_array_equal(route.kept, ~batch.hidden)
  # A predicted token enters the late layers as its embedding.
  model = nnx.merge(steps.graph, params)
  x = model.embed(batch.ids, batch.segments, None)
  y = model.through(x, batch.segments, steps.plan[:1], router, None, None)
  np.testing.assert_array_equal(y[batch.hidden], x[batch.hidden])
  assert jnp.abs(y[~batch.hidden] - x[~batch.hidden]).max() > 0.01


def test_mask_later_leaves_padding_out_before_real_tokens(
  make_config, make_rows, special, drawn
):
  rows = make_rows(5)
  rows[:, 20:] = special.pad
  steps, _ = make(make_config, special, 'mask_later', train__mask_rate=0.25)
  batch, router = drawn(steps, rows)
  route = router(steps.plan[0], jnp.zeros((5, 32, 4)), None)
  assert (batch.hidden.sum(1) == 5).all()
  assert route.kept[:, :20].sum() == 5 * 15  # every visible token
  assert (route.kept & batch.hidden).sum() == 0


@pytest.mark.parametrize('policy', ['narrow', 'mask_later'])
def test_held_out_loss_is_also_measured_as_trained(
  make_config, make_rows, special, policy
):
  config = make_config(
    drop__policy=policy, train__mask_rate=0.4, parallel__num_devices=1
  )
  engine = parallel.make(ParallelConfig(num_devices=1))
  steps = step.Steps(config, 300, special, engine)
  params = engine.place(nnx.split(steps._model())[1])
  rows = make_rows(8)
  figures = evaluate.Evaluator(config, steps, engine, rows, steps)(params)
  assert figures['eval/loss'] != figures['eval/own_loss']
  # The same 15% of positions whatever training masks.
  plain = make_config(parallel__num_devices=1)
  other = step.Steps(plain, 300, special, engine)
  assert evaluate.Evaluator(plain, other, engine, rows)(params) == {
    key: figures[key] for key in ('eval/loss', 'eval/accuracy')
  }


@pytest.mark.parametrize(
  ('overrides', 'complaint'),
  [
    (
      {'drop__policy': 'narrow', 'drop__first_layer': 0},
      'drop.first_layer=0: must be from 1 to 2',
    ),
    (
      {'drop__policy': 'mask_later', 'drop__last_layer': 2},
      'drop.last_layer=2: must be at most 1',
    ),
    (
      {'drop__policy': 'narrow', 'drop__consistency_every': 5},
      'drop.consistency_every=5: must be 0 with drop.policy=narrow',
    ),
  ],
)
def test_what_they_cannot_do_is_told(make_config, overrides, complaint):
  with pytest.raises(errors.ConfigError, match=complaint):
    make_config(**overrides)


def test_they_say_that_keep_is_not_read(make_config):
  for policy in ('narrow', 'mask_later'):
    steps = step.policies.load(policy)
    note = steps.note(make_config(drop__policy=policy))
    assert policy in note
    assert 'drop.keep' in note
