"""Two processes that train together, as people start them."""

import json
import os
import sys

import pytest
import small_run
import support

NUM_STEPS = 20


def options(folder, workdir, **overrides):
  values = {
    'train.num_steps': NUM_STEPS,
    'eval.every': NUM_STEPS,
    'checkpoint.every': NUM_STEPS,
    'log.every': 1,
  }
  return small_run.on_corpus(folder, workdir, values, overrides)


def training(folder, workdir, **overrides):
  given = options(folder, workdir, **overrides)
  return [sys.executable, '-m', 'td_flax.main', *given]


def prepare(folder, workdir, **overrides):
  given = options(folder, workdir, **overrides)
  done = support.run([sys.executable, '-m', 'td_flax.tools.prepare', *given])
  assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A corpus, and its rows packed."""
  path = tmp_path_factory.mktemp('several')
  small_run.write_corpus(path / 'corpus.txt')
  prepare(path, path / 'run')
  return path


@pytest.fixture
def run_two(run_together):
  """Two processes of four devices each."""
  flag = '--xla_force_host_platform_device_count=4'
  return lambda *commands: run_together(
    *commands, env=os.environ | {'XLA_FLAGS': flag}
  )


def test_two_processes_train_what_one_does(folder, run_two):
  done = support.run(training(folder, folder / 'one'))
  assert done.returncode == 0, done.stderr
  for engine in ('pmap', 'sharded'):
    workdir = folder / f'two_{engine}'
    command = training(folder, workdir, parallel__engine=engine)
    for code, _, err in run_two(command, command):
      assert code == 0, err
    result = json.loads((workdir / 'summary.json').read_text())
    assert (result['devices'], result['processes']) == (8, 2)
    ours, reference = support.metrics(workdir), support.metrics(folder / 'one')
    for row, expected in zip(ours, reference, strict=True):
      assert row['step'] == expected['step']
      for name in ('train/loss', 'eval/loss'):
        if name in expected:
          assert row[name] == pytest.approx(expected[name], abs=1e-5)


def test_two_processes_never_prepare_data(folder, run_two):
  workdir = folder / 'unprepared'
  command = training(folder, workdir, data__dir=folder / 'nothing')
  command += ['--noconfig.data.lowercase']
  for code, _, err in run_two(command, command):
    assert code == 1
    assert 'python -m td_flax.tools.prepare --config=' in err
    # What is that of one process is left out.
    assert f'--noconfig.data.lowercase --workdir={workdir}\n' in err
  assert not (folder / 'nothing').exists()


def test_two_processes_with_different_data_do_not_train(tmp_path, run_two):
  corpus, folders = tmp_path / 'corpus.txt', (tmp_path / 'a', tmp_path / 'b')
  small_run.write_corpus(corpus)
  for path in folders:
    prepare(tmp_path, tmp_path / 'run', data__dir=path)
    corpus.write_text(corpus.read_text()[::-1])  # of the same size
  commands = [
    training(tmp_path, tmp_path / 'run', data__dir=path) for path in folders
  ]
  for index, (code, _, err) in enumerate(run_two(*commands)):
    assert code == 1
    problem = f'process {1 - index} has another dataset or none'
    assert f'error: {folders[index]}: {problem}' in err.splitlines()[-1]
  assert not (tmp_path / 'run').exists()


def test_two_processes_with_different_configs_do_not_train(folder, run_two):
  workdir = folder / 'configs'
  commands = [
    training(folder, workdir, optimizer__weight_decay=decay)
    for decay in (0.01, 0.02)
  ]
  for index, (code, _, err) in enumerate(run_two(*commands)):
    assert code == 1
    problem = f'process {1 - index} differs in the config'
    assert f'error: {workdir}: {problem}' in err.splitlines()[-1]
  assert not workdir.exists()


def test_two_processes_with_different_weights_do_not_train(
  folder, run_two, tmp_path
):
  """The same words name other weights on two machines."""
  commands = []
  for seed in (0, 1):
    home = tmp_path / str(seed)
    done = support.run(training(folder, home / 'run', train__seed=seed))
    assert done.returncode == 0, done.stderr
    command = training(folder, folder / 'weights', train__init_from='run')
    command[3] = f'--config={support.ROOT}/configs/quickstart.py'
    commands.append(
      ['env', f'--chdir={home}', f'PYTHONPATH={support.ROOT}', *command]
    )
  for index, (code, _, err) in enumerate(run_two(*commands)):
    assert code == 1
    problem = f'process {1 - index} differs in the weights to start from'
    assert f'error: {folder / "weights"}: {problem}' in err.splitlines()[-1]
  assert not (folder / 'weights').exists()
