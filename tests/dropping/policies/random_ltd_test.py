import jax.numpy as jnp
import numpy as np
import pytest

from td_flax import step
from td_flax.devices import OneDevice
from td_flax.dropping.plan import Span


def make(make_config, special, **overrides):
  overrides = {'drop__first_layer': 1, 'drop__last_layer': 3} | overrides
  config = make_config(
    drop__policy='random_ltd', model__num_layers=5, **overrides
  )
  return step.Steps(config, 300, special, OneDevice())


@pytest.fixture
def routes(drawn):
  def found(steps, rows):
    _, router = drawn(steps, rows)
    x = jnp.zeros((*rows.shape, 4))
    return [router(span, x, None) for span in steps.plan if span.keep == 16]

  return found


def test_every_middle_layer_is_a_span(make_config, special):
  steps = make(make_config, special)
  assert steps.policy.plan(steps.config) == (
    Span((0,)), Span((1,), 16), Span((2,), 16), Span((3,), 16), Span((4,)),
  )  # fmt: skip


def test_layers_draw_apart_and_specials_like_others(
  make_config, make_rows, special, routes
):
  steps = make(make_config, special, train__predicted_only_last_layer=False)
  first, second, third = routes(steps, make_rows(200))
  assert first.positions.shape == (200, 16)
  assert (first.positions[:, 1:] > first.positions[:, :-1]).all()
  assert (first.kept != second.kept).any(axis=1).mean() > 0.9
  assert (second.kept != third.kept).any(axis=1).mean() > 0.9
  # Each position passes half of the time, [CLS] at position 0 too.
  shares = jnp.stack([x.kept.mean(0) for x in (first, second, third)]).mean(0)
  assert jnp.abs(shares - 0.5).max() < 0.1


def test_padding_is_drawn_last(make_config, make_rows, special, routes):
  rows = make_rows(20)
  rows[:, 20:] = special.pad
  steps = make(make_config, special, train__predicted_only_last_layer=False)
  for route in routes(steps, rows):
    assert not route.kept[:, 20:].any()


def test_any_number_of_tokens_can_be_kept(make_config, special):
  steps = make(make_config, special, drop__keep=2)
  assert steps.layer_tokens_kept < 0.5


def test_a_pass_by_hand(make_config, make_rows, special, drawn):
  steps = make(make_config, special, model__norm='pre')
  model = steps._model()
  batch, router = drawn(steps, make_rows(3))
  plan = steps.policy.plan(steps.config)
  found = model.encode(batch.ids, batch.segments, plan, router)
  segments = batch.segments.segments
  x = model.embed(batch.ids, batch.segments, None)
  for span in plan:
    layer = model.layers[span.layers[0]]
    kept = jnp.broadcast_to(jnp.arange(32), (3, 32))
    if span.keep is not None:
      kept = router(span, x, None).positions
    rows = jnp.arange(3)[:, None]
    # Queries and keys are the layer's own tokens: the others are not there.
    y = layer(x[rows, kept], segments[rows, kept], None, None, None)
    x = x.at[rows, kept].set(y)
  np.testing.assert_allclose(found, model.norm(x), rtol=1e-4, atol=1e-4)
