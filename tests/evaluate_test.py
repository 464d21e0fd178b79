import jax
import numpy as np
import pytest

from td_flax import evaluate, parallel, step
from td_flax.config import ParallelConfig

VOCAB = 300


class Rows:
  """Held-out rows in memory."""

  def __init__(self, rows):
    self.rows = rows

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, indices):
    return self.rows[indices]


@pytest.fixture
def losses(make_config, special):
  """Held-out figures of fresh parameters."""

  def run(rows, num_devices, **overrides):
    config = make_config(**overrides)
    engine = parallel.make(ParallelConfig(num_devices=num_devices))
    steps = step.Steps(config, VOCAB, special, engine)
    own = steps if steps.policy.own_geometry else None
    evaluator = evaluate.Evaluator(config, steps, engine, Rows(rows), own)
    params = jax.device_get(steps.init(np.zeros(VOCAB))).params
    return evaluator(engine.replicate(params))

  return run


@pytest.mark.smoke
def test_neither_devices_nor_batches_change_the_held_out_loss(
  losses, make_rows
):
  rows = make_rows(11)
  expected = losses(rows, 1, eval__batch_size=11)
  assert expected['eval/loss'] == pytest.approx(np.log(VOCAB), abs=0.2)
  for devices, size in ((1, 4), (4, 8), (8, 3)):
    found = losses(rows, devices, eval__batch_size=size)
    assert found['eval/loss'] == pytest.approx(expected['eval/loss'], rel=1e-6)
    assert found['eval/accuracy'] == pytest.approx(expected['eval/accuracy'])


def test_no_more_rows_at_once_than_in_a_part_of_a_step(make_config):
  batch = {'train__batch_size': 32, 'train__microbatches': 4}
  assert make_config(**batch).eval_batch_size == 8
  assert make_config(**batch, eval__batch_size=5).eval_batch_size == 5


def test_the_rows_are_spread_over_all_held_out_text(losses, make_rows):
  rows = make_rows(9)
  spread = rows[[0, 4, 8]]
  assert losses(rows, 1, eval__num_rows=3) == losses(spread, 1)


@pytest.mark.parametrize('policy', ['narrow', 'mask_later'])
def test_the_loss_of_another_geometry_is_also_measured_as_it_is_trained(
  losses, make_rows, policy
):
  rows = make_rows(8)
  # The same 15% of positions whatever training masks.
  figures = losses(rows, 1, drop__policy=policy, train__mask_rate=0.4)
  own = figures.pop('eval/own_loss')
  assert figures == losses(rows, 1)
  assert own != figures['eval/loss']
