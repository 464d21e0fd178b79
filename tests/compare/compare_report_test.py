"""The report on made-up runs: verdicts, partial comparisons, the plateau."""

import copy
import json
import math
import re

import pytest

from td_flax.compare import figures, plan, plots, report, settings, statistics

ARMS = 'plain', 'td', 'random', 'shallow'
LENGTHS = {
  'equal_steps': dict.fromkeys(ARMS, (100,)),
  'equal_time': {**dict.fromkeys(ARMS, (200,)), 'plain': (100,)},
  'time_to_target': {**dict.fromkeys(ARMS, (100, 200)), 'plain': (50, 100)},
}
TIMING = {
  'device_kind': 'cpu',
  'rounds': 5,
  'arms': {
    name: {
      'ratio': ratio,
      'quartiles': [ratio, ratio],
      'error': 0.01,
      'seconds_per_step': ratio,
    }
    for name, ratio in zip(ARMS, (1.0, 0.5, 0.5, 0.5), strict=True)
  },
}
# Loss of plain at equal steps, of all others there, of all others later.
PLAIN, EQUAL, LATER = 3.0, 3.2, 2.8


def run(arm, steps, seed, loss, own_loss=None):
  return {
    'arm': arm,
    'steps': steps,
    'seed': seed,
    'workdir': f'{arm}/{steps}/seed{seed}',
    'loss': loss,
    'own_loss': own_loss,
    'curve': [(0, 9.0), (steps // 2, 4.0), (steps, loss)],
    'scores': {},
  }


def all_runs(seeds):
  runs = []
  for seed in range(seeds):
    noise = 0.01 * (seed % 3)
    runs += [run('plain', 50, seed, 3.5), run('plain', 100, seed, PLAIN)]
    for arm in ARMS[1:]:
      runs.append(run(arm, 100, seed, EQUAL + noise))
      runs.append(run(arm, 200, seed, LATER + noise))
  return runs


def make(
  runs, unigram=6.0, failed=None, td='drop.policy=random', timing=TIMING
):
  raw = settings.default()
  raw.arms.td = td
  raw.reference = 'td'
  arms = plan.arms(settings.load(raw), 1000)
  return figures.content(
    'made-up',
    {name: arms[name] for name in ARMS},
    LENGTHS,
    timing,
    runs,
    planned=40,
    failed=failed or {},
    context_free=statistics.ContextFree(unigram, unigram - 0.5),
  )


def test_arms_are_worse_at_equal_steps_and_better_at_equal_time():
  found = make(all_runs(5))
  assert found['conclusive']
  td = found['protocols']['equal_steps']['td']
  assert td['loss']['mean'] == pytest.approx(3.208)
  assert td['against']['plain']['n'] == 5
  assert td['against']['plain']['mean'] == pytest.approx(0.208)
  assert td['against']['plain']['verdict'] == 'worse'
  assert td['against']['random']['verdict'] == 'not distinguishable'
  td = found['protocols']['equal_time']['td']
  assert td['time'] == 1.0
  assert td['against']['plain']['verdict'] == 'better'
  text = report.markdown(found)
  assert 'Rests on 40 of 40 planned runs, seeds 0, 1, 2, 3, 4.' in text
  assert 'UNFINISHED' not in text
  assert '| x 0.500 ± 0.010 (0.500 to 0.500) |' in text
  assert '- td is worse than plain by 0.2080 nats (+0.1' in text
  assert '- td is better than plain by 0.1920 nats (-0.2' in text
  assert '- td is not distinguishable from random (+0.0000 to +0.0000)' in text
  assert 'Preliminary' not in text
  assert 'INCONCLUSIVE' not in text


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


def test_an_arm_that_never_reaches_plain_says_so():
  runs = [
    x | {'loss': 3.4} if x['arm'] == 'shallow' else x for x in all_runs(1)
  ]
  found = make(runs)
  crossing = found['protocols']['time_to_target']['shallow']['time']
  assert crossing == {'relation': '>', 'at': 1.0}
  assert '| shallow | 1 | > 1.000 |  |' in report.markdown(found)


def test_few_seeds_are_preliminary_and_one_gives_no_verdict():
  text = report.markdown(make(all_runs(4)))
  assert 'is worse than plain by 0.2075 nats' in text
  assert 'Preliminary: 4 seeds.' in text
  found = make(all_runs(1))
  td = found['protocols']['equal_steps']['td']
  assert td['against']['plain']['low'] is None
  assert td['against']['plain']['verdict'] == ''
  assert td['loss']['deviation'] is None
  text = report.markdown(found)
  assert '- td, plain: one seed, so no interval and no verdict' in text


def test_plain_on_the_plateau_is_inconclusive():
  found = make(all_runs(5), unigram=3.9)
  assert not found['conclusive']
  td = found['protocols']['equal_steps']['td']
  assert td['against']['plain']['verdict'] == ''
  text = report.markdown(found)
  assert text.splitlines()[2].startswith('**INCONCLUSIVE: plain BERT ends at')
  assert 'nothing follows from these differences' in text
  assert 'is worse' not in text


def test_a_part_of_the_runs_is_reported_as_such():
  runs = [x for x in all_runs(3) if x['seed'] < 2 or x['arm'] != 'td']
  found = make(runs, failed={plan.Run('td', 100, 2): 'no room'})
  assert found['protocols']['equal_steps']['td']['against']['plain']['n'] == 2
  text = report.markdown(found)
  assert 'Rests on 22 of 40 planned runs' in text
  assert '**UNFINISHED: ' in text
  assert '- failed: td/100/seed2: no room' in text
  none = make([])
  assert not none['conclusive']
  assert none['protocols']['equal_steps']['td'] is None
  assert 'no run of plain has finished yet' in report.markdown(none)


def test_a_loss_that_is_not_finite_counts_for_nothing():
  runs = all_runs(2)
  broken = next(x for x in runs if x['arm'] == 'td' and x['steps'] == 100)
  broken['loss'] = None
  found = make(runs)
  assert found['protocols']['equal_steps']['td']['seeds'] == [1]
  assert 'td/100/seed0: its loss is not finite' in report.markdown(found)


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
  assert 'td, plain: not all runs reached their end, so no verdict' in text
  assert 'td is better than plain' not in text
  assert 'shallow is better than plain' in text
  # A control that lost runs is no measure either.
  random = found['protocols']['equal_time']['random']
  assert random['against']['plain']['verdict'] == 'better'


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


def test_arms_of_another_geometry_are_judged_by_scores_only():
  found = make(scored(5), td='drop.policy=narrow')
  assert found['arms']['td']['own_geometry']
  assert not found['arms']['random']['own_geometry']
  td = found['protocols']['equal_time']['td']
  assert td['against']['plain']['verdict'] == 'see scores'
  assert td['scores']['blimp']['against']['plain']['verdict'] == 'better'
  assert found['protocols']['time_to_target']['td'] is None
  assert 'td' not in {x['arm'] for x in found['front']}
  text = report.markdown(found)
  assert 'td, plain: one of them trains something else than plain BERT' in text
  assert '- td is better than plain' not in text
  assert '- blimp: td is better than plain' in text
  staged = "drop.policy=random 'drop.stages=50% policy=narrow; rest'"
  assert make([], td=staged)['arms']['td']['own_geometry']


def test_an_error_of_the_time_is_told_in_nats():
  found = make(all_runs(3))
  # 0.4 nats from 100 to 200 steps.
  expected = 0.01 * 0.4 / math.log(2)
  assert found['nats_per_percent_of_time'] == pytest.approx(expected)
  assert f'1% of one is worth {expected:.4f} nats' in report.markdown(found)
  assert make(all_runs(0))['nats_per_percent_of_time'] is None


def test_a_policys_own_loss_is_a_column():
  text = report.markdown(make(all_runs(2)))
  assert 'own evaluation' not in text
  runs = [x | {'own_loss': 2.5} if x['arm'] == 'td' else x for x in all_runs(2)]
  text = report.markdown(make(runs))
  assert "| loss of the policy's own evaluation |" in text
  assert '| 2.5000 ± 0.0000 |' in text


def scored(seeds):
  """All runs, td with more of BLiMP than plain and about as much of RTE."""
  runs = all_runs(seeds)
  for x in runs:
    if x['steps'] != 50:
      noise = 0.001 * (x['seed'] % 3)
      high = x['arm'] == 'td' and x['steps'] == 200
      x['scores'] = {
        'blimp': {
          'metric': 'accuracy',
          'score': 0.6 + 0.05 * high + noise * (x['arm'] == 'td'),
        },
        'rte': {
          'metric': 'accuracy',
          'score': 0.5 + noise * (x['arm'] == 'td') * (-1) ** x['seed'],
        },
      }
  return runs


def test_more_is_better_of_scores():
  found = make(scored(5))
  td = found['protocols']['equal_time']['td']['scores']
  assert list(td) == ['blimp', 'rte']
  assert td['blimp']['score']['mean'] == pytest.approx(0.6508)
  assert td['blimp']['seeds'] == [0, 1, 2, 3, 4]
  to_plain = td['blimp']['against']['plain']
  assert to_plain['mean'] == pytest.approx(0.0508)
  assert 0.049 < to_plain['low'] < to_plain['high'] < 0.053
  assert to_plain['verdict'] == 'better'
  assert td['rte']['against']['plain']['verdict'] == 'not distinguishable'
  shallow = found['protocols']['equal_time']['shallow']['scores']
  assert shallow['blimp']['against']['plain']['mean'] == 0
  plain = found['protocols']['equal_time']['plain']['scores']['blimp']
  assert plain['against']['random']['n'] == 5
  text = report.markdown(found)
  row = '| blimp (accuracy) | td | 65.08 ± 0.08 | 5 | +5.08 | +4.98 to +5.18 |'
  assert f'{row} better |' in text
  assert '- blimp: td is better than plain by 5.08 points (+4.98 to' in text
  assert '- rte: td is not distinguishable from plain (-' in text
  assert 'Of 6 scores that equal those of plain, 0.3 would on average' in text
  scores = [x['scores'] for x in found['runs'] if x['steps'] == 200]
  assert scores[0]['blimp'] == {'metric': 'accuracy', 'score': 0.65}


def test_scores_of_few_seeds_and_of_a_plateau_say_less():
  runs = scored(2)
  for x in runs:
    if x['seed'] == 1 and x['arm'] == 'td':
      del x['scores']['rte']
  found = make(runs)
  td = found['protocols']['equal_steps']['td']
  assert (td['seeds'], td['scores']['rte']['seeds']) == ([0, 1], [0])
  text = report.markdown(found)
  assert '| rte (accuracy) | td | 50.00 | 1 | +0.00 |  |  |' in text
  assert '- rte: td, plain: one seed, so no interval and no verdict' in text
  text = report.markdown(make(scored(5), unigram=3.9))
  assert 'nothing follows from these differences either' in text
  assert 'better' not in text.partition('## Equal time')[2].replace(
    'more is better', ''
  )


def test_what_is_written_is_what_was_found(tmp_path):
  found = make(all_runs(2))
  report.write(tmp_path, found, {'command': 'x'})
  saved = json.loads((tmp_path / 'report.json').read_text())
  assert saved['command'] == 'x'
  assert len(saved['runs']) == 16
  assert saved['runs'][3]['time'] == 1.0
  page = (tmp_path / 'report.md').read_text()
  assert page.startswith(report.markdown(found))
  drawn = {x.name for x in tmp_path.glob('*.png')}
  shown = set(re.findall(r'!\[\w+\]\((\w+\.png)\)', page))
  assert shown == drawn


def test_plots_are_drawn(tmp_path):
  pytest.importorskip('matplotlib', reason='needs the extra `plot`')
  drawn = plots.draw(tmp_path, make(scored(2)))
  assert sorted(drawn) == sorted(x.stem for x in tmp_path.iterdir())
  names = sorted(x.name for x in tmp_path.iterdir())
  assert names == [
    'loss_flops.png',
    'loss_steps.png',
    'loss_time.png',
    'pareto.png',
    'scores.png',
  ]


@pytest.mark.filterwarnings('error')
def test_protocols_without_a_finished_run_have_no_plot(tmp_path):
  pytest.importorskip('matplotlib', reason='needs the extra `plot`')
  drawn = plots.draw(tmp_path, make([run('td', 100, 0, EQUAL)]))
  assert drawn == ['loss_steps', 'pareto']


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
