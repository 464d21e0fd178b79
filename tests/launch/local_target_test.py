"""Several processes on this machine, through the verbs, against one process."""

import filecmp
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import small_run
import support

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
  shutil.which('tmux') is None, reason='needs tmux'
)
NUM_STEPS = 40
# Two train steps of a run write what each device saw of it; gs:// is a folder.
# A step waits as long as the test asks for it, so that no kill is too late.
_WITNESS = """
import os, sys, time
if 'td_flax.main' in sys.orig_argv:
  import fake_bucket
  import jax, numpy as np
  from td_flax import mirror, step

  here = os.path.dirname(__file__)
  os.environ |= {'FAKE_GS': f'{here}/gs', 'XDG_CACHE_HOME': f'{here}/cache'}
  mirror._SECONDS_BETWEEN_WRITES = 0.1
  drawn = step.Steps._drawn

  def write(number, rows, ids, *masked):
    while number == 15 and os.path.exists(f'{here}/hold'):
      time.sleep(0.01)
    if number % 20 == 5:
      path = os.path.join(os.environ['JAX_WITNESS'], f'{number}-{rows[0]}')
      np.savez(path, rows, ids, *masked)

  def witnessed(self, state, ids, rows):
    keys, batch, router = drawn(self, state, ids, rows)
    jax.debug.callback(
      write, state.step, rows, ids, batch.ids, batch.labels, batch.is_predicted
    )
    return keys, batch, router

  step.Steps._drawn = witnessed
"""


def write_corpus(path):
  words = [f'{a}{b}' for a in 'bcdfghklmnprst' for b in 'aeiou']
  texts = [
    ' '.join(words[(i * i + j * 7) % len(words)] for j in range(20 + i % 40))
    for i in range(160)
  ]
  path.write_text('\n\n'.join(texts) + '\n')


@pytest.fixture(scope='module')
def work(tmp_path_factory):
  folder = tmp_path_factory.mktemp('local')
  write_corpus(folder / 'corpus.txt')
  (folder / 'sitecustomize.py').write_text(_WITNESS)
  subprocess.run(  # several processes do not pack text
    [
      sys.executable, '-m', 'td_flax.tools.prepare',
      *training(folder, folder / 'unused'),
    ],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    check=True,
  )  # fmt: skip
  return folder


@pytest.fixture(scope='module')
def environment(work):
  return {
    **os.environ,
    'PYTHON': sys.executable,
    'PYTHONPATH': f'{ROOT}:{work}:{pathlib.Path(__file__).parent}',
    'TD_FLAX_LAUNCH_HOME': str(work / 'slices'),
    'TMUX_TMPDIR': str(work),
  }


def training(work, workdir):
  values = {
    'data.files': work / 'corpus.txt',
    'data.dir': work / 'packed',
    'data.vocab_size': 340,
    'train.num_steps': NUM_STEPS,
    'eval.every': 20,
    'checkpoint.every': 10,
    'log.every': 1,
  }
  return [f'--workdir={workdir}', *small_run.options(values)]


def test_two_processes_train_what_one_does_though_one_is_killed(
  work, environment
):
  def launch(verb, *arguments):
    return support.run(
      [ROOT / 'launch' / f'{verb}.sh', 'pair', '--target=local', *arguments],
      env=environment | {'JAX_WITNESS': str(work / 'seen_by_two')},
      stdin=subprocess.DEVNULL,
    )

  def states():
    return {line.split()[2] for line in launch('status').stdout.splitlines()}

  for seen in ('seen_by_one', 'seen_by_two'):
    (work / seen).mkdir()
  one = support.run(
    [sys.executable, '-m', 'td_flax.main', *training(work, work / 'one')],
    env=environment | {'JAX_WITNESS': str(work / 'seen_by_one')},
  )
  assert one.returncode == 0, one.stderr
  assert launch('status').returncode == 75
  done = launch('create', '--processes=2', '--devices=4')
  assert done.returncode == 0, done.stderr
  done = launch('setup')
  assert 'ready: ' in done.stdout, done.stderr
  job = (f'--port={support.free_ports()}', '--', *training(work, 'gs://b/two'))
  (work / 'hold').touch()
  done = launch('run', *job)
  assert done.returncode == 0, done.stdout + done.stderr
  two = work / 'gs/b/two'
  folders = [work / f'slices/pair/worker-{i}' for i in range(2)]
  try:
    support.wait_until((two / 'checkpoints/10/record/record.json').exists)
    victim = json.loads((folders[1] / 'state.json').read_text())['pid']
    os.kill(victim, signal.SIGKILL)
    assert 'is running' in launch('delete', '--yes').stderr
    (work / 'hold').unlink()
    support.wait_until(lambda: not {'running', 'waiting'} & states())
  finally:
    launch('stop')
  logs = [(folder / 'log').read_text() for folder in folders]
  assert 'killed by SIGKILL; restarting' in logs[1]
  assert 'error: process 1 is gone; run the same command again' in logs[0]
  assert all('resuming from step' in log for log in logs), logs
  assert all(log.endswith('done: exit code 0\n') for log in logs), logs

  pairs = zip(support.metrics(two), support.metrics(work / 'one'), strict=True)
  for row, reference in pairs:
    assert row['step'] == reference['step']
    for name in ('train/loss', 'eval/loss'):
      if name in reference:
        assert row[name] == pytest.approx(reference[name], rel=2e-5)
  names = sorted(x.name for x in (work / 'seen_by_one').iterdir())
  assert len(names) == 8 * len(range(5, NUM_STEPS, 20))
  _, differing, absent = filecmp.cmpfiles(
    work / 'seen_by_one', work / 'seen_by_two', names, shallow=False
  )
  assert not differing
  assert not absent
  done = launch('delete')
  assert done.returncode == 2
  assert 'give --yes' in done.stderr
  assert launch('delete', '--yes').returncode == 0
  assert not (work / 'slices/pair').exists()


def test_up_brings_back_a_worker_whose_machine_was_restarted(
  work, environment, start
):
  (work / 'bin').mkdir()
  sleep = work / 'bin/sleep'  # `up` looks once a minute
  sleep.write_text('#!/bin/sh\nexec /bin/sleep 1\n')
  sleep.chmod(0o755)
  (work / 'seen_by_reborn').mkdir()
  (work / 'hold').touch()
  up = start(
    [
      ROOT / 'launch/up.sh', 'reborn', '--target=local', '--processes=2',
      '--devices=1', f'--port={support.free_ports()}', '--',
      *training(work, work / 'reborn'),
    ],
    env=environment | {
      'PATH': f'{work / "bin"}:{os.environ["PATH"]}',
      'JAX_WITNESS': str(work / 'seen_by_reborn'),
    },
    stdin=subprocess.DEVNULL,
    stderr=subprocess.STDOUT,
  )  # fmt: skip
  folder = work / 'slices/reborn/worker-1'
  try:
    support.wait_until((work / 'reborn/checkpoints/10').exists, up)
    trained = json.loads((folder / 'state.json').read_text())['pid']
    status = pathlib.Path(f'/proc/{trained}/stat').read_text()
    supervisor = int(status.rpartition(')')[2].split()[1])  # its parent
    for pid in (supervisor, trained):
      os.kill(pid, signal.SIGKILL)
    (work / 'hold').unlink()
    code, said, _ = support.finish(up)
  finally:
    up.kill()
    support.run(
      [ROOT / 'launch/stop.sh', 'reborn', '--target=local'], env=environment
    )
  assert code == 0, said
  assert said.splitlines()[-1] == 'reborn: the run is done'
  assert 'worker 0: runs already' in said
  log = (folder / 'log').read_text()
  assert 'restarting' not in log  # the supervisor went too
  assert 'resuming from step' in log
  steps = [row['step'] for row in support.metrics(work / 'reborn')]
  assert steps == list(range(NUM_STEPS + 1))


def test_a_folder_of_others_is_left_alone(work, environment):
  (work / 'slices/mine').mkdir(parents=True)
  (work / 'slices/mine/thesis').touch()
  for verb in ('create', 'delete', 'status'):
    done = support.run(
      [ROOT / f'launch/{verb}.sh', 'mine', '--target=local'], env=environment
    )
    assert done.returncode == 1
    assert 'these scripts did not create it; left alone' in done.stderr
  assert (work / 'slices/mine/thesis').exists()
