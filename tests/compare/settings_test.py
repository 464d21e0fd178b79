"""Files of comparisons: what they mean and how their mistakes are told."""

import pytest

from td_flax import errors
from td_flax.compare import settings


def make(**changes):
  raw = settings.default()
  raw.base.model.num_layers = 12
  raw.arms.td = 'drop.policy=cumulative_loss drop.keep=0.25'
  raw.reference = 'td'
  with raw.unlocked(), raw.ignore_type():
    for key, value in changes.items():
      raw[key] = value
  return raw


def test_controls_belong_to_every_comparison():
  found = settings.load(make())
  assert list(found.arms) == ['plain', 'td', 'random']
  assert found.arms['plain'].drop.policy == 'none'
  assert found.arms['td'].drop.keep == found.arms['random'].drop.keep == 0.25
  assert found.arms['random'].drop.policy == 'random'
  assert found.seeds == (0, 1, 2, 3, 4)
  assert found.protocols == settings.PROTOCOLS
  assert found.budgets == (0.6, 0.8)
  assert {x.checkpoint.keep for x in found.arms.values()} == {1}


def test_the_random_control_has_the_parts_of_the_reference():
  stages = "'drop.stages=10% policy=none; 30% policy=attention; rest keep=0.5'"
  raw = make(arms={'td': f'drop.policy=cumulative_loss {stages}'})
  found = settings.load(raw).arms
  assert found['random'].drop.stages == (
    '10% policy=none; 30% policy=random; rest keep=0.5'
  )
  assert found['random'].drop.policy == 'random'
  assert found['plain'].drop.stages == ''


def test_the_random_control_drops_nothing_where_the_reference_does_not():
  stages = "'drop.stages=20%; 60% policy=random_ltd; rest'"
  raw = make(arms={'td': f'drop.policy=none drop.keep=0.25 {stages}'})
  random = settings.load(raw).arms['random'].drop
  assert random.policy == 'none'
  assert random.stages == '20%; 60% policy=random; rest'


def test_the_parts_may_be_those_of_the_base():
  raw = make()
  raw.base.drop.stages = '80%; rest policy=none'
  found = settings.load(raw).arms
  assert found['random'].drop.stages == '80%; rest policy=none'
  assert found['plain'].drop.stages == ''


def test_chance_has_no_weights_to_pool_by():
  raw = make(arms={'td': 'drop.policy=attention drop.pool=weighted'})
  found = settings.load(raw).arms
  assert (found['td'].drop.pool, found['random'].drop.pool) == (
    'weighted',
    'mean',
  )


def test_a_control_of_the_file_is_taken():
  raw = make()
  raw.arms.random = 'drop.policy=random drop.keep=0.75'
  assert settings.load(raw).arms['random'].drop.keep == 0.75


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'arms': {}}, r'arms=\[\]: must name at least one arm'),
    (
      {'arms': {'shallow': 'drop.keep=0.5'}, 'reference': 'shallow'},
      "not 'shallow'",
    ),
    ({'reference': 'x'}, "reference='x': must be one of td"),
    ({'arms': {'td': 'drop.keep'}}, "arms.td: 'drop.keep': must be text KEY="),
    ({'arms': {'td': 3}}, 'arms.td: 3: must be text KEY='),
    ({'arms': {'td': "drop.keep='"}}, 'arms.td: .*must be text KEY='),
    ({'arms': {'t d': ''}, 'reference': 't d'}, 'arms.t d: its name must be'),
    (
      {'arms': {'td': 'drop.kep=0.5'}},
      'arms.td: drop.kep: no such key; did you mean drop.keep',
    ),
    (
      {'arms': {'td': 'drop.keep=half'}},
      "arms.td: drop.keep='half': must be a number",
    ),
    (
      {'arms': {'td': 'drop.keep=-1'}},
      'arms.td: drop.keep=-1.0: must be above',
    ),
    (
      {'arms': {'td': 'train.num_steps=5'}},
      'arms.td: train.num_steps: cannot differ between arms',
    ),
    (
      {'arms': {'td': 'train.batch_size=8'}},
      'arms.td: train.batch_size: cannot differ between arms',
    ),
    (
      {'arms': {'td': 'data.files=x'}},
      'arms.td: data.files: cannot differ between arms',
    ),
    (
      {'arms': {'td': '', 'plain': 'drop.policy=random'}},
      "arms.plain: must be 'drop.policy=none",
    ),
    (
      {
        'arms': {
          'td': '',
          'plain': 'drop.policy=none drop.stages= model.num_layers=2',
        }
      },
      "arms.plain: must be 'drop.policy=none",
    ),
    (
      {'arms': {'td': '', 'random': 'drop.policy=none'}},
      "arms.random='drop.policy=none': must drop tokens by",
    ),
    (
      {
        'arms': {
          'td': '',
          'random': "drop.policy=random 'drop.stages=50%; rest "
          "policy=attention'",
        }
      },
      'arms.random=.*: must drop tokens by',
    ),
    (
      {'arms': {'td': 'model.restart_positions=False'}},
      'arms.td: model.restart_positions: cannot differ between arms',
    ),
    ({'timing_rounds': 2}, 'timing_rounds=2: must be at least 3'),
    ({'seeds': 0}, 'seeds=0: must be at least 1'),
    ({'seeds': 1.5}, 'seeds=1.5: must be a whole number'),
    ({'sedes': 1}, 'sedes: no such key; did you mean seeds'),
    (
      {'protocols': 'equal_step'},
      "protocols='equal_step': must be a comma list",
    ),
    (
      {'scores': 'blimp,colla'},
      "scores='blimp,colla': must be a comma list of blimp, cola, sst2",
    ),
    ({'scores': 'rte,rte'}, "scores='rte,rte': must be a comma list"),
    (
      {'scores': 'blimp'},
      "blimp_dir='': missing; scores=blimp needs it",
    ),
    (
      {'scores': 'blimp,rte', 'blimp_dir': 'x'},
      "glue_dir='': missing; scores=blimp,rte needs it",
    ),
    (
      {'scores': 'rte', 'glue_dir': 'x', 'protocols': 'time_to_target'},
      "scores='rte': protocols must name equal_steps or equal_time",
    ),
    ({'blimp_limit': -1}, 'blimp_limit=-1: must be at least 0'),
    ({'score_seeds': 0}, 'score_seeds=0: must be at least 1'),
    ({'score_epochs': 0}, r'score_epochs=0\.0: must be above 0'),
    (
      {'score_learning_rate': 0},
      r'score_learning_rate=0\.0: must be above 0',
    ),
    ({'score_epochs': 'x'}, "score_epochs='x': must be a number"),
    ({'budgets': '0.5,1.5'}, "budgets='0.5,1.5': must be a comma list"),
    (
      {'budgets': '', 'protocols': 'equal_time,time_to_target'},
      "budgets='': must be a comma list",
    ),
    (
      {'arms': {'td': "'drop.stages=100 policy=none; rest'"}},
      "arms.td: drop.stages: '100 policy=none': its length must be a share",
    ),
  ],
)
def test_mistakes_are_one_line(changes, said):
  with pytest.raises(errors.ConfigError, match=said) as raised:
    settings.load(make(**changes))
  assert '\n' not in str(raised.value)


def test_scores_are_none_unless_named():
  assert settings.load(make()).scores.names == ()
  raw = make(scores='rte, blimp,cola', blimp_dir='b', glue_dir='g')
  found = settings.load(raw).scores
  assert found == (('blimp', 'cola', 'rte'), 'b', 'g', 0, 1, 3.0, 5e-5)
  assert found.tasks == ['cola', 'rte']
  assert settings.type_name('score_epochs') == 'a number'
  assert settings.type_name('scores') == 'text'


@pytest.mark.parametrize(
  ('key', 'value', 'said'),
  [
    ('drop.policy', 'x', "base.drop.policy='x': must be one of"),
    ('task.name', 'sst2', "base.task.name='sst2': must be empty"),
    ('model.num_heads', 7, 'base.model.num_heads=7: must be a divisor'),
    ('train.seed', 'x', "base.train.seed='x': must be a whole number"),
  ],
)
def test_mistakes_of_the_base_are_one_line(key, value, said):
  raw = make()
  section, name = key.split('.')
  with raw.ignore_type():
    raw.base[section][name] = value
  with pytest.raises(errors.ConfigError, match=said):
    settings.load(raw)


def test_parts_of_given_length_go_with_equal_steps():
  raw = make(
    arms={'td': "drop.policy=random 'drop.stages=9 policy=none; rest'"},
    protocols='equal_steps',
  )
  assert settings.load(raw).protocols == ('equal_steps',)
