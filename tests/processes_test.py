import contextlib
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Joins the others and says which of them it is.
_JOIN = """
import sys
from td_flax import flags, processes

def main():
  with processes.joined():
    import jax
    print(jax.process_index(), jax.process_count(), flush=True)

flags.run(main)
"""


def in_slurm(job, index):
  """The environment of one of two processes of a job of SLURM."""
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'SLURM_JOB_ID': str(job),
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': str(index),
    'SLURM_LOCALID': '0',
  }


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['--coordinator=here'], '--coordinator=here: must be HOST:PORT or auto'),
    (['--coordinator=here:70000'], 'PORT must be from 1 to 65534'),
    (['--coordinator=here:80', '--num_processes=2'], '--process_id=None'),
    (['--num_processes=2'], '--coordinator: missing'),
    (['--coordinator=auto'], 'jax finds no TPU slice, SLURM, Open MPI or'),
    (['--coordinator=auto', '--process_id=0'], 'finds --num_processes and'),
    (['--join_timeout=0'], 'join_timeout'),
    (['--workdir=gs://bucket'], 'gs://bucket: must be gs://BUCKET/PATH'),
  ],
)
def test_a_mistake_is_one_line_before_anything_is_waited_for(arguments, said):
  command = ['-m', 'td_flax.main', '--config=configs/quickstart.py']
  done = subprocess.run(
    [sys.executable, *command, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ')
  assert said in line


@pytest.fixture
def join():
  """Starts a process of a job; kills what is left."""
  with contextlib.ExitStack() as stack:

    def one(job, index, *arguments):
      process = subprocess.Popen(
        [sys.executable, '-c', _JOIN, '--coordinator=auto', *arguments],
        cwd=ROOT,
        env=in_slurm(job, index),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      stack.callback(process.wait)
      stack.callback(process.kill)
      return process

    yield one


def test_auto_finds_the_processes_of_a_job(join):
  both = [join(4, index) for index in (0, 1)]
  said = [process.communicate(timeout=120) for process in both]
  assert [process.returncode for process in both] == [0, 0], said
  assert [out.split() for out, _ in said] == [['0', '2'], ['1', '2']]


def test_auto_says_who_did_not_come(join):
  alone = join(7, 0, '--join_timeout=2')
  _, said = alone.communicate(timeout=120)
  assert alone.returncode == 75
  assert said.splitlines() == [
    'error: process 1 of 2 did not join within 2 seconds (--join_timeout)'
  ]
