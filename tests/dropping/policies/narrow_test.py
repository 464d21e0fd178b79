import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import errors, step
from td_flax.dropping import plan as plans
from td_flax.dropping import routing
from td_flax.dropping.plan import Span


@pytest.mark.parametrize('norm', ['post', 'pre'])
def test_it_computes_predicted_tokens_from_states_before_it(
  make_steps, make_rows, special, drawn, norm
):
  steps, params = make_steps('narrow', drop__first_layer=2, model__norm=norm)
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
def test_its_layers_as_a_loop_are_the_same(
  make_steps, make_rows, special, remat
):
  losses = []
  for scan in (False, True):
    steps, params = make_steps(
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


@pytest.mark.parametrize(
  ('overrides', 'complaint'),
  [
    (
      {'drop__first_layer': 0},
      'drop.first_layer=0: must be from 1 to 2',
    ),
    (
      {'drop__consistency_every': 5},
      'drop.consistency_every=5: must be 0 with drop.policy=narrow',
    ),
  ],
)
def test_what_it_cannot_do_is_told(make_config, overrides, complaint):
  with pytest.raises(errors.ConfigError, match=complaint):
    make_config(drop__policy='narrow', **overrides)


def test_its_note_names_what_it_computes_and_does_not_read(make_config):
  config = make_config(drop__policy='narrow')
  note = step.policies.load('narrow').note(config)
  assert 'layers from 1 on compute the P=4 predicted tokens' in note
  assert 'drop.keep and drop.last_layer are not read' in note
