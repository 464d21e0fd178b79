"""Times, errors, lost runs and the front, on made-up runs."""

import copy
import math
import re

import pytest
from made_up_runs import (
  EQUAL,
  LATER,
  PLAIN,
  TIMING,
  all_runs,
  make,
  scored,
)

from td_flax.compare import plan, report
from td_flax.compare.differences import UNTIMED

# Student's, 95% of both sides, of the 5 rounds of TIMING.
T_OF_ROUNDS = 2.776445


def test_the_time_to_plains_loss_lies_between_two_budgets():
  found = make(all_runs(2))['protocols']['time_to_target']
  # From 3.205 at 0.5 of the time to 2.805 at all of it.
  part = 0.205 / 0.4
  expected = 0.5 * 2**part
  assert found['td']['time'] == {'relation': '=', 'at': pytest.approx(expected)}
  assert found['td']['target'] == PLAIN
  assert found['td']['by_seed'][0]['time']['at'] == pytest.approx(0.5 * 2**0.5)
  assert found['plain']['time'] == {'relation': '=', 'at': pytest.approx(1.0)}
  low, high = found['td']['interval']
  seeds = [found['td']['by_seed'][i]['time']['at'] for i in (0, 1)]
  assert low < min(seeds) < max(seeds) < high
  assert low * high == pytest.approx(seeds[0] * seeds[1])
  text = report.markdown(make(all_runs(2)))
  interval = f'{low:.3f} to {high:.3f}'
  assert f'| td | 2 | {expected:.3f} | {interval} | 0.707, 0.7' in text


def test_arms_are_compared_with_the_reference_too():
  runs = scored(5)
  runs += [
    x | {'arm': 'other', 'loss': x['loss'] + 0.1 + 0.01 * (x['seed'] % 2)}
    for x in runs
    if x['arm'] == 'td'
  ]
  found = make(runs, twins=['other'])
  assert found['baselines'] == ('plain', 'random', 'shallow', 'td')
  other = found['protocols']['equal_time']['other']
  assert other['against']['td']['mean'] == pytest.approx(0.104)
  assert other['against']['td']['verdict'] == 'worse'
  assert other['scores']['blimp']['against']['td']['mean'] == 0
  text = report.markdown(found)
  head = 'minus plain | minus random | minus shallow | minus td |'
  assert f'| n | {head}' in text
  # The controls are not told again from the other side.
  assert '- worse than td: other by 0.1040 nats\n' in text
  assert '- blimp: not distinguishable from td, so neither a diff' in text


def test_an_arm_that_is_always_below_plain_says_so():
  runs = [x | {'loss': 2.9} if x['arm'] == 'td' else x for x in all_runs(3)]
  assert (
    "- td needs <= 0.500 of plain's time to plain's loss; no interval (its "
    'shortest runs are below it with every seed), so no verdict.'
  ) in report.markdown(make(runs))


def test_an_arm_that_never_reaches_plain_says_so():
  runs = [
    x | {'loss': 3.4} if x['arm'] == 'shallow' else x for x in all_runs(1)
  ]
  found = make(runs)
  crossing = found['protocols']['time_to_target']['shallow']['time']
  assert crossing == {'relation': '>', 'at': 1.0}
  assert '| shallow | 1 | > 1.000 |  |' in report.markdown(found)


@pytest.mark.parametrize('how', ['diverged', 'failed'])
def test_an_arm_some_of_whose_runs_are_lost_has_no_verdict(how):
  runs = all_runs(7)
  lost = [plan.Run('td', 200, 5), plan.Run('td', 200, 6)]
  if how == 'failed':
    runs = [x for x in runs if (x['arm'], x['steps'], x['seed']) not in lost]
    found = make(runs, failed=dict.fromkeys(lost, 'it diverged'))
  else:
    for x in runs:
      if (x['arm'], x['steps'], x['seed']) in lost:
        x['loss'] = None
    found = make(runs)
  td = found['protocols']['equal_time']['td']
  assert td['diverged'] == [5, 6]
  assert td['against']['plain']['n'] == 5
  assert td['against']['plain']['verdict'] == 'runs diverged'
  assert found['protocols']['equal_steps']['td']['diverged'] == []
  text = report.markdown(found)
  no_verdict = (
    'no verdict against plain, since not all runs reached their end with '
    'finite figures'
  )
  assert f'- {no_verdict}: td\n' in text
  assert '- better than plain: td' not in text
  assert re.search(r'- better than plain: random by \S+ nats, shallow by', text)
  # And an arm is not measured by a control that lost runs.
  other = found['protocols']['equal_time']['random']['against']
  assert other['plain']['verdict'] == 'better'
  for x in runs:
    if (x['arm'], x['steps'], x['seed']) == ('random', 200, 3):
      x['loss'] = None
  td = make(runs)['protocols']['equal_time']['td']['against']
  assert td['random']['verdict'] == 'runs diverged'


def test_a_time_to_target_without_some_runs_is_none():
  runs = all_runs(7)
  for x in runs:
    if (x['arm'], x['steps']) == ('td', 200) and x['seed'] > 4:
      x['loss'] = None
  found = make(runs)
  td = found['protocols']['time_to_target']['td']
  assert td['diverged'] == [5, 6]
  assert ('td', 200) not in {(x['arm'], x['steps']) for x in found['front']}
  text = report.markdown(found)
  _, _, text = text.partition('## Time to target')
  assert '| td | 5 | runs diverged | ' in text
  assert '| shallow | 7 | runs diverged' not in text


def test_a_scoring_that_failed_says_nothing_of_losses():
  failed = {plan.Run('plain', 100, 0): 'no room'}
  found = make(scored(5), failed=failed)
  td = found['protocols']['equal_time']['td']
  assert td['against']['plain']['verdict'] == 'better'
  score = td['scores']['blimp']['against']['plain']
  assert score['verdict'] == 'runs diverged'


def test_an_error_of_the_time_is_told_in_nats():
  found = make(all_runs(3))
  # 0.4 nats from 100 to 200 steps in three arms, 0.5 from 50 to 100 in plain.
  expected = 0.01 * (3 * 0.4 + 0.5) / (4 * math.log(2))
  assert found['nats_per_percent_of_time'] == pytest.approx(expected)
  assert f'1% of one is worth {expected:.4f} nats' in report.markdown(found)
  assert make(all_runs(0))['nats_per_percent_of_time'] is None
  one_length = [x for x in all_runs(3) if x['steps'] in (100, 200)]
  one_length = [
    x for x in one_length if (x['steps'] == 100) == (x['arm'] == 'plain')
  ]
  found = make(one_length)
  text = report.markdown(found)
  assert 'what they are worth is not known, and in no interval' in text
  # So a budget may be a little too large or too small for one of them.
  td = found['protocols']['equal_time']['td']['against']
  assert td['plain']['verdict'] == td['random']['verdict'] == UNTIMED
  assert '- no verdict against plain, since no arm ran at two lengths' in text
  assert 'better than' not in text.partition('## Equal time')[2]
  assert 'Each interval stands for itself' not in text


def test_the_error_of_the_time_is_in_the_intervals_at_equal_time():
  timing = copy.deepcopy(TIMING)
  for x in timing['arms'].values():
    x['error'] = 0.0
  exact, found = make(all_runs(5), timing=timing), make(all_runs(5))
  for protocol in 'equal_steps', 'equal_time':
    widths = []
    for x in exact, found:
      pair = x['protocols'][protocol]['td']['against']['plain']
      widths.append((pair['high'] - pair['low']) / 2)
    # 2% of td's step time and 1% of plain's.
    error = math.hypot(2, 1) * found['nats_per_percent_of_time']
    error *= protocol == 'equal_time'
    assert widths[1] == pytest.approx(
      math.hypot(widths[0], T_OF_ROUNDS * error), rel=1e-5
    )
  intervals = [
    x['protocols']['time_to_target']['td']['interval'] for x in (exact, found)
  ]
  half = [math.log(high / low) / 2 for low, high in intervals]
  assert half[1] == pytest.approx(
    math.hypot(half[0], T_OF_ROUNDS * 0.02), rel=1e-5
  )


def test_a_score_that_is_not_finite_leaves_no_verdict():
  runs = scored(7)
  for x in runs:
    if (x['arm'], x['steps']) == ('td', 200) and x['seed'] > 4:
      x['scores']['rte']['score'] = None
  found = make(runs)
  td = found['protocols']['equal_time']['td']
  assert td['against']['plain']['verdict'] == 'better'
  assert td['scores']['blimp']['against']['plain']['verdict'] == 'better'
  assert td['scores']['rte']['seeds'] == [0, 1, 2, 3, 4]
  assert td['scores']['rte']['against']['plain']['verdict'] == 'runs diverged'
  text = report.markdown(found)
  assert '- failed: td/200/seed5: rte is not finite' in text
  assert '- rte: no verdict against plain, since not all runs' in text


def test_time_to_target_is_put_into_words():
  # All that does not differ from seed to seed is far from the others.
  losses = {('td', 100): 3.2, ('td', 200): 2.8, ('shallow', 200): 3.4}
  runs = [
    x | {'loss': losses.get((x['arm'], x['steps']), x['loss'])}
    for x in all_runs(5)
  ]
  found = make(runs, td='drop.policy=random')
  text = report.markdown(found).partition('## Time to target')[2]
  assert "- td needs 0.707 of plain's time to plain's loss (0.669 to 0" in text
  assert (
    "- No seed of shallow reaches plain's loss within plain's time." in text
  )
  assert 'plain needs' not in text
  assert '## Pareto front' in text
  assert '| td | 200 | x 1.000 | 2.8000 |' in text
  for x in runs:
    if (x['arm'], x['steps'], x['seed']) == ('shallow', 200, 0):
      x['loss'] = 2.9
  text = report.markdown(make(runs))
  no_interval = "plain's loss within plain's time on average; no interval ("
  assert f'- shallow does not reach {no_interval}some seed does), so' in text
  text = report.markdown(make(all_runs(1)))
  assert '(one seed), so no verdict' in text
  runs = [x | {'loss': 3.4} if x['arm'] == 'td' else x for x in all_runs(1)]
  text = report.markdown(make(runs))
  assert f'- td does not reach {no_interval}one seed), so no verdict.' in text
  text = report.markdown(make(all_runs(5), unigram=3.9))
  assert 'nothing follows from these times' in text
  assert '## Pareto front' not in text


def test_the_front_is_what_nothing_beats():
  front = make(all_runs(1))['front']
  # Shares of plain's time; all arms but plain take half of its seconds.
  assert [(x['steps'], x['time']) for x in front] == [(100, 0.5), (200, 1.0)]
  assert [x['loss'] for x in front] == [EQUAL, LATER]


def test_the_rounding_of_steps_puts_nothing_on_the_front():
  runs = all_runs(1)
  for x in runs:
    x['loss'] += x['arm'] == 'td'  # the worst
  timing = copy.deepcopy(TIMING)
  timing['arms']['td']['seconds_per_step'] *= 0.999
  front = make(runs, timing=timing)['front']
  assert 'td' not in {x['arm'] for x in front}


def test_the_front_is_of_seeds_that_all_points_have():
  runs = [
    x | {'loss': x['loss'] + 0.5 * x['seed']}  # the first seed is lucky
    for x in all_runs(3)
    if x['seed'] == 0 or (x['arm'], x['steps']) != ('td', 200)
  ]
  found = make(runs)
  assert {tuple(x['seeds']) for x in found['front']} == {(0,)}
  assert [x['loss'] for x in found['front']] == [EQUAL, LATER]
  assert 'whatever the deviations; seeds 0.' in report.markdown(found)
  runs = [x for x in runs if (x['arm'] == 'td') == (x['seed'] == 0)]
  assert make(runs)['front'] == []


def test_controls_are_said_to_imitate_one_arm():
  found = make(all_runs(2), twins=['other'])
  assert found['reference'] == 'td'
  imitated = {arm: x['imitated'] for arm, x in found['arms'].items()}
  assert imitated == {
    'plain': False, 'td': True, 'random': True, 'shallow': False, 'other': True,
  }  # fmt: skip
  assert 'imitate' not in report.markdown(found)
  for change in 'drop.keep=0.4', 'drop.first_layer=3', 'model.mlp_dim=2048':
    found = make(
      all_runs(2), twins=['other'], of_twins=f'drop.policy=random {change}'
    )
    assert not found['arms']['other']['imitated']
    text = report.markdown(found)
    assert '`random` and `shallow` imitate `td`. Not these: other.' in text
  del found['arms']['shallow']
  assert '`random` imitates `td`. Not these: ' in report.markdown(found)


def test_a_reference_that_is_a_control_is_compared_with_once():
  assert make(all_runs(2), reference='random')['baselines'] == (
    'plain', 'random', 'shallow',
  )  # fmt: skip


def test_plain_that_diverged_is_not_said_to_be_running():
  runs = [x | {'loss': None} if x['arm'] == 'plain' else x for x in all_runs(2)]
  found = make(runs)
  assert found['inconclusive_because'] == 'no run of plain has a finite loss'


def test_scores_that_are_to_come_leave_a_report_unfinished():
  runs = scored(5)
  text = report.markdown(make(runs, unscored=3))
  assert '**UNFINISHED: ' in text
  assert 'Rests on 40 of 40 planned runs (3 still without scores), ' in text
