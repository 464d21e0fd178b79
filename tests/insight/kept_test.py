import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax import errors, masking, step
from td_flax.devices import OneDevice
from td_flax.insight import kept as module

VOCAB = 300


@pytest.fixture
def kept_of(make_config, make_rows, special):
  def make(table=None, **overrides):
    config = make_config(**overrides)
    steps = step.Steps(config, VOCAB, special, OneDevice())
    if table is None:
      table = np.zeros(VOCAB, np.float32)
    state = steps.init(table)
    rows = make_rows(6)
    batch, share = jax.jit(steps.kept)(state, rows, jnp.arange(6))
    return steps, rows, batch, np.asarray(share)

  return make


def test_it_is_what_the_step_keeps(kept_of, special):
  table = np.random.default_rng(0).normal(size=VOCAB).astype(np.float32)
  steps, rows, batch, share = kept_of(table, drop__policy='cumulative_loss')
  assert set(np.unique(share)) == {0, 1}
  np.testing.assert_array_equal(share.sum(1), steps.config.num_kept)
  pinned = np.isin(batch.ids, (special.cls, special.sep, special.mask))
  assert (share[pinned] == 1).all()
  scores = table[np.asarray(batch.ids)]
  for row in range(6):
    text = ~pinned[row]
    lowest = scores[row][text & (share[row] == 1)].min()
    assert lowest >= scores[row][text & (share[row] == 0)].max()
  # Under the masks of the step: of the same seed, step and row.
  keys = masking.row_keys(jax.random.key(0), 0, jnp.arange(6))
  ids = jnp.asarray(rows, jnp.int32)
  again = steps._masked(steps.config, ids, keys, all_as_mask=False)
  np.testing.assert_array_equal(batch.ids, again.ids)


def test_a_policy_that_draws_anew_in_every_layer_keeps_shares(kept_of):
  *_, share = kept_of(
    drop__policy='random_ltd',
    drop__keep=0.5,
    model__num_layers=6,
    drop__last_layer=4,
  )
  assert len(np.unique(share)) > 2
  np.testing.assert_allclose(share.mean(), 0.5, atol=0.01)


@pytest.mark.parametrize('policy', ['cumulative_loss', 'attention', 'random'])
def test_states_drop_what_is_kept_of_rows_that_are_not_masked(kept_of, policy):
  steps, rows, *_ = kept_of(
    drop__policy=policy, model__num_layers=5, drop__last_layer=3
  )
  state, numbers = steps.init(np.zeros(VOCAB, np.float32)), jnp.arange(6)
  batch, share = jax.jit(lambda *x: steps.kept(state, *x, masked=False))(
    rows, numbers
  )
  np.testing.assert_array_equal(batch.ids, rows)
  assert not batch.is_predicted.any()
  found, full = (
    jax.jit(lambda *x, on=on: steps.states(state, *x, dropping=on))(
      rows, numbers
    )
    for on in (True, False)
  )
  assert len(found) == len(full) == 6
  np.testing.assert_array_equal(found[1], full[1])
  for before, after in itertools.pairwise(found[1:5]):
    np.testing.assert_array_equal((before != after).any(-1), share == 1)


def test_rows_are_taken_a_few_at_a_time(make_rows):
  rows = make_rows(35)
  chosen = rows % 7 == 0
  found = module.over_rows(lambda x, i: (x + i[:, None], i), rows, 0)
  np.testing.assert_array_equal(found[0], rows + np.arange(35)[:, None])
  np.testing.assert_array_equal(found[1], np.arange(35))
  np.testing.assert_array_equal(
    module.over_rows(lambda x, i: x, rows, 0, chosen), rows[chosen]
  )


def test_groups_count_free_tokens_only():
  ids = np.array([[9, 8, 7, 6]], np.uint16)
  share = np.array([[1.0, 0.5, 0.0, 1.0]])
  free = np.array([[False, True, True, True]])
  kept = module.Kept(ids, ids.astype(int), share, free)
  groups = np.array([[0, 1, 1, 2]])
  assert module.by_group(kept, groups, ['a', 'b', 'c', 'd']) == [
    {'name': 'b', 'tokens': 2, 'share': 0.25},
    {'name': 'c', 'tokens': 1, 'share': 1.0},
  ]


def test_frequency_is_the_rank_in_the_corpus():
  counts = np.arange(20_000)[::-1]  # id i has rank i
  ids = np.array([[0, 9, 10, 99, 100, 999, 1_000, 9_999, 10_000]], np.uint16)
  share = np.linspace(0, 1, 9)[None]
  kept = module.Kept(ids, ids.astype(int), share, np.ones((1, 9), bool))
  found = module.by_frequency(kept, counts)
  assert [(x['name'], x['tokens']) for x in found] == [
    ('1 to 10', 2),
    ('11 to 100', 2),
    ('101 to 1,000', 2),
    ('1,001 to 10,000', 2),
    ('10,001 to all', 1),
  ]
  assert [x['share'] for x in found] == [0.0625, 0.3125, 0.5625, 0.8125, 1.0]


def test_position_is_an_eighth_of_the_row():
  ids = np.full((2, 20), 9, np.uint16)
  share = np.tile(np.arange(20.0), (2, 1))
  kept = module.Kept(ids, ids.astype(int), share, np.ones((2, 20), bool))
  found = module.by_position(kept)
  assert [x['name'] for x in found[:2]] == ['0 to 1', '2 to 4']
  assert sum(x['tokens'] for x in found) == 40
  assert found[0]['share'] == 0.5


def test_the_last_stage_that_drops_is_shown(make_config):
  config = make_config(
    drop__policy='cumulative_loss',
    drop__stages='50%; 25% keep=0.75; rest policy=none',
  )
  assert module.dropping(config, '').drop.keep == 0.75


@pytest.mark.parametrize('policy', ['none', 'narrow', 'mask_later'])
def test_what_chooses_no_tokens_is_refused(make_config, policy):
  config = make_config(drop__policy=policy, train__mask_rate=0.3)
  with pytest.raises(errors.ConfigError, match='chooses no tokens to drop'):
    module.dropping(config, '--workdir=x')
