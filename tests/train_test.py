"""The command as people run it: fresh processes, signals, resumes."""

import json
import pathlib
import signal
import sys

import numpy as np
import pytest
import small_run
import support
from flax import nnx

from td_flax import errors, saved, train
from td_flax.data import prepare
from td_flax.model import bert
from td_flax.workdir import Workdir

NUM_STEPS = 300
# Differs between equal runs: what a clock measured.
CLOCKED = ('throughput/',)
# A training that gets a signal in the step behind a checkpoint, once that is
# whole.
_SIGNALLED = """
import itertools, os, runpy, signal, sys, time
from td_flax import preemption

number, last, saved = (sys.argv.pop(1) for _ in range(3))
requested, steps = preemption.StopRequest.requested, itertools.count(1)

def signalled(self):
  if next(steps) == int(last):
    while not os.path.isdir(saved):
      time.sleep(0.01)
    signal.raise_signal(int(number))
  return requested(self)

preemption.StopRequest.requested = signalled
runpy.run_module('td_flax.main', run_name='__main__', alter_sys=True)
"""


def options(workspace, workdir, **overrides):
  values = {
    'train.num_steps': NUM_STEPS,
    'eval.every': 40,
    'checkpoint.every': 20,
    'log.every': 7,
  }
  return small_run.on_corpus(workspace, workdir, values, overrides)


def arguments(workspace, workdir, **overrides):
  given = options(workspace, workdir, **overrides)
  return [sys.executable, '-m', 'td_flax.main', *given]


def run(command):
  done = support.run(command)
  return done.returncode, done.stdout, done.stderr


def run_signalled(number, last, workspace, workdir, **overrides):
  """Signals the run in step `last`, behind a checkpoint of 20 steps."""
  saved = workdir / 'checkpoints' / str(last // 20 * 20)
  told = map(str, (int(number), last, saved))
  command = [sys.executable, '-c', _SIGNALLED, *told]
  return run([*command, *options(workspace, workdir, **overrides)])


def rows(workdir, *, clocked=False):
  parsed = support.metrics(workdir)
  if clocked:
    return parsed
  return [
    {k: v for k, v in row.items() if not k.startswith(CLOCKED)}
    for row in parsed
  ]


def summary(workdir):
  return json.loads((workdir / 'summary.json').read_text())


@pytest.fixture(scope='module')
def workspace(tmp_path_factory):
  folder = tmp_path_factory.mktemp('training')
  small_run.write_corpus(folder / 'corpus.txt')
  return folder


@pytest.fixture(scope='module')
def whole(workspace):
  """An uninterrupted run."""
  workdir = workspace / 'whole'
  code, out, err = run(arguments(workspace, workdir))
  assert code == 0, err
  return workdir, out


@pytest.mark.smoke
def test_a_run_leaves_what_others_rely_on(whole, workspace):
  workdir, out = whole
  assert json.loads((workdir / 'config.json').read_text())
  assert (workdir / 'tokenizer' / 'tokenizer.model').is_file()
  assert list((workdir / 'tensorboard').glob('events*'))
  assert (workspace / 'packed' / 'manifest.json').is_file()
  steps = [row['step'] for row in rows(workdir)]
  assert steps == sorted(set(steps))
  assert steps[0] == 0
  assert steps[-1] == NUM_STEPS
  kept = {path.name for path in (workdir / 'checkpoints').iterdir()}
  assert {'260', '280', '300'} <= kept
  result = summary(workdir)
  assert result['model_flops_per_second'] > 0
  assert 'mfu' not in result  # nobody knows a CPU's peak
  assert min(result['compile_seconds'], result['eval_compile_seconds']) > 0
  assert result['step'] == NUM_STEPS
  assert (result['devices'], result['processes']) == (8, 1)
  assert result['resumed_from'] is None
  assert result['layer_tokens_kept'] == pytest.approx(5 / 6)
  # Forward, with D=16, F=32 and 340 ids: 196,608 for a layer of 32 queries and
  # keys, 114,688 with 16 queries, 53,248 with the 4 predicted ones of the last
  # layer, 45,568 for the head. A backward pass costs twice as much.
  dropped, plain = (
    sum((196_608, middle, 53_248, 45_568)) for middle in (114_688, 196_608)
  )
  assert (dropped, plain) == (410_112, 492_032)
  assert result['flops_per_row'] == 3 * dropped
  assert result['flops_ratio'] == pytest.approx(dropped / plain)
  assert len(result['params_sha256']) == 64
  assert result['last_eval_loss'] < result['first_eval_loss'] - 0.2
  for words in (
    'held-out loss',
    'tokens/s',
    'layer-tokens skipped',
    'most important',
    'least important',
    str(workdir),
    'what next',
  ):
    assert words in out


def test_a_finished_run_keeps_what_was_measured(whole, workspace):
  workdir, first = whole
  before = summary(workdir)
  code, out, err = run(arguments(workspace, workdir))
  assert code == 0, err
  assert summary(workdir) == before
  assert out == first


def test_every_measurement_is_in_its_row(whole):
  workdir, _ = whole
  by_step = {row['step']: row for row in rows(workdir, clocked=True)}
  assert set(by_step[0]) == {'step', 'eval/loss', 'eval/accuracy'}
  assert {
    'train/loss', 'train/accuracy', 'train/grad_norm', 'train/learning_rate',
    'train/skipped_updates', 'throughput/tokens_per_second',
    'throughput/model_flops_per_second', 'throughput/data_wait_share',
    'throughput/compile_seconds', 'throughput/eval_compile_seconds',
    'drop/layer_tokens_kept', 'importance/q50', 'importance/updated',
  } <= set(by_step[7])  # fmt: skip
  assert set(by_step[40]) == {'step', 'eval/loss', 'eval/accuracy'}
  assert {'train/loss', 'eval/loss'} <= set(by_step[NUM_STEPS])
  assert summary(workdir)['last_eval_loss'] == by_step[NUM_STEPS]['eval/loss']


@pytest.mark.parametrize(
  ('number', 'code', 'saved'),
  [
    (signal.SIGTERM, 75, 65),
    (signal.SIGINT, 75, 65),
    (signal.SIGKILL, -signal.SIGKILL, 60),
  ],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
  whole, workspace, number, code, saved
):
  expected, _ = whole
  workdir = workspace / number.name
  manifest = json.loads((workspace / 'packed/manifest.json').read_text())
  epoch = manifest['splits']['train']['rows'] / 16  # steps
  assert epoch < 60, 'the interruption must fall behind the first epoch'
  interrupted, _, err = run_signalled(number, 65, workspace, workdir)
  assert interrupted == code, err
  assert not (workdir / 'summary.json').exists()
  if code == 75:
    assert 'run the same command again to continue' in err.splitlines()[-1]
  code, _, err = run(arguments(workspace, workdir))
  assert code == 0, err
  assert rows(workdir) == rows(expected)
  result, reference = summary(workdir), summary(expected)
  assert result['resumed_from'] == saved
  assert result['params_sha256'] == reference['params_sha256']
  assert result['first_eval_loss'] == reference['first_eval_loss']


def test_a_run_in_stages_resumes_in_the_middle_of_one(workspace):
  stages = '20% policy=none; 60% keep=0.75 mask_rate=0.3; rest policy=none'
  overrides = {
    'train__num_steps': 100,
    'log__every': 10,
    'drop__stages': stages,
    'drop__consistency_every': 7,
  }
  whole, cut = workspace / 'staged', workspace / 'staged_cut'
  code, _, err = run(arguments(workspace, whole, **overrides))
  assert code == 0, err
  # P queries in the last layer, one more where the first token is compared.
  for queries in (4, 9, 10):
    assert err.count(f'attention of {queries} queries and 32 keys') == 1
  logged = {x['step']: x for x in rows(whole) if 'drop/stage' in x}
  found = [x['drop/stage'] for x in logged.values()]
  assert found == [0] * 2 + [1] * 6 + [2] * 2
  kept = [round(x['drop/layer_tokens_kept'], 3) for x in logged.values()]
  assert kept == [1.0] * 2 + [0.917] * 6 + [1.0] * 2
  # The table learns in every stage.
  assert logged[10]['importance/updated'] < logged[20]['importance/updated']
  kill_and_resume(whole, 45, workspace, cut, **overrides)
  kept = summary(whole)['layer_tokens_kept']
  assert kept == pytest.approx(0.4 + 0.6 * 11 / 12)


def kill_and_resume(whole, last, workspace, cut, **overrides):
  """A run that is killed in step `last` ends in the bits of another."""
  number = signal.SIGKILL
  code, _, err = run_signalled(number, last, workspace, cut, **overrides)
  assert code == -number, err
  assert not (cut / 'summary.json').exists()
  code, _, err = run(arguments(workspace, cut, **overrides))
  assert code == 0, err
  assert rows(cut) == rows(whole)
  result, reference = summary(cut), summary(whole)
  assert result['resumed_from'] == last // 20 * 20
  assert result['params_sha256'] == reference['params_sha256']


def test_a_sharded_run_resumes_to_the_same_bits(workspace):
  overrides = {'train__num_steps': 50, 'parallel__engine': 'sharded'}
  whole, cut = workspace / 'sharded', workspace / 'sharded_cut'
  code, _, err = run(arguments(workspace, whole, **overrides))
  assert code == 0, err
  kill_and_resume(whole, 30, workspace, cut, **overrides)


def test_a_run_of_other_geometries_says_so_and_tells_their_loss(workspace):
  workdir = workspace / 'other_geometries'
  code, out, err = run(
    arguments(
      workspace,
      workdir,
      drop__policy='narrow',
      drop__stages='50%; rest policy=mask_later',
      train__num_steps=4,
    )
  )
  assert code == 0, err
  start, _ = err.split('training: ', 1)
  for policy in ('narrow', 'mask_later'):
    assert f'drop.policy={policy}: layers ' in start
  assert 'as trained' in out
  result, (first, *_, last) = summary(workdir), rows(workdir)
  for name in ('loss', 'own_loss'):
    assert result[f'first_eval_{name}'] == first[f'eval/{name}']
    assert result[f'last_eval_{name}'] == last[f'eval/{name}']
  assert result['last_eval_own_loss'] != result['last_eval_loss']


def test_a_workdir_of_another_run_is_refused_and_left_alone(whole, workspace):
  workdir, _ = whole
  before = {
    path: path.stat().st_mtime_ns
    for path in sorted(workdir.rglob('*'))
    if path.is_file()
  }
  command = arguments(
    workspace, workdir, drop__keep=0.75, optimizer__learning_rate=0.1
  )
  code, _, err = run(command)
  assert code == 1
  assert 'drop.keep=0.5 there, 0.75 here' in err
  assert 'optimizer.learning_rate=0.002 there, 0.1 here' in err
  assert 'Traceback' not in err
  after = {
    path: path.stat().st_mtime_ns
    for path in sorted(workdir.rglob('*'))
    if path.is_file()
  }
  assert after == before


def test_an_impossible_config_writes_nothing(workspace, tmp_path):
  workdir = tmp_path / 'never'
  code, _, err = run(arguments(workspace, workdir, drop__keep=5.0))
  assert code == 2
  assert err.startswith('error: drop.keep=5.0: must be at least P+2=6')
  assert not workdir.exists()
  code, _, err = run(arguments(workspace, workdir, train__batch_size=12))
  assert code == 2
  assert 'train.batch_size=12: must be divisible by 8 devices' in err
  assert not workdir.exists()


def test_a_run_of_non_finite_losses_stops_with_finite_checkpoints(
  workspace, tmp_path
):
  workdir = tmp_path / 'broken'
  code, _, err = run(
    arguments(
      workspace,
      workdir,
      optimizer__learning_rate=1e37,
      optimizer__warmup=0.0,
      optimizer__clip_norm=0.0,
      train__max_nonfinite=5,
      checkpoint__every=1,
    )
  )
  assert code == 3
  assert 'updates in a row had a non-finite loss' in err.splitlines()[-1]
  assert 'Traceback' not in err
  kept = list((workdir / 'checkpoints').iterdir())
  assert len(kept) > 1
  for path in kept:
    arrays, _ = saved.read(path)
    for name, array in arrays.items():
      assert np.isfinite(np.asarray(array, np.float64)).all(), (path, name)


def test_training_can_start_from_another_runs_parameters(whole, workspace):
  source, _ = whole
  workdir = workspace / 'continued'
  short = {'train__num_steps': 10, 'drop__policy': 'none'}
  for wrong, code, message in (
    (workspace / 'nowhere', 2, 'does not exist'),
    (workspace / 'packed', 1, 'neither a workdir with checkpoints'),
  ):
    refused, _, err = run(
      arguments(workspace, workdir, train__init_from=wrong, **short)
    )
    assert refused == code
    assert message in err.splitlines()[-1]
    assert not (workdir / 'config.json').exists()
  code, _, err = run(
    arguments(
      workspace,
      workdir,
      train__init_from=source,
      train__profile_steps='3:5',
      **short,
    )
  )
  assert code == 0, err
  expected = summary(source)['last_eval_loss']
  assert summary(workdir)['first_eval_loss'] == expected
  assert summary(workdir)['layer_tokens_kept'] == 1
  assert list((workdir / 'profile').rglob('*.pb'))


@pytest.fixture
def continuing(workspace, tmp_path, make_config, save_run):
  """A config that starts from a run, its packed dataset, and that run."""
  config = make_config(
    data__files=str(workspace / 'corpus.txt'),
    data__dir=str(tmp_path / 'packed'),
    data__vocab_size=340,
    train__init_from=str(tmp_path / 'source'),
  )
  packed = prepare.prepare(config.data, tmp_path / 'packed', num_workers=1)
  size = packed.tokenizer.vocab_size
  params = nnx.split(bert.Bert(config.model, size, nnx.Rngs(0)))[1]
  source = save_run(tmp_path / 'source', config, packed.tokenizer, params)
  return config, packed, source


def test_damaged_weights_to_start_from_leave_no_workdir(continuing, tmp_path):
  config, _, source = continuing
  state = source.checkpoints / '10' / 'state'
  for file in filter(pathlib.Path.is_file, state.rglob('*')):
    file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(errors.CheckpointError, match='checkpoints/10'):
    train.train(config, tmp_path / 'continued')
  assert not (tmp_path / 'continued').exists()


def test_weights_are_checked_until_there_is_a_checkpoint(continuing, tmp_path):
  config, packed, source = continuing
  prints = {
    'tokenizer': packed.tokenizer.fingerprint, 'dataset': packed.fingerprint
  }  # fmt: skip
  # Killed before its first checkpoint.
  Workdir(tmp_path / 'continued').claim(config, prints, packed.tokenizer)
  content = json.loads(source.config_json.read_text())
  content['config']['model.norm_eps'] = 1e-3
  source.config_json.write_text(json.dumps(content))
  with pytest.raises(errors.CheckpointError, match='another model: model'):
    train.train(config, tmp_path / 'continued')


def test_weights_to_start_from_are_looked_for_before_the_text_is_packed(
  workspace, tmp_path, make_config
):
  config = make_config(
    data__files=str(workspace / 'corpus.txt'),
    train__init_from=str(tmp_path / 'nowhere'),
  )
  with pytest.raises(errors.ConfigError, match='does not exist'):
    train.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
