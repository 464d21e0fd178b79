"""What is done to the process that holds a workdir."""

import signal
import subprocess
import sys

import pytest

from td_flax import errors, workdir

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
