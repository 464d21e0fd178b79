"""What is done to a workdir and to the process that holds it."""

import signal
import subprocess
import sys

import pytest

from td_flax import errors, train, workdir

_HOLDER = """
import sys
from td_flax import workdir

with workdir.Workdir(sys.argv[1]).lock():
  print('locked', flush=True)
  sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
  run = workdir.Workdir(tmp_path / 'run')
  holder = subprocess.Popen(
    [sys.executable, '-c', _HOLDER, run.path],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  with holder:
    try:
      assert holder.stdout.readline() == b'locked\n'
      with pytest.raises(errors.CheckpointError, match='another process'):
        run.lock().__enter__()
    finally:
      holder.send_signal(signal.SIGKILL)
  with run.lock():
    pass


def test_a_disk_that_fills_up_behind_the_last_step_is_one_line(
  make_config, tmp_path
):
  texts = [f'some {i} words of text number {i * i}' for i in range(400)]
  (tmp_path / 'corpus.txt').write_text('\n\n'.join(texts))
  config = make_config(
    data__files=str(tmp_path / 'corpus.txt'),
    data__vocab_size=300,
    train__num_steps=1,
    parallel__num_devices=1,
  )
  run = workdir.Workdir(tmp_path / 'run')
  content = train.train(config, run.path)
  run.summary_json.unlink()
  (run.path / 'summary.json.tmp').symlink_to('/dev/full')
  with pytest.raises(errors.CheckpointError, match='No space left') as error:
    train.train(config, run.path)
  assert str(run.summary_json) in str(error.value)
  assert '\n' not in str(error.value)
  again = train.train(config, run.path)
  assert again['params_sha256'] == content['params_sha256']
