import chex
import jax
import numpy as np
import pytest

from td_flax import config as config_lib
from td_flax import evaluate, parallel, step
from td_flax.config import ParallelConfig
from td_flax.dropping import plan as plans

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


@pytest.fixture
def sums(make_config, special):
  """The sums over rows of one program; overrides choose the experiment."""

  def run(rows, first=0, **overrides):
    config = make_config(**overrides)
    engine = parallel.make(ParallelConfig(num_devices=1))
    steps = step.Steps(config, VOCAB, special, engine)
    table = np.zeros(VOCAB, np.float32)
    plain = step.Steps(make_config(), VOCAB, special, engine)
    params = jax.device_get(plain.init(table)).params
    found = engine.map_eval(steps.evaluate)(
      engine.replicate(params),
      engine.split(rows),
      engine.replicate(np.int32(first)),
    )
    return engine.fetch(found)

  return run


@pytest.mark.smoke
def test_evaluation_never_drops_and_ignores_how_training_masks(sums, make_rows):
  rows = make_rows(8, seed=5)
  expected = sums(rows)
  assert expected.weight == 8 * 4  # 15% of 32
  for changes in (
    {'drop__policy': 'random', 'drop__keep': 10.0},
    {'drop__policy': 'cumulative_loss', 'train__mask_rate': 0.3},
    {'train__seed': 7, 'model__dropout': 0.5, 'model__attention_dropout': 0.5},
  ):
    chex.assert_trees_all_equal(sums(rows, **changes), expected)
  assert sums(rows, eval__seed=1).loss != expected.loss


@pytest.mark.parametrize('policy', ['none', 'cumulative_loss', 'narrow'])
def test_evaluation_has_shapes_of_its_own(make_config, policy):
  config = make_config(drop__policy=policy, train__mask_rate=0.3)
  n = config.data.sequence_length
  p = config_lib.num_predicted(step.EVAL_MASK_RATE, n)
  assert config.num_predicted > p
  found = step.evaluation_plans(config)
  assert len(found) == (2 if policy == 'narrow' else 1)
  for plan in found:
    *_, (queries, keys) = plans.shapes(plan, n)
    assert (queries, keys) == (p, n)


def test_evaluation_of_parts_adds_up_to_the_whole(sums, make_rows):
  rows = make_rows(8)
  whole = sums(rows)
  parts = [sums(rows[i : i + 4], first=i) for i in (0, 4)]
  np.testing.assert_allclose(
    whole.loss, sum(part.loss for part in parts), rtol=1e-6
  )
  assert whole.weight == sum(part.weight for part in parts)


def test_rows_of_padding_count_for_nothing(sums, make_rows, special):
  rows = make_rows(4)
  padding = np.full_like(rows, special.pad)
  padded, alone = sums(np.concatenate([rows, padding])), sums(rows)
  assert padded.weight == alone.weight
  np.testing.assert_allclose(padded.loss, alone.loss, rtol=1e-6)
