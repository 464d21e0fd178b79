import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments, cwd=ROOT):
  """Runs a program that only checks its command line."""
  program = (
    'from td_flax import flags\n'
    'def main(): print(flags.load().drop.keep)\n'
    'flags.config_flag()\n'
    'flags.run(main)\n'
  )
  return subprocess.run(
    [sys.executable, '-c', program, *arguments],
    capture_output=True,
    text=True,
    cwd=cwd,
    timeout=120,
    check=False,
  )


@pytest.mark.smoke
def test_overrides_reach_the_config():
  done = command('--config=configs/quickstart.py', '--config.drop.keep=0.75')
  assert (done.returncode, done.stdout) == (0, '0.75\n'), done.stderr


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], '--config: missing'),
    (['--config=configs/nope.py'], '--config=configs/nope.py: no such file'),
    (['--config=td_flax/errors.py'], 'is no config file'),
    (
      ['--config=configs/quickstart.py', '--config.drop.polcy=none'],
      'drop.polcy: no such key; did you mean drop.policy?',
    ),
    (
      ['--config=configs/quickstart.py', '--config.keep=1'],
      'keep: no such key; did you mean drop.keep?',
    ),
    (
      ['--config=configs/quickstart.py', '--config.drop.first_layer=0.5'],
      "drop.first_layer='0.5': must be a whole number",
    ),
    (
      ['--config=configs/quickstart.py', '--config.drop=1'],
      'drop: is a section',
    ),
    (['--confg=configs/quickstart.py'], 'did you mean --config?'),
    (
      ['--config=configs/continue_pretraining.py'],
      '--config=configs/continue_pretraining.py: TypeError: get_config() '
      "missing 1 required positional argument: 'folder'",
    ),
    (
      ['--config=configs/quickstart.py', 'drop.keep=1'],
      'drop.keep=1: unexpected argument',
    ),
    (
      ['--config=configs/quickstart.py', '--config.drop.last_layer=9'],
      'drop.last_layer=9: must be at most 4',
    ),
  ],
)
def test_every_mistake_is_one_line_and_exit_2(arguments, message):
  done = command(*arguments)
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.startswith('error: ')
  assert done.stderr.count('\n') == 1
  assert done.stdout == ''


def test_a_broken_config_file_is_named(tmp_path):
  broken = tmp_path / 'broken.py'
  broken.write_text('def get_config(:\n')
  done = command(f'--config={broken}')
  assert done.returncode == 2
  assert f'{broken}: SyntaxError' in done.stderr
  assert done.stderr.count('\n') == 1
