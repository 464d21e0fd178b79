import pytest

from td_flax.config import ModelConfig
from td_flax.dropping import plan as plans
from td_flax.model import flops

SHAPE = {'sequence_length': 512, 'num_predicted': 76, 'vocab_size': 30_522}
BASE = ModelConfig()
LARGE = ModelConfig(num_layers=24, hidden_dim=1024, num_heads=16, mlp_dim=4096)


def ratio(model, *layout):
  plan = plans.token_dropping(model.num_layers, *layout, cross_attend=True)
  plain = flops.train_flops(model, plans.full(model.num_layers), **SHAPE)
  return flops.train_flops(model, plan, **SHAPE) / plain


@pytest.mark.parametrize(('model', 'gflops'), [(BASE, 300.9), (LARGE, 1019.8)])
def test_a_full_row_costs_what_was_counted_by_hand(model, gflops):
  plan = plans.full(model.num_layers)
  counted = flops.train_flops(model, plan, **SHAPE)
  assert counted / 1e9 == pytest.approx(gflops, abs=0.05)


@pytest.mark.parametrize(
  ('model', 'layout', 'expected'),
  [
    (BASE, (5, 10, 256), 0.755),
    (BASE, (5, 10, 128), 0.640),
    (BASE, (1, 10, 256), 0.587),
    (BASE, (1, 10, 128), 0.393),
    (LARGE, (11, 22, 256), 0.748),
    (LARGE, (11, 22, 128), 0.629),
    (LARGE, (1, 22, 256), 0.535),
    (LARGE, (1, 22, 128), 0.315),
  ],
)
def test_dropping_saves_what_was_counted_by_hand(model, layout, expected):
  # One unit of the last digit that was written down.
  assert ratio(model, *layout) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
  ('model', 'layout', 'expected'),
  [
    (BASE, None, 0.942),
    (LARGE, None, 0.970),
    (BASE, (5, 10, 256), 0.697),
    (LARGE, (11, 22, 256), 0.719),
  ],
)
def test_a_last_layer_of_predicted_positions_saves_what_was_counted_by_hand(
  model, layout, expected
):
  full = plans.full(model.num_layers)
  plan = full
  if layout:
    plan = plans.token_dropping(model.num_layers, *layout, cross_attend=True)
  plain, only = (
    flops.train_flops(model, x, **SHAPE)
    for x in (full, plans.predicted_only(plan, 76))
  )
  assert only / plain == pytest.approx(expected, abs=1e-3)


def test_keeping_everything_saves_nothing():
  assert ratio(BASE, 5, 10, 512) == 1
