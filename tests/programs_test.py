import collections

import pytest

from td_flax.devices import OneDevice
from td_flax.programs import Key, Programs


def make(make_config, special, **overrides):
  config = make_config(drop__policy='cumulative_loss', **overrides)
  return Programs(config, 300, special, OneDevice())


def test_a_run_without_stages_has_one_program(make_config, special):
  programs = make(make_config, special)
  assert list(programs.steps) == [Key(0, False)]
  assert {programs.at(step) for step in range(100)} == {Key(0, False)}


@pytest.mark.parametrize('start', [0, 9, 10, 57, 99])
def test_counts_are_those_of_the_steps(make_config, special, start):
  programs = make(
    make_config,
    special,
    drop__stages='10% policy=none; 51% keep=0.75; rest',
    drop__consistency_every=7,
  )
  counted = collections.Counter(programs.at(x) for x in range(start, 100))
  for key in programs.steps:
    assert programs.count(key, start) == counted[key]
  assert Key(0, True) not in programs.steps  # nothing is dropped there


def test_another_geometry_is_that_of_its_last_part(make_config, special):
  programs = make(
    make_config,
    special,
    drop__stages='25% policy=mask_later; 25% policy=narrow; rest',
  )
  assert programs.own is programs.steps[Key(1, False)]
  assert make(make_config, special).own is None


def test_every_stage_has_its_plan_and_all_have_one_table(make_config, special):
  programs = make(
    make_config, special, drop__stages='10% policy=none; 40% keep=0.25; 50%'
  )
  assert [x.layer_tokens_kept for x in programs.steps.values()] == [
    1, pytest.approx(0.75), pytest.approx(5 / 6),
  ]  # fmt: skip
  assert {x.table_policy for x in programs.steps.values()} == {
    programs.base.policy
  }
  mean = programs.mean(
    {key: x.layer_tokens_kept for key, x in programs.steps.items()}
  )
  assert mean == pytest.approx(0.1 + 0.4 * 0.75 + 0.5 * 5 / 6)


def test_two_passes_cost_what_both_cost(make_config, special):
  programs = make(make_config, special, drop__consistency_every=2)
  one, two = programs.steps.values()
  assert two.row_flops > one.row_flops + one.flops_of(two.full)
  assert two.row_flops < 2.2 * one.flops_of(two.full)
