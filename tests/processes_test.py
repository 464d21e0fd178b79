import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['--coordinator=here'], '--coordinator=here: must be HOST:PORT or auto'),
    (['--coordinator=here:70000'], 'PORT must be from 1 to 65534'),
    (['--coordinator=here:80', '--num_processes=2'], '--process_id=None'),
    (['--num_processes=2'], '--coordinator: missing'),
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
