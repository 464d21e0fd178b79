import os
import sys

import pytest
import support

# Two suites on one machine must not meet: jax makes a port of it.
JOB = 2 * os.getpid()
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
# One of two has a bug.
_BUG = """
from td_flax import flags, processes

def main():
  with processes.joined():
    import jax
    if jax.process_index() == 1:
      raise ValueError('a bug')

flags.run(main)
"""


def in_slurm(index):
  """The environment of one of two processes of a job of SLURM."""
  return {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'SLURM_JOB_ID': str(JOB),
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
  done = support.run([sys.executable, *command, *arguments])
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ')
  assert said in line


@pytest.fixture
def join(start):
  """Starts a process of a job."""

  def one(index, *arguments):
    command = [sys.executable, '-c', _JOIN, '--coordinator=auto', *arguments]
    return start(command, env=in_slurm(index))

  return one


def test_auto_finds_the_processes_of_a_job(join):
  ends = [support.finish(x) for x in [join(index) for index in (0, 1)]]
  assert [code for code, *_ in ends] == [0, 0], ends
  assert [out.split() for _, out, _ in ends] == [['0', '2'], ['1', '2']]


def test_auto_says_who_did_not_come(join):
  code, _, said = support.finish(join(0, '--join_timeout=2'))
  assert code == 75
  assert said.splitlines() == [
    'error: process 1 of 2 did not join within 2 seconds (--join_timeout)'
  ]


def test_a_bug_in_one_process_ends_the_others_in_one_line(run_together):
  command = [sys.executable, '-c', _BUG]
  (code, _, said), (code_of_bug, _, traceback) = run_together(command, command)
  assert code == 75
  assert 'Traceback' not in said
  assert 'error: process 1 ended: ValueError: a bug;' in said.splitlines()[-1]
  assert code_of_bug == 1
  assert traceback.splitlines()[-1] == 'ValueError: a bug'
