"""Step times: what is measured, and what of it is kept."""

import numpy as np
import pytest

from td_flax import config as config_lib
from td_flax import errors
from td_flax.compare import timing


def changed(config, **changes):
  return config_lib.with_changes(
    config, {key.replace('__', '.'): value for key, value in changes.items()}
  )


def test_turns_are_interleaved_and_the_first_round_is_not_counted():
  order = []

  def turn(name):
    order.append(name)
    return float(len(order))

  found = timing.interleave({x: lambda x=x: turn(x) for x in 'ab'}, 2)
  assert ''.join(order) == 'baabba'
  assert found == {'a': [3.0, 6.0], 'b': [4.0, 5.0]}


def test_a_ratio_is_the_median_over_rounds():
  found = timing.ratio([1.0, 4.0, 9.0], [1.0, 2.0, 3.0])
  assert (found['ratio'], found['quartiles']) == (2.0, [1.5, 2.5])


def test_the_error_of_a_ratio_is_that_of_the_median():
  rng = np.random.default_rng(0)
  rounds = 400
  found = [
    timing.ratio(rng.normal(1, 0.1, rounds), np.ones(rounds))
    for _ in range(200)
  ]
  expected = np.std([x['ratio'] for x in found])
  assert np.mean([x['error'] for x in found]) == pytest.approx(
    expected, rel=0.15
  )


def test_parts_of_a_run_count_by_their_share(make_config, monkeypatch):
  plain = make_config(parallel__num_devices=1)
  staged = changed(
    plain, drop__policy='random', drop__stages='25% policy=none; rest'
  )

  class Fake:
    def __init__(self, config, steps):
      assert steps.vocab_size == 300
      self.seconds = 1.0 if config.drop.policy == 'none' else 0.5
      if steps.full is not None:
        self.seconds += 1.0

    def turn(self, steps):
      return self.seconds

  monkeypatch.setattr(timing, 'TimedStep', Fake)
  found = timing.measure({'plain': plain, 'staged': staged}, 300, 3)
  assert found['arms']['plain']['ratio'] == 1.0
  assert found['arms']['staged']['ratio'] == pytest.approx(0.25 + 0.75 * 0.5)
  assert found['arms']['staged']['seconds_per_step'] == pytest.approx(0.625)
  twice = changed(plain, drop__policy='random', drop__consistency_every=4)
  found = timing.measure({'plain': plain, 'twice': twice}, 300, 1)
  assert found['arms']['twice']['ratio'] == pytest.approx(0.5 + 1 / 4)
  assert found.items() >= timing.machine(plain.parallel).items()
  assert MACHINE.keys() <= found.keys()


def test_a_program_of_several_arms_is_timed_once(make_config, monkeypatch):
  plain = make_config(parallel__num_devices=1)
  half = changed(plain, drop__policy='random')
  arms = {
    'plain': plain,
    'half': half,
    'early': changed(half, drop__stages='25% policy=none; rest'),
    'late': changed(half, drop__stages='50%; rest policy=none'),
    'more': changed(half, drop__keep=0.75),
    'loss': changed(plain, drop__policy='cumulative_loss'),
    'loss_late': changed(
      plain,
      drop__policy='cumulative_loss',
      drop__stages='50%; rest policy=random',
    ),
    'twice': changed(half, drop__consistency_every=2),
  }
  built = []

  class Fake:
    def __init__(self, config, steps):
      built.append((config.drop.policy, config.drop.keep))
      self.seconds = float(2 ** len(built))

    def turn(self, steps):
      return self.seconds

  monkeypatch.setattr(timing, 'TimedStep', Fake)
  found = timing.measure(arms, 300, 1)['arms']
  none, random, loss = ('none', 0.5), ('random', 0.5), ('cumulative_loss', 0.5)
  assert built == [
    none,
    random,
    none,  # of runs whose table is that of `random`
    ('random', 0.75),
    loss,
    random,  # whose table is that of `cumulative_loss`
    random,  # of `twice`
    random,  # of `twice`, the steps of two passes
  ]
  seconds = {name: x['seconds_per_step'] for name, x in found.items()}
  assert seconds['plain'] == 2
  assert seconds['half'] == 4
  assert seconds['early'] == 0.25 * 8 + 0.75 * 4
  assert seconds['late'] == 0.5 * 4 + 0.5 * 8
  assert seconds['more'] == 16
  assert seconds['loss_late'] == 0.5 * seconds['loss'] + 0.5 * 64


def test_a_step_is_timed(make_config):
  plain = make_config(parallel__num_devices=1, data__vocab_size=300)
  arms = {'plain': plain, 'half': changed(plain, drop__policy='random')}
  found = timing.measure(arms, 300, 1)
  assert found['steps_per_turn'] >= 1
  assert all(x['seconds_per_step'] > 0 for x in found['arms'].values())


@pytest.mark.parametrize('rounds', [1, 3, 19, 20, 23, 60])
def test_many_rounds_are_spread_over_processes(rounds):
  found = timing.split(rounds)
  assert sum(found) == rounds
  assert len(found) == (5 if rounds >= 20 else 1)
  assert min(found) >= min(rounds, 4)


def test_processes_are_averaged_and_their_spread_is_the_error(make_config):
  plain = make_config()
  configs = {'plain': plain, 'a': changed(plain, drop__policy='random')}
  several = []
  for ratio in 0.5, 0.52, 0.6:
    one = measured(configs, plain=1.0, a=ratio)
    for x in one['arms'].values():
      # Rounds within a process show less than that.
      x |= {'quartiles': [x['ratio']] * 2, 'error': 0.001, 'samples': 4}
    several.append(one)
  found = timing.combine(several)
  assert found['rounds'] == 3
  a = found['arms']['a']
  assert a['ratio'] == pytest.approx(0.54)
  assert a['quartiles'] == pytest.approx([0.54, 0.54])
  assert a['error'] == pytest.approx(np.std([0.5, 0.52, 0.6], ddof=1) / 3**0.5)
  assert a['samples'] == 3
  assert a['seconds_per_step'] == pytest.approx(3 * 0.54)
  assert a['fingerprint'] == timing.fingerprint(configs['a'])
  assert found['arms']['plain']['error'] == 0
  assert timing.combine(several[:1]) == several[0]


MACHINE = {
  'platform': 'cpu',
  'device_kind': 'cpu',
  'devices': 1,
  'machine': 'one',
  'cores': 2,
  'jax': '0',
}


def measured(configs, **ratios):
  return {
    **MACHINE,
    'rounds': 1,
    'arms': {
      name: {
        'ratio': ratio,
        'seconds_per_step': 3 * ratio,
        'fingerprint': timing.fingerprint(configs[name]),
      }
      for name, ratio in ratios.items()
    },
  }


def test_times_are_kept_and_added_to(make_config, tmp_path):
  file = tmp_path / 'timing.json'
  plain = make_config()
  configs = {'plain': plain, 'a': changed(plain, drop__policy='random')}
  configs['b'] = changed(configs['a'], drop__keep=0.75)
  there = timing.read(file, configs)
  assert there == {'arms': {}}
  first = timing.add(file, there, measured(configs, plain=1.0, a=0.5))
  assert timing.read(file, configs) == first
  later = measured(configs, plain=1.0, b=0.75)
  for x in later['arms'].values():
    x['seconds_per_step'] *= 10  # a slow moment
  both = timing.add(file, first, later)
  assert both['arms']['a'] == first['arms']['a']
  assert both['arms']['b']['seconds_per_step'] == pytest.approx(3 * 0.75)
  assert timing.read(file, configs) == both


@pytest.mark.parametrize('key', MACHINE)
def test_times_of_another_machine_are_not_added_to(make_config, tmp_path, key):
  file = tmp_path / 'timing.json'
  plain = make_config()
  configs = {'plain': plain, 'a': changed(plain, drop__policy='random')}
  first = timing.add(file, {'arms': {}}, measured(configs, plain=1.0))
  later = measured(configs, plain=1.0, a=0.5) | {key: 'another'}
  with pytest.raises(errors.CheckpointError, match=f'timed with {key}='):
    timing.add(file, first, later)
  assert timing.read(file, configs) == first


def test_times_of_another_comparison_are_refused(make_config, tmp_path):
  file = tmp_path / 'timing.json'
  configs = {'plain': make_config()}
  timing.add(file, {'arms': {}}, measured(configs, plain=1.0))
  other = {'plain': make_config(model__hidden_dim=32)}
  with pytest.raises(errors.CheckpointError, match='plain had another config'):
    timing.read(file, other)
  file.write_text('{')
  with pytest.raises(errors.CheckpointError, match='damaged'):
    timing.read(file, configs)
