import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax import masking, parallel, step
from td_flax.config import ParallelConfig
from td_flax.devices import OneDevice
from td_flax.dropping import importance

VOCAB = 300


def make_engine(num_devices, name='pmap'):
  return parallel.make(ParallelConfig(name, num_devices))


class Trial:
  """A compiled experiment on some devices."""

  def __init__(self, config, special, num_devices):
    self.engine = make_engine(num_devices, config.parallel.engine)
    consistent = bool(config.drop.consistency_every)
    self.steps = step.Steps(
      config, VOCAB, special, self.engine, consistent=consistent
    )
    self.shape = (config.train.batch_size, config.data.sequence_length)
    table = self.steps.policy.initial_table(np.arange(VOCAB) + 1)
    self._first = jax.device_get(self.steps.init(table))
    self._train = self.engine.compile_train(
      self.steps.train, self.begin(), self.steps.batch
    )

  def begin(self):
    return self.engine.place(self._first)

  def put(self, state):
    """A state that was tampered with on the host."""
    return self.engine.place(state)

  def train(self, state, rows):
    """One step; the state comes back to the host."""
    state, metrics = self._train(self.put(state), self.engine.split(rows))
    return self.engine.fetch(state), self.engine.fetch(metrics)

  def run(self, make_rows, num_steps):
    """Losses, state and last metrics; new random rows in every step."""
    state, losses, metrics = self._first, [], None
    for number in range(num_steps):
      rows = make_rows(*self.shape, vocab_size=VOCAB, seed=number)
      state, metrics = self.train(state, rows)
      losses.append(metrics['loss_sum'] / metrics['weight'])
    return np.array(losses), state, metrics


@pytest.fixture(scope='module')
def trials():
  """Compiling is what takes time: each experiment is compiled once."""
  return {}


@pytest.fixture
def trial(trials, make_config, special):
  def make(num_devices=1, **overrides):
    key = (num_devices, *sorted(overrides.items()))
    if key not in trials:
      trials[key] = Trial(make_config(**overrides), special, num_devices)
    return trials[key]

  return make


DROP = {'drop__policy': 'cumulative_loss'}


@pytest.mark.smoke
def test_one_device_and_eight_learn_the_same(trial, make_rows):
  alone, state_1, metrics_1 = trial(1, **DROP).run(make_rows, 20)
  eight, state_8, metrics_8 = trial(8, **DROP).run(make_rows, 20)
  np.testing.assert_allclose(alone, eight, atol=1e-5, rtol=0)
  assert metrics_1['weight'] == metrics_8['weight'] == 8 * 4
  # One table, from the sums of all devices.
  np.testing.assert_allclose(state_1.importance, state_8.importance, atol=1e-5)
  assert (state_1.importance != 10).sum() > 100


RIVALS = [
  {'policy': 'random_ltd'},
  {'policy': 'attention', 'pool': 'weighted', 'clusters': 3},
  {'policy': 'cumulative_loss', 'pool': 'mean', 'noise': 0.5},
  {'policy': 'narrow'},
  {'policy': 'mask_later'},
  {'policy': 'cumulative_loss', 'consistency_every': 1},
]


@pytest.mark.parametrize('engine', ['pmap', 'sharded'])
@pytest.mark.parametrize(
  'rival', RIVALS, ids=lambda x: '-'.join(map(str, x.values()))
)
def test_every_rival_learns_the_same_on_one_device_and_eight(
  trial, make_rows, rival, engine
):
  keys = {f'drop__{key}': value for key, value in rival.items()}
  alone, state_1, _ = trial(1, **keys).run(make_rows, 3)
  several = trial(8, **keys, parallel__engine=engine)
  eight, state_8, _ = several.run(make_rows, 3)
  np.testing.assert_allclose(alone, eight, atol=1e-5, rtol=0)
  chex.assert_trees_all_close(state_1.params, state_8.params, atol=2e-5)


def test_every_device_holds_the_same_table(trial, make_rows):
  eight = trial(8, **DROP)
  state, _ = eight._train(eight.begin(), eight.engine.split(make_rows(8)))
  copies = [np.asarray(x.data) for x in state.importance.addressable_shards]
  assert len(copies) == 8
  for copy in copies[1:]:
    np.testing.assert_array_equal(copy, copies[0])


def test_dropout_draws_the_same_on_any_number_of_devices(trial, make_rows):
  dropout = {'model__dropout': 0.1, 'model__attention_dropout': 0.1}
  alone, _, _ = trial(2, **DROP, **dropout).run(make_rows, 3)
  sharded, _, _ = trial(8, **DROP, **dropout, parallel__engine='sharded').run(
    make_rows, 3
  )
  np.testing.assert_allclose(alone, sharded, atol=1e-5, rtol=0)


def test_the_sharded_engine_learns_what_pmap_learns(trial, make_rows):
  replicated, state, _ = trial(8, **DROP).run(make_rows, 20)
  sharded = trial(8, **DROP, parallel__engine='sharded')
  losses, state_sharded, _ = sharded.run(make_rows, 20)
  np.testing.assert_allclose(losses, replicated, atol=1e-5, rtol=0)
  np.testing.assert_allclose(
    state_sharded.importance, state.importance, atol=1e-5
  )
  chex.assert_trees_all_close(state_sharded.params, state.params, atol=1e-4)
  assert state.step == state_sharded.step == 20


def test_the_sharded_engine_splits_what_is_large(trial):
  sharded = trial(8, **DROP, parallel__engine='sharded')
  state = sharded.begin()
  sizes = {
    (x.size, x.addressable_shards[0].data.size)
    for x in jax.tree.leaves((state.params, state.opt_state))
  }
  assert (384 * 16, 384 * 16 // 8) in sizes  # word embedding
  assert (16 * 32, 16 * 32 // 8) in sizes  # MLP
  assert (384, 384) in sizes  # the head's bias, a vector
  # The step leaves everything where it was.
  after, _ = sharded._train(
    state, sharded.engine.split(np.zeros(sharded.shape, np.uint16))
  )
  again = sharded.begin()
  for old, new in zip(
    jax.tree.leaves(again), jax.tree.leaves(after), strict=True
  ):
    assert old.sharding.is_equivalent_to(new.sharding, old.ndim)


def test_microbatches_of_a_sharded_step_hold_rows_of_every_device(
  trial, make_rows
):
  losses, state, _ = trial(1, **DROP).run(make_rows, 5)
  parts = trial(2, **DROP, train__microbatches=4, parallel__engine='sharded')
  again, state_4, _ = parts.run(make_rows, 5)
  np.testing.assert_allclose(losses, again, atol=1e-5, rtol=0)
  np.testing.assert_allclose(state.importance, state_4.importance, atol=1e-5)


@pytest.mark.parametrize(
  'keys',
  [DROP, DROP | {'drop__consistency_every': 1}],
  ids=['one pass', 'consistent'],
)
def test_microbatches_change_nothing_but_the_memory(trial, make_rows, keys):
  losses, state, _ = trial(1, **keys).run(make_rows, 5)
  parts = trial(2, **keys, train__microbatches=4)
  again, state_4, _ = parts.run(make_rows, 5)
  np.testing.assert_allclose(losses, again, atol=1e-5, rtol=0)
  np.testing.assert_allclose(state.importance, state_4.importance, atol=1e-5)


@pytest.mark.parametrize('restart', [False, True])
@pytest.mark.parametrize('across', [False, True])
def test_a_step_sees_documents_as_the_config_says(
  make_config, make_rows, special, across, restart
):
  config = make_config(
    **DROP,
    model__attend_across_documents=across,
    model__restart_positions=restart,
  )
  steps = step.Steps(config, VOCAB, special, OneDevice())
  state = steps.init(np.zeros(VOCAB))
  batch, _ = steps.kept(state, jnp.asarray(make_rows(2)), jnp.arange(2))
  index = np.arange(32)
  is_second = index > 16
  documents = np.where(is_second & (not across), 2, 1)
  positions = np.where(is_second & restart, index - 17, index)
  for found, expected in zip(
    batch.segments, (documents, positions), strict=True
  ):
    np.testing.assert_array_equal(found, [expected] * 2)


def test_the_same_run_twice_gives_the_same_bits(trial, make_rows):
  dropout = trial(2, **DROP, model__dropout=0.1, model__attention_dropout=0.1)
  losses, state, _ = dropout.run(make_rows, 3)
  again, state_again, _ = dropout.run(make_rows, 3)
  np.testing.assert_array_equal(losses, again)
  chex.assert_trees_all_equal(state, state_again)
  without, _, _ = trial(1, **DROP).run(make_rows, 3)
  assert (losses != without).all()


def test_keeping_everything_learns_what_plain_bert_learns(trial, make_rows):
  losses, state, _ = trial().run(make_rows, 3)
  kept, state_kept, _ = trial(**DROP, drop__keep=1.0).run(make_rows, 3)
  np.testing.assert_allclose(losses, kept, atol=1e-5, rtol=0)
  chex.assert_trees_all_close(state.params, state_kept.params, atol=1e-4)


def test_policy_none_compiles_to_plain_bert(make_config, make_rows, special):
  engine = make_engine(1)
  texts = {}
  for policy in ('none', 'random'):
    config = make_config(drop__policy=policy)
    steps = step.Steps(config, VOCAB, special, engine)
    state = jax.eval_shape(steps.init, np.zeros(VOCAB, np.float32))
    texts[policy] = engine.lower_train(
      steps.train, state, steps.batch
    ).as_text()
  # Half of 32 tokens in a narrow span of width 16, and nowhere else.
  assert '8x16x16xf32' not in texts['none']
  assert '8x16x16xf32' in texts['random']
  assert 'stablehlo.sort' not in texts['none'] + texts['random']


@pytest.mark.parametrize(
  'policy',
  [
    *('none', 'cumulative_loss', 'random_ltd', 'attention', 'narrow'),
    'mask_later',
  ],
)
def test_on_tpu_nothing_sorts_and_only_tables_are_gathered(
  make_config, special, policy
):
  # Rows long enough for the kernel, lowered for a TPU that need not be there.
  config = make_config(
    drop__policy=policy,
    data__sequence_length=256,
    model__max_positions=256,
    model__hidden_dim=128,
  )
  device = OneDevice('tpu', 'TPU v5 lite')
  steps = step.Steps(config, VOCAB, special, device)
  state = jax.eval_shape(steps.init, np.zeros(VOCAB, np.float32))
  traced = jax.jit(steps.train).trace(
    state, jax.ShapeDtypeStruct((2, 256), jnp.uint16)
  )
  text = traced.lower(lowering_platforms=('tpu',)).as_text()
  lookups = 2 + (policy == 'cumulative_loss')  # words, positions, table
  assert text.count('"stablehlo.gather"') == lookups
  assert text.count('"stablehlo.scatter"') == 1  # positions
  assert 'stablehlo.sort' not in text
  assert 'stablehlo.dynamic_gather' not in text
  # The scores never exist: [B, H, Q, M].
  assert 'tpu_custom_call' in text
  assert 'tensor<2x2x256x256x' not in text


def test_training_on_few_ids_learns_them(trial, make_rows):
  one = trial(**DROP)
  state, losses = one.begin(), []
  rows = make_rows(8, vocab_size=12)  # 7 ordinary ids
  for _ in range(100):
    state, metrics = one.train(one.engine.fetch(state), rows)
    losses.append(metrics['loss_sum'] / metrics['weight'])
    state = one.put(state)
  assert losses[0] == pytest.approx(np.log(VOCAB), abs=0.2)
  assert np.mean(losses[-5:]) < 2.2  # close to log 7


def test_the_table_takes_the_mean_over_the_global_batch(trial, make_rows):
  rows = make_rows(8, vocab_size=20)  # every id is predicted several times
  eight = trial(8, **DROP)
  steps, before = eight.steps, eight.engine.fetch(eight.begin())
  ids = jnp.asarray(rows, jnp.int32)
  state = jax.tree.map(jnp.asarray, before)
  _, (_, observed) = steps._loss(state.params, state, ids, jnp.arange(8))
  keys = masking.row_keys(jax.random.key(0), 0, jnp.arange(8))
  labels = np.asarray(steps._masked(steps.config, ids, keys, False).labels)
  count = np.bincount(labels.ravel(), minlength=VOCAB)
  np.testing.assert_array_equal(observed.weights, count)
  assert (count > 1).any()
  after, _ = eight.train(before, rows)
  expected = importance.update(before.importance, observed, 0.995)
  np.testing.assert_allclose(after.importance, expected, rtol=1e-5)


@pytest.mark.smoke
def test_padded_slots_and_specials_never_enter_the_table(
  trial, make_rows, special
):
  one = trial(**DROP)
  rows = make_rows(8)
  rows[:, 6:] = special.pad  # one prediction per row, three empty slots
  state = one.engine.fetch(one.begin())
  for _ in range(3):
    state, metrics = one.train(state, rows)
  assert metrics['weight'] == 8
  untouched = state.importance[list(special.as_tuple())]
  np.testing.assert_array_equal(untouched, np.full(5, 10, np.float32))
  assert (state.importance != 10).any()


def learned(state):
  return state.params, state.opt_state, state.importance


def test_a_non_finite_update_changes_nothing_and_is_counted(trial, make_rows):
  one = trial(**DROP)
  state, _ = one.train(one.engine.fetch(one.begin()), make_rows(8))
  sound = state.params
  bad = dataclasses.replace(state, params=spoil(sound))
  for count in (1, 2):
    before = bad
    bad, metrics = one.train(bad, make_rows(8, seed=count))
    assert not np.isfinite(metrics['loss_sum'])
    assert metrics['skipped'] == metrics['skipped_run'] == count
    assert bad.step == before.step + 1
    chex.assert_trees_all_equal(learned(bad), learned(before))
  healed = dataclasses.replace(bad, params=sound)
  healed, metrics = one.train(healed, make_rows(8))
  assert (metrics['skipped'], metrics['skipped_run']) == (2, 0)
  assert np.isfinite(metrics['loss_sum'])
  assert (healed.importance != bad.importance).any()


def spoil(params):
  """NaN in one entry of one leaf."""
  leaves, tree = jax.tree.flatten(params)
  leaves[0] = np.array(leaves[0])
  leaves[0].flat[0] = np.nan
  return jax.tree.unflatten(tree, leaves)


def test_an_update_that_overflows_the_parameters_is_skipped(trial, make_rows):
  huge = trial(optimizer__learning_rate=1e38, optimizer__warmup=0.0)
  before = huge.engine.fetch(huge.begin())
  after, metrics = huge.train(before, make_rows(8))
  assert np.isfinite(metrics['loss_sum'])
  assert metrics['skipped'] == 1
  chex.assert_trees_all_equal(learned(after), learned(before))


def test_a_skipped_update_does_not_delay_the_schedule(trial, make_rows):
  one = trial(**DROP)
  state = one.engine.fetch(one.begin())
  spoilt = dataclasses.replace(state, params=spoil(state.params))
  skipped, _ = one.train(spoilt, make_rows(8))
  skipped = dataclasses.replace(skipped, params=state.params)
  _, after_skip = one.train(skipped, make_rows(8))
  second, _ = one.train(state, make_rows(8))
  _, after_step = one.train(second, make_rows(8))
  assert after_skip['learning_rate'] == after_step['learning_rate']


def test_bfloat16_trains_on_float32_parameters(trial, make_rows):
  half = trial(**DROP, model__dtype='bfloat16')
  losses, state, metrics = half.run(make_rows, 3)
  exact, _, _ = trial(**DROP).run(make_rows, 3)
  np.testing.assert_allclose(losses, exact, atol=0.05)
  assert metrics['skipped'] == 0
  assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {'float32'}
