import pytest

from td_flax import errors, stages


def parts(make_config, text, **overrides):
  config = make_config(
    drop__policy='cumulative_loss', drop__stages=text, **overrides
  )
  return stages.of(config)


def test_without_stages_a_run_is_one_part(make_config):
  config = make_config(train__num_steps=7)
  assert stages.of(config) == (stages.Stage(0, 7, config),)


def test_shares_steps_and_the_rest_follow_each_other(make_config):
  found = parts(
    make_config,
    '10% policy=none; 30 keep=0.75 mask_rate=0.3; rest last_layer=1',
    train__num_steps=200,
  )
  assert [x[:2] for x in found] == [(0, 20), (20, 50), (50, 200)]
  assert [x.config.drop.policy for x in found] == [
    'none', 'cumulative_loss', 'cumulative_loss',
  ]  # fmt: skip
  assert [x.config.drop.keep for x in found] == [0.5, 0.75, 0.5]
  assert [x.config.train.mask_rate for x in found] == [0.15, 0.3, 0.15]
  assert {x.config.train.num_steps for x in found} == {200}
  assert {x.config.drop.stages for x in found} == {''}


def test_shares_that_do_not_divide_the_steps_still_cover_them(make_config):
  found = parts(make_config, '33.3%; 33.3%; 33.4%', train__num_steps=100)
  assert [x[:2] for x in found] == [(0, 33), (33, 67), (67, 100)]


@pytest.mark.parametrize(
  'text', ['500000; 499999', '500000; 500001', '33.3333%; 33.3333%; 33.3333%']
)
def test_a_step_of_a_million_is_missed(make_config, text):
  with pytest.raises(errors.ConfigError) as caught:
    parts(make_config, text, train__num_steps=1_000_000)
  assert 'steps long; must be train.num_steps=1000000' in str(caught.value)
  assert 'e+0' not in str(caught.value)


@pytest.mark.parametrize(
  ('text', 'complaint'),
  [
    ('10% foo=1; rest', "'10% foo=1': must be LENGTH KEY=VALUE"),
    ('10% keep; rest', "'10% keep': must be LENGTH"),
    ('most; rest', "'most': must be LENGTH"),
    ('nan%; rest', "'nan%': must be LENGTH"),
    ('inf%; rest', "'inf%': must be LENGTH"),
    ('10%;; rest', "'': must be LENGTH"),
    ('rest; rest', 'only one part can be the rest'),
    ('50%; 60%', 'the parts are 110 steps long; must be train.num_steps=100'),
    ('10% keep=0.5 keep=0.75; rest', "keep=0.75': keep is there twice"),
    ('120; rest', "'rest' of train.num_steps=100 is no step"),
    ('0.1%; rest', "'0.1%' of train.num_steps=100 is no step"),
    ('10% keep=half; rest', "drop.keep='half': must be a number"),
    ('10% keep=0.01; rest', "'10% keep=0.01': drop.keep=0.01: must be at lea"),
    ('10% policy=best; rest', 'drop.policy='),
    (
      '10% policy=frequency; rest',
      'frequency needs a table, and a run has only',
    ),
  ],
)
def test_what_cannot_be_a_part_is_told(make_config, text, complaint):
  with pytest.raises(errors.ConfigError) as caught:
    parts(make_config, text)
  assert str(caught.value).startswith('drop.stages: ')
  assert complaint in str(caught.value)
