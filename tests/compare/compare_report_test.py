"""The report on made-up runs: verdicts, partial comparisons, the plateau."""

import json
import re

import pytest
from made_up_runs import EQUAL, LATER, all_runs, make, run, scored

from td_flax.compare import plan, plots, report


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
  assert re.search(
    r'\| td \| .* \| \+0.2080 \(\+0.1\d* to \+0.2\d*\), worse ', text
  )
  assert '- worse than plain: td by 0.2080 nats' in text
  assert '- better than plain: td by 0.1920 nats, ' in text
  assert '| +0.0000 (+0.0000 to +0.0000), not distinguishable |' in text
  assert '- not distinguishable from random, so neither a difference' in text
  assert 'Preliminary' not in text
  assert 'INCONCLUSIVE' not in text


def test_few_seeds_are_preliminary_and_one_gives_no_verdict():
  text = report.markdown(make(all_runs(4)))
  assert '- worse than plain: td by 0.2075 nats' in text
  assert 'Preliminary: 4 seeds.' in text
  found = make(all_runs(1))
  td = found['protocols']['equal_steps']['td']
  assert td['against']['plain']['low'] is None
  assert td['against']['plain']['verdict'] == ''
  assert td['loss']['deviation'] is None
  text = report.markdown(found)
  assert (
    '- no verdict against plain, since one seed has no interval: td' in text
  )
  assert 'Preliminary: 1 seed.' in text


def test_plain_on_the_plateau_is_inconclusive():
  found = make(all_runs(5), unigram=3.9)
  assert not found['conclusive']
  td = found['protocols']['equal_steps']['td']
  assert td['against']['plain']['verdict'] == ''
  text = report.markdown(found)
  assert text.splitlines()[2].startswith('**INCONCLUSIVE: plain BERT ends at')
  assert 'nothing follows from these differences' in text
  assert 'worse' not in text


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


def test_arms_of_another_geometry_are_judged_by_scores_only():
  found = make(scored(5), td='drop.policy=narrow')
  assert found['arms']['td']['own_geometry']
  assert not found['arms']['random']['own_geometry']
  td = found['protocols']['equal_time']['td']
  assert td['against']['plain']['verdict'] == 'see scores'
  assert td['scores']['blimp']['against']['plain']['verdict'] == 'better'
  assert found['protocols']['time_to_target']['td'] is None
  assert 'No figures: td.' in report.markdown(found)
  assert 'td' not in {x['arm'] for x in found['front']}
  text = report.markdown(found)
  assert 'since one of the two trains something else than plain BERT' in text
  assert '- better than plain: td' not in text
  assert '- blimp: better than plain: td' in text
  staged = "drop.policy=random 'drop.stages=50% policy=narrow; rest'"
  assert make([], td=staged)['arms']['td']['own_geometry']


def test_a_policys_own_loss_is_a_column():
  text = report.markdown(make(all_runs(2)))
  assert 'own evaluation' not in text
  runs = [x | {'own_loss': 2.5} if x['arm'] == 'td' else x for x in all_runs(2)]
  text = report.markdown(make(runs))
  assert "| loss of the policy's own evaluation |" in text
  assert '| 2.5000 ± 0.0000 |' in text


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
  row = '| blimp (accuracy) | td | 65.08 ± 0.08 | 5 | +5.08 (+4.98 to +5.18), '
  assert f'{row}better |' in text
  assert '- blimp: better than plain: td by 5.08 points' in text
  assert '- rte: not distinguishable from plain, so neither' in text
  # td to three controls, two of these to plain, on two tasks.
  assert 'of 10 differences that are none, 0.5 would on average' in text
  assert '- rte: not distinguishable from random, so neither' in text
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
  assert '| rte (accuracy) | td | 50.00 | 1 | +0.00 | +0.00 | +0.00 |' in text
  assert '- rte: no verdict against plain, since one seed has no' in text
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
  runs = scored(2)
  del runs[3]['curve'][1]  # its loss was not finite there
  runs[3]['scores']['rte']['score'] = None
  drawn = plots.draw(tmp_path, make(runs))
  assert sorted(drawn) == sorted(x.stem for x in tmp_path.iterdir())
  names = sorted(x.name for x in tmp_path.iterdir())
  assert names == [
    'loss_flops.png',
    'loss_steps.png',
    'loss_time.png',
    'pareto.png',
    'scores.png',
  ]


def test_names_of_many_arms_stand_beside_their_curves(tmp_path, monkeypatch):
  reason = 'needs the extra `plot`'
  pyplot = pytest.importorskip('matplotlib.pyplot', reason=reason)
  twins = [f'layers_{i}_to_4_keep_50' for i in range(16)]
  runs = all_runs(1)
  for twin in twins:
    runs += [run(twin, 100, 0, EQUAL), run(twin, 200, 0, LATER)]
  with monkeypatch.context() as kept:
    kept.setattr(pyplot, 'close', lambda figure: None)
    plots.draw(tmp_path, make(runs, twins=twins))
  figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
  assert len(figures) == 4
  for figure in figures:
    (axes,) = figure.axes
    names = axes.get_legend().get_window_extent()
    assert not names.overlaps(axes.get_window_extent())
    for corner in names.corners():
      assert figure.bbox.contains(*corner)
    pyplot.close(figure)


@pytest.mark.filterwarnings('error')
def test_protocols_without_a_finished_run_have_no_plot(tmp_path):
  pytest.importorskip('matplotlib', reason='needs the extra `plot`')
  drawn = plots.draw(tmp_path, make([run('td', 100, 0, EQUAL)]))
  assert drawn == ['loss_steps', 'pareto']
