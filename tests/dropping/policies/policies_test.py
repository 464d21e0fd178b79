import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax import step
from td_flax.devices import OneDevice
from td_flax.dropping import importance, policies
from td_flax.dropping import plan as plans
from td_flax.dropping.policies.base import Context

COUNTS = np.array([0, 0, 40, 40, 0, 1000, 100, 10, 1, 0])
IDS = jnp.array([[2, 5, 6, 7, 8, 9, 5, 6, 4, 3]])


def make(make_config, special, policy, **overrides):
  config = make_config(drop__policy=policy, **overrides)
  return policies.load(policy)(config, len(COUNTS), special)


def kept(policy, table, k, seed=0):
  span = plans.Span((1,), k, cross_attend=True)
  context = Context(
    IDS,
    jnp.ones_like(IDS),
    policy.special.mask == IDS,
    jnp.asarray(table),
    jax.random.key(seed)[None],
  )
  route = policy.route(span, jnp.zeros((1, 10, 4)), context)
  return IDS[0][route.positions[0]].tolist()


def test_the_policies_are_the_modules():
  names = policies.names()
  assert {'none', 'random', 'frequency', 'cumulative_loss'} <= set(names)
  assert 'base' not in names


def test_none_keeps_every_token_in_one_span(make_config, special):
  policy = make(make_config, special, 'none')
  assert policy.plan(policy.config) == plans.full(3)


@pytest.mark.parametrize('name', ['random', 'frequency', 'cumulative_loss'])
def test_dropping_policies_share_the_published_plan(make_config, special, name):
  policy = make(make_config, special, name, drop__cross_attend=False)
  plan = plans.token_dropping(3, 1, 1, 16, cross_attend=False)
  assert policy.plan(policy.config) == plan


def test_frequency_drops_the_most_frequent_ids_first(make_config, special):
  policy = make(make_config, special, 'frequency')
  table = policy.initial_table(COUNTS)
  # Specials 2, 4, 3 are pinned; 8 and 9 are the rarest, then 7, 6, 5.
  assert kept(policy, table, 6) == [2, 7, 8, 9, 4, 3]
  np.testing.assert_array_equal(policy.known(table, COUNTS), COUNTS > 0)
  sums = importance.IdSums(jnp.ones(10), jnp.ones(10))
  np.testing.assert_array_equal(policy.update(table, sums), table)


def test_cumulative_loss_drops_ids_with_a_small_loss_first(
  make_config, special
):
  policy = make(make_config, special, 'cumulative_loss', drop__beta=0.5)
  table = policy.initial_table(COUNTS)
  np.testing.assert_array_equal(table, np.full(10, 10, np.float32))
  observed = policy.observe(
    jnp.array([[5, 6, 7]]), jnp.array([[2.0, 9.0, 4.0]]), jnp.ones((1, 3))
  )
  table = policy.update(jnp.asarray(table), observed)
  np.testing.assert_array_equal(table[jnp.array([5, 6, 7])], [6, 9.5, 7])
  # 8 and 9 were never seen: hard until shown otherwise.
  assert kept(policy, table, 7) == [2, 6, 8, 9, 6, 4, 3]
  np.testing.assert_array_equal(
    np.flatnonzero(policy.known(np.asarray(table), COUNTS)), [5, 6, 7]
  )


def test_random_keeps_another_subset_for_another_key(make_config, special):
  policy = make(make_config, special, 'random')
  table = policy.initial_table(COUNTS)
  draws = {tuple(kept(policy, table, 6, seed)) for seed in range(20)}
  assert len(draws) > 5
  assert all({2, 3, 4} <= set(draw) for draw in draws)
  assert policy.known(table, COUNTS) is None


def test_specials_are_pinned_at_lookup_and_never_in_the_table(
  make_config, special
):
  policy = make(make_config, special, 'cumulative_loss')
  table = np.full(10, 10, np.float32)
  table[[2, 3, 4]] = 0.0  # as if they were the easiest of all
  assert {2, 3, 4} <= set(kept(policy, table, 5))


def test_the_policy_of_the_documentation_runs(
  make_config, make_rows, special, tmp_path, monkeypatch
):
  page = (pathlib.Path(__file__).parents[3] / 'docs/dropping.md').read_text()
  ((name, code),) = re.findall(
    r'The file `(\w+)\.py`.*?```python\n(.*?)```', page, re.DOTALL
  )
  (tmp_path / f'{name}.py').write_text(code)
  folders = [*policies.__path__, str(tmp_path)]
  monkeypatch.setattr(policies, '__path__', folders)
  assert name in policies.names()
  config = make_config(drop__policy=name)
  steps = step.Steps(config, 300, special, OneDevice())
  state = steps.init(np.zeros(300))
  rows = make_rows(8)
  rows[:, 5:12] = 77  # often in every row
  ids = jnp.asarray(rows).astype(jnp.int32)
  batch, share = steps.kept(state, ids, jnp.arange(8))
  often = batch.ids == 77
  assert share[often].mean() < 0.1 < 0.5 < share[~often].mean()
  taken, figures = steps.train(state, jnp.asarray(rows))
  assert np.isfinite(figures['loss_sum'])
  assert taken.step == 1
