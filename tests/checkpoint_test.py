import dataclasses
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from td_flax import checkpoint, errors, saved


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
  step: Any
  params: Any
  opt_state: Any
  importance: Any


class Model(nnx.Module):
  def __init__(self, width, rngs):
    self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs)])
    self.out = nnx.Linear(width, 4, rngs=rngs)


def make_state(seed=0, width=32, dtype=jnp.float32):
  params = nnx.state(Model(width, nnx.Rngs(seed)), nnx.Param)
  params = jax.tree.map(lambda x: x.astype(dtype), params)
  return State(
    step=jnp.int32(seed),
    params=params,
    opt_state=optax.adamw(1e-3).init(params),
    importance=jax.random.normal(jax.random.key(seed), [999]),
  )


@pytest.fixture(scope='module')
def state():
  return make_state()


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def opened():
  """Opens checkpoints that are closed at the end of the test."""
  made = []

  def open_(directory, keep=3, keep_best=True):
    made.append(
      checkpoint.Checkpoints(directory, keep=keep, keep_best=keep_best)
    )
    return made[-1]

  yield open_
  for one in made:
    one.close()


def test_nothing_saved_is_nothing_restored(tmp_path, opened, state):
  checkpoints = opened(tmp_path / 'run' / 'checkpoints')
  assert checkpoints.restore_latest(state) is None
  assert checkpoints.steps() == []
  checkpoints.wait()


@pytest.mark.smoke
def test_a_state_comes_back_bitwise(tmp_path, opened, state, capfd):
  metadata = {'window': [{'loss': 0.1 + 0.2, 'norm': None}], 'best': 3}
  first = opened(tmp_path)
  first.save(40, state, metadata, eval_loss=3.25, wait=True)
  fresh = opened(tmp_path)
  abstract = jax.eval_shape(lambda: state)
  step, restored, found = fresh.restore_latest(abstract)
  assert (step, found) == (40, metadata)
  assert_same(restored, state)
  assert (tmp_path / '40').is_dir()
  assert capfd.readouterr().err == ''  # orbax is quiet


def test_saving_does_not_wait_and_keeps_what_it_was_given(tmp_path, opened):
  checkpoints = opened(tmp_path)
  host = {'x': np.arange(5000.0), 'y': np.float32(2)}
  expected = {'x': np.arange(5000.0), 'y': np.float32(2)}
  checkpoints.save(1, host, {}, eval_loss=None)
  host['x'][:] = -1  # as a donated buffer may be overwritten
  checkpoints.wait()
  assert_same(checkpoints.restore_latest(expected)[1], expected)


def test_other_dtypes_come_back(tmp_path, opened):
  state = {'half': jnp.full([3, 5], 1.5, jnp.bfloat16), 'bit': np.array(True)}
  checkpoints = opened(tmp_path)
  checkpoints.save(1, state, {}, eval_loss=None, wait=True)
  assert_same(checkpoints.restore_latest(state)[1], state)


def test_the_newest_and_the_best_are_kept(tmp_path, opened):
  checkpoints = opened(tmp_path, keep=2)
  losses = {0: 9.0, 10: 2.0, 20: None, 30: 4.0, 40: float('nan'), 50: None}
  for step, loss in losses.items():
    state = {'x': np.full(10, step)}
    checkpoints.save(step, state, {}, eval_loss=loss, wait=True)
  assert checkpoints.steps() == [10, 40, 50]
  assert saved.find_step(tmp_path, 'best', 'x') == 10
  fresh = opened(tmp_path, keep=2)
  fresh.save(60, state, {}, eval_loss=1.0, wait=True)
  assert fresh.steps() == [50, 60]
  assert saved.find_step(tmp_path, 'best', 'x') == 60


def test_the_best_may_go_where_only_the_newest_are_kept(tmp_path, opened):
  checkpoints = opened(tmp_path, keep=1, keep_best=False)
  for step, loss in ((1, 1.0), (2, 2.0)):
    checkpoints.save(step, {'x': np.zeros(3)}, {}, eval_loss=loss, wait=True)
  assert checkpoints.steps() == [2]
  assert saved.find_step(tmp_path, 'best', 'x') == 2


def test_never_evaluated_means_no_best(tmp_path, opened):
  checkpoints = opened(tmp_path, keep=2)
  for step in (1, 2, 3):
    checkpoints.save(step, {'x': np.zeros(3)}, {}, eval_loss=None)
  checkpoints.wait()
  assert checkpoints.steps() == [2, 3]
  with pytest.raises(errors.ConfigError, match="has no step 'best'"):
    saved.find_step(tmp_path, 'best', 'x')


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (
      lambda s: {**s, 'x': s['x'].astype(jnp.bfloat16)},
      'x is float32[4] there, bfloat16[4] here',
    ),
    (
      lambda s: {**s, 'x': s['x'][:2]},
      'x is float32[4] there, float32[2] here',
    ),
    (lambda s: {'x': s['x']}, 'y/z is int32[2] there, nothing here'),
    (
      lambda s: {**s, 'w': s['x']},
      'w is nothing there, float32[4] here',
    ),
  ],
)
def test_another_state_is_refused_not_cast(tmp_path, opened, change, said):
  state = {'x': np.ones(4, np.float32), 'y': {'z': np.ones(2, np.int32)}}
  checkpoints = opened(tmp_path)
  checkpoints.save(7, state, {}, eval_loss=None, wait=True)
  other = jax.eval_shape(lambda: change(state))
  with pytest.raises(errors.CheckpointError) as error:
    checkpoints.restore_latest(other)
  assert str(error.value) == f'{tmp_path / "7"}: {said}'
  assert checkpoints.steps() == [7]  # nothing is wrong with it


def test_parameters_of_another_run(tmp_path, opened, state):
  checkpoints = opened(tmp_path / 'run' / 'checkpoints')
  for step in (8, 9, 10):
    shifted = dataclasses.replace(
      state, params=jax.tree.map(lambda x, s=step: x + s, state.params)
    )
    loss = None if step == 10 else abs(9 - step)
    checkpoints.save(step, shifted, {}, eval_loss=loss, wait=True)
  abstract = jax.eval_shape(lambda: state.params)
  shutil.copytree(tmp_path / 'run/checkpoints/9', tmp_path / 'base')
  other = saved.load_params(tmp_path / 'base', abstract)
  assert_same(other, jax.tree.map(lambda x: x + 9, state.params))


def test_parameters_of_another_size_are_refused(tmp_path, opened, state):
  opened(tmp_path / 'checkpoints').save(8, state, {}, eval_loss=None, wait=True)
  abstract = jax.eval_shape(lambda: make_state(width=64).params)
  with pytest.raises(errors.CheckpointError) as error:
    saved.load_params(tmp_path / 'checkpoints' / '8', abstract)
  where = tmp_path / 'checkpoints' / '8'
  assert str(error.value) == (
    f'{where}: params/layers/0/bias is float32[32] there, float32[64] here'
  )


def test_a_step_is_found_by_word_or_number(tmp_path, opened, state):
  checkpoints = opened(tmp_path)
  for step, loss in ((8, 2.0), (9, 1.0), (10, None)):
    checkpoints.save(step, state, {}, eval_loss=loss, wait=True)
  found = [
    saved.find_step(tmp_path, word, 'x') for word in ('latest', 'best', '8')
  ]
  assert found == [10, 9, 8]
  with pytest.raises(errors.ConfigError) as error:
    saved.find_step(tmp_path, '7', "--checkpoint='run'")
  assert str(error.value) == (
    "--checkpoint='run': has no step '7'; choose latest, best (if evaluated) "
    'or one of 8, 9, 10'
  )


def test_the_record_is_json_for_others(tmp_path, opened):
  state = {'params': {'w': np.ones(3, np.float32)}}
  opened(tmp_path).save(5, state, {'a': 1}, eval_loss=0.5, wait=True)
  record = json.loads((tmp_path / '5/record/record.json').read_text())
  assert record['step'] == 5
  assert record['eval_loss'] == 0.5
  assert record['metadata'] == {'a': 1}
  assert list(record['leaves']) == ['params/w']
