"""The command on a tiny comparison: to its end, interrupted, its mistakes."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import support

from td_flax.compare import scores, settings

ROOT = pathlib.Path(__file__).parents[2]
# Three arms: plain, random (the reference is its own control) and shallow.
TINY = """
from td_flax.compare import settings

def get_config():
  config = settings.default()
  config.name = 'tiny'
  base = config.base
  base.data.files = '{folder}/corpus.txt'
  base.data.eval_fraction = 0.1
  base.data.sequence_length = 16
  base.data.vocab_size = 300
  base.model.num_layers = 3
  base.model.hidden_dim = 16
  base.model.num_heads = 2
  base.model.mlp_dim = 32
  base.model.max_positions = 16
  base.model.dropout = 0.0
  base.model.attention_dropout = 0.0
  base.drop.first_layer = 1
  base.drop.last_layer = 1
  base.optimizer.learning_rate = 1e-2
  base.train.num_steps = 12
  base.train.batch_size = 8
  base.eval.every = 4
  base.eval.num_rows = 16
  base.checkpoint.every = 4
  base.log.every = 4
  base.log.tensorboard = False
  config.arms.random = 'drop.policy=random'
  config.reference = 'random'
  config.seeds = 2
  config.protocols = 'equal_steps'
  config.timing_rounds = 3
  return config
"""


def command(*arguments):
  return [sys.executable, '-m', 'td_flax.tools.compare', *map(str, arguments)]


def environment():
  return {key: x for key, x in os.environ.items() if key != 'XLA_FLAGS'}


def compare(*arguments):
  return subprocess.run(
    command(*arguments),
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=environment(),
    timeout=400,
    check=False,
  )


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  folder = tmp_path_factory.mktemp('compare')
  texts = [f'some {i} words of text number {i * i}' for i in range(400)]
  (folder / 'corpus.txt').write_text('\n\n'.join(texts))
  (folder / 'tiny.py').write_text(TINY.format(folder=folder))
  return folder


@pytest.fixture(scope='module')
def done(tiny):
  path = tiny / 'done'
  ran = compare(f'--config={tiny}/tiny.py', f'--workdir={path}', '--jobs=1')
  assert ran.returncode == 0, ran.stderr
  return path, ran


def test_a_dry_run_shows_the_plan_and_writes_nothing(tiny):
  path = tiny / 'dry'
  ran = compare(
    f'--config={tiny}/tiny.py',
    f'--workdir={path}',
    '--dry-run',
    '--config.protocols=equal_steps,equal_time',
  )
  assert ran.returncode == 0, ran.stderr
  lines = ran.stdout.splitlines()
  assert lines[0] == 'tiny: 10 runs, 0 done'
  assert any(x.split()[:3] == ['random', '12', '0'] for x in lines)
  assert re.fullmatch(
    r'expected: [\d.]+ hours of training steps with --jobs=1', lines[-2]
  )
  assert lines[-1].startswith('a guess: arms without a time go by')
  assert not path.exists()


def test_every_arm_is_trained_with_every_seed(done):
  path, ran = done
  runs = [x for x in ran.stderr.splitlines() if x.startswith('begins: ')]
  assert runs == [
    f'begins: {arm}/12/seed{seed}'
    for seed in (0, 1)
    for arm in ('plain', 'random', 'shallow')
  ]
  found = json.loads((path / 'report.json').read_text())
  assert found['finished_runs'] == found['planned_runs'] == 6
  assert found['protocols']['equal_steps']['random']['seeds'] == [0, 1]
  assert found['command'].startswith('python -m td_flax.tools.compare --config')
  assert (path / 'report.md').read_text().startswith(ran.stdout.strip())
  assert [step for step, _ in found['runs'][0]['curve']] == [0, 4, 8, 12]
  kept = list((path / 'runs' / 'plain' / '12' / 'seed0').glob('checkpoints/*'))
  assert [x.name for x in kept if x.name.isdigit()] == ['12']
  assert 'training: 100%' in (path / 'runs/plain/12/seed0.log').read_text()


def test_a_finished_comparison_is_not_repeated(tiny, done):
  path, ran = done
  arguments = f'--config={tiny}/tiny.py', f'--workdir={path}'
  again = compare(*arguments)
  assert again.returncode == 0, again.stderr
  assert again.stdout == ran.stdout
  assert 'begins' not in again.stderr
  shown = compare(*arguments, '--dry-run')
  assert shown.stdout.startswith('tiny: 6 runs, 6 done\n')
  assert 'expected: 0.00 hours' in shown.stdout


def test_seeds_of_several_machines_come_together(tiny, done):
  path, ran = done
  one, other = tiny / 'one', tiny / 'other'
  for folder in one, other:
    folder.mkdir()
    shutil.copytree(path / 'data', folder / 'data')
    report = json.loads((path / 'report.json').read_text())
    (folder / 'timing.json').write_text(json.dumps(report['timing']))
  flags = f'--config={tiny}/tiny.py', f'--workdir={other}'
  alone = compare(*flags, '--config.first_seed=1', '--config.seeds=1')
  assert alone.returncode == 0, alone.stderr
  shutil.copytree(path / 'runs', one / 'runs')
  for run in sorted((one / 'runs').glob('*/*/seed1')):
    shutil.rmtree(run)
    shutil.copytree(other / run.relative_to(one), run)
  both = compare(f'--config={tiny}/tiny.py', f'--workdir={one}')
  assert both.returncode == 0, both.stderr
  assert 'begins' not in both.stderr
  assert both.stdout == ran.stdout


def test_another_config_is_refused_there(tiny, done):
  path, _ = done
  ran = compare(
    f'--config={tiny}/tiny.py',
    f'--workdir={path}',
    '--config.base.optimizer.learning_rate=0.1',
  )
  assert ran.returncode == 1
  assert ran.stderr.count('\n') == 1
  assert 'had another config when it was timed' in ran.stderr


@pytest.mark.parametrize('flags', [[], ['--dry-run']])
def test_step_times_of_another_machine_are_refused(tiny, done, flags):
  path, _ = done
  moved = tiny / f'moved{len(flags)}'
  moved.mkdir()
  shutil.copytree(path / 'data', moved / 'data')
  times = json.loads((path / 'timing.json').read_text())
  (moved / 'timing.json').write_text(json.dumps(times | {'machine': 'another'}))
  ran = compare(f'--config={tiny}/tiny.py', f'--workdir={moved}', *flags)
  assert ran.returncode == 1
  assert "timed with machine='another', and here it is " in ran.stderr
  assert not (moved / 'runs').exists()


def test_an_interrupted_comparison_goes_on_to_the_same_report(tiny, done):
  path, _ = done
  cut = tiny / 'cut'
  cut.mkdir()
  shutil.copytree(path / 'data', cut / 'data')
  shutil.copy(path / 'timing.json', cut)
  arguments = [f'--config={tiny}/tiny.py', f'--workdir={cut}', '--jobs=1']
  arguments.append('--config.seeds=1')
  running = subprocess.Popen(
    command(*arguments),
    cwd=ROOT,
    env=environment(),
    stderr=subprocess.PIPE,
    text=True,
  )
  metrics = cut / 'runs/random/12/seed0/metrics.jsonl'
  support.wait_until(lambda: metrics.exists() and metrics.read_text(), running)
  running.send_signal(signal.SIGTERM)
  _, said = running.communicate(timeout=100)
  assert running.returncode == 75
  # The signal may come too late for this run, but not for the next one.
  assert (
    'of 3 runs done; run the same command again to continue'
    in said.splitlines()[-1]
  )
  assert not (cut / 'runs/shallow').exists()

  resumed = compare(*arguments)
  assert resumed.returncode == 0, resumed.stderr
  assert 'begins: plain' not in resumed.stderr
  runs = {}
  for folder in (path, cut):
    found = json.loads((folder / 'report.json').read_text())
    runs[folder] = [
      {key: value for key, value in x.items() if key != 'workdir'}
      for x in found['runs']
      if x['seed'] == 0
    ]
  assert runs[cut] == runs[path]


def test_final_checkpoints_are_scored(tiny, done):
  path, _ = done
  scored = tiny / 'scored'
  shutil.copytree(path, scored)
  shutil.rmtree(scored / 'runs/random/12/seed0')
  (tiny / 'RTE').mkdir()
  pairs = [f'{i}\tsome {i} words\ttext number {i}' for i in range(8)]
  for split in ('train', 'dev'):
    lines = ['index\tsentence1\tsentence2\tlabel']
    lines += [f'{pair}\tentailment' for pair in pairs[:4]]
    lines += [f'{pair}\tnot_entailment' for pair in pairs[4:]]
    (tiny / f'RTE/{split}.tsv').write_text('\n'.join(lines))
  pair = {'sentence_good': 'some words', 'sentence_bad': 'of number'}
  kind = {'UID': 'order', 'linguistics_term': 'words', 'field': 'syntax'}
  (tiny / 'order.jsonl').write_text(json.dumps(pair | kind))
  names = 'blimp', 'rte'
  wanted = settings.Scores(names, str(tiny), str(tiny), 0, 1, 3.0, 5e-5)
  there = {
    name: {
      'made_with': scores.made_with(name, wanted),
      'metric': 'accuracy',
      'score': 0.125,
    }
    for name in names
  }
  finished = scored / 'runs/shallow/12/seed0/scores'
  finished.mkdir()
  (finished / 'scores.json').write_text(json.dumps(there))
  arguments = [f'--config={tiny}/tiny.py', f'--workdir={scored}', '--jobs=1']
  arguments += ['--config.seeds=1', '--config.scores=blimp,rte']
  arguments += [f'--config.{x}_dir={tiny}' for x in ('glue', 'blimp')]
  ran = compare(*arguments)
  assert ran.returncode == 0, ran.stderr
  begun = [x for x in ran.stderr.splitlines() if x.endswith('/12/seed0')]
  assert begun == [
    'scoring: plain/12/seed0',
    'begins: random/12/seed0',
  ]
  found = json.loads((scored / 'report.json').read_text())
  *runs, shallow = found['runs']
  assert {x['score'] for x in shallow['scores'].values()} == {0.125}
  for run in runs:
    assert list(run['scores']) == ['blimp', 'rte']
    assert run['scores']['blimp']['score'] in (0, 1)
    workdir = pathlib.Path(run['workdir'])
    tuned = json.loads(
      (workdir / 'scores/rte/runs/seed0/config.json').read_text()
    )
    source = tuned['config']['train.init_from']
    assert source == str(workdir / 'checkpoints/12')
  assert not list(scored.glob('runs/*/*/*/scores/**/checkpoints'))
  assert '| rte (accuracy) | random |' in ran.stdout
  shown = compare(*arguments, '--dry-run').stdout.splitlines()
  assert shown[0] == 'tiny: 3 runs, 3 done'
  assert shown[-1].startswith('scores: blimp, rte; 3 of 3 runs have them; the')


def test_a_run_that_fails_is_named_and_the_others_go_on(tiny, done):
  path, _ = done
  broken = tiny / 'broken'
  shutil.copytree(path, broken)
  folder = broken / 'runs/plain/12/seed1'
  shutil.rmtree(folder)
  folder.write_text('in the way')
  shutil.rmtree(broken / 'runs/shallow/12/seed1')
  ran = compare(f'--config={tiny}/tiny.py', f'--workdir={broken}')
  assert ran.returncode == 1
  lines = ran.stderr.splitlines()
  assert any(x.startswith('failed: plain/12/seed1: ') for x in lines)
  assert any('done: shallow/12/seed1, held-out loss' in x for x in lines)
  assert lines[-1].startswith('error: 1 of 6 runs failed: plain/12/seed1')
  assert 'Rests on 5 of 6 planned runs' in ran.stdout


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ([], '--config: missing; for example --config=configs/compare/smoke.py'),
    (['--config=configs/compare/smoke.py'], '--workdir: missing'),
    (
      ['--config=configs/compare/smoke.py', '--workdir=gs://b/x'],
      '--workdir=gs://b/x: must be a local folder',
    ),
    (
      [
        '--config=configs/compare/smoke.py',
        '--workdir=x',
        '--config.base.data.dir=gs://b/x',
      ],
      'base.data.dir=gs://b/x: must be a local folder',
    ),
    (
      ['--config=configs/quickstart.py', '--workdir=x'],
      'base: missing; start from td_flax.compare.settings.default()',
    ),
    (
      ['--config=configs/compare/smoke.py', '--config.base.drop.kep=1'],
      'base.drop.kep: no such key; did you mean base.drop.keep?',
    ),
    (
      ['--config=configs/compare/smoke.py', '--config.seeds=x'],
      "seeds='x': must be a whole number",
    ),
    (
      ['--config=configs/compare/smoke.py', '--config.base.train.num_steps=x'],
      "base.train.num_steps='x': must be a whole number",
    ),
    (['--config=configs/compare/smoke.py', '--config.arms.x=y'], 'in the file'),
    (
      ['--config=configs/compare/mini.py:rival', '--workdir=x'],
      'mini.py:rival: must be one of verdict, longer, rivals, ',
    ),
    (
      ['--config=configs/compare/mini.py:verdict', '--workdir=x'],
      "base.data.files='': must be a comma list",
    ),
    (
      [
        '--config=configs/compare/smoke.py',
        '--workdir=x',
        '--config.scores=cola',
        '--config.glue_dir=nowhere',
      ],
      "glue_dir='nowhere': holds no TASK/train.tsv of GLUE",
    ),
    (
      ['--config=configs/compare/smoke.py', '--workdir=x', '--jobs=0'],
      'flag --jobs=0',
    ),
  ],
)
def test_mistakes_are_one_line(arguments, said):
  ran = compare(*arguments)
  assert ran.returncode == 2, ran.stderr
  (line,) = ran.stderr.splitlines()
  assert said in line
