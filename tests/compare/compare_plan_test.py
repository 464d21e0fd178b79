"""Which runs there are, how long they are, and what the controls cost."""

import pathlib

import pytest

from td_flax import errors
from td_flax import stages as stages_lib
from td_flax.compare import plan, settings

V = 8192


def make(arm='drop.policy=cumulative_loss', **changes):
  raw = settings.default()
  raw.base.train.num_steps = 1000
  raw.base.drop.keep = 0.25
  raw.arms.td = arm
  raw.reference = 'td'
  for key, value in changes.items():
    raw[key] = value
  return settings.load(raw)


@pytest.mark.parametrize('keep', [0.2, 0.25, 0.5, 0.75])
def test_the_shallow_control_costs_what_the_reference_does(keep):
  arms = plan.arms(make(f'drop.policy=cumulative_loss drop.keep={keep}'), V)
  assert list(arms) == ['plain', 'td', 'random', 'shallow']
  target = arms['td'].flops_per_row
  assert arms['random'].flops_per_row == target
  shallow = arms['shallow']
  assert shallow.flops_per_row == pytest.approx(target, rel=2e-3)
  layers, width = (
    getattr(shallow.config.model, x) for x in ('num_layers', 'mlp_dim')
  )
  assert layers < 12
  assert shallow.config.drop.policy == 'none'
  assert shallow.change.endswith(
    f'model.num_layers={layers} model.mlp_dim={width}'
  )
  # No other number of layers needs MLPs that are less changed.
  assert 2 / 3 < width / arms['plain'].config.model.mlp_dim < 3 / 2


def test_pretraining_that_goes_on_has_no_shallow_control():
  raw = settings.default()
  raw.base.train.init_from = 'somebodys'
  raw.arms.td = 'drop.policy=cumulative_loss'
  raw.reference = 'td'
  found = settings.load(raw)
  assert list(plan.arms(found, V)) == ['plain', 'td', 'random']
  arms = plan.arms(found, V)
  run = plan.Run('td', 10, 0)
  config = plan.run_config(arms['td'], run, pathlib.Path('data'))
  assert config.train.init_from == 'somebodys'


def test_parts_cost_their_share_of_the_run():
  arms = plan.arms(
    make("drop.policy=cumulative_loss 'drop.stages=25% policy=none; rest'"), V
  )
  whole = plan.arms(make(), V)
  expected = (
    0.25 * whole['plain'].flops_per_row + 0.75 * whole['td'].flops_per_row
  )
  assert arms['td'].flops_per_row == pytest.approx(expected)
  assert len(stages_lib.of(arms['td'].config)) == 2


RATIOS = {'plain': 1.0, 'td': 0.75, 'random': 0.8, 'shallow': 2 / 3}


def test_equal_time_is_steps_over_the_ratio():
  found = plan.lengths(make(), RATIOS)
  assert set(found['equal_steps'].values()) == {(1000,)}
  assert found['equal_time'] == {
    'plain': (1000,),
    'td': (1333,),
    'random': (1250,),
    'shallow': (1500,),
  }
  assert found['time_to_target']['td'] == (800, 1000, 1067, 1333)
  assert found['time_to_target']['plain'] == (600, 800, 1000)


def test_a_target_may_rest_on_the_runs_of_the_other_protocols():
  ratios = RATIOS | {'slow': 1.25}
  found = plan.lengths(make(budgets=''), ratios)['time_to_target']
  assert found == {
    'plain': (1000,),
    'td': (1000, 1333),
    'random': (1000, 1250),
    'shallow': (1000, 1500),
    'slow': (800,),  # its equal steps take longer than plain
  }


def test_the_runs_of_shorter_budgets_are_not_scored():
  chosen = make(seeds=2, scores='rte', glue_dir='x')
  found = plan.scored(chosen, plan.lengths(chosen, RATIOS))
  assert {(run.arm, run.steps) for run in found} == {
    ('plain', 1000),
    *((name, 1000) for name in RATIOS),
    ('td', 1333),
    ('random', 1250),
    ('shallow', 1500),
  }
  assert [run.seed for run in found] == [0] * 7 + [1] * 7
  assert plan.scored(make(), plan.lengths(make(), RATIOS)) == []


def test_runs_are_done_once_and_seed_by_seed():
  found = plan.runs(make(seeds=2, first_seed=3), plan.lengths(make(), RATIOS))
  # 4 lengths each, but plain's equal time is its equal steps, and 80% of
  # random's equal time are 1,000 steps too.
  assert len(found) == len(set(found)) == 2 * (3 + 4 + 3 + 4)
  assert [run.seed for run in found] == [3] * 14 + [4] * 14
  assert found[0] == ('plain', 1000, 3)
  assert found[0].folder == 'plain/1000/seed3'


def test_a_run_is_a_normal_one_of_its_own_length():
  chosen = make()
  arm = plan.arms(chosen, V)['td']
  config = plan.run_config(arm, plan.Run('td', 77, 5), pathlib.Path('/d'))
  assert (config.train.num_steps, config.train.seed) == (77, 5)
  assert (config.data.dir, config.drop.policy) == ('/d', 'cumulative_loss')
  assert config.eval == chosen.base.eval


def test_a_run_too_short_for_its_parts_is_one_line():
  arm = plan.arms(
    make("drop.policy=random 'drop.stages=1% policy=none; rest'"), V
  )['td']
  with pytest.raises(errors.ConfigError, match=r'td: drop\.stages: .*step'):
    plan.run_config(arm, plan.Run('td', 10, 0), pathlib.Path('/d'))
