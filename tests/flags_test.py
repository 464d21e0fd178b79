import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments, shows='flags.load().drop.keep', cwd=ROOT):
  """Runs a program that only checks its command line."""
  program = (
    'from absl import flags as absl_flags\n'
    'from td_flax import flags\n'
    f'def main(): print({shows})\n'
    'flags.config_flag()\n'
    "absl_flags.DEFINE_string('workdir', None, '')\n"
    "absl_flags.DEFINE_integer('process_id', None, '', short_name='p')\n"
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


@pytest.mark.parametrize(
  ('arguments', 'expected'),
  [
    (['--workdir', 'a b'], {'workdir': '--workdir=a b'}),
    (['-p', '1'], {'process_id': '--process_id=1'}),
    # A switch has no value of its own: what follows is the next argument.
    (
      ['--config.data.lowercase', '--process_id=1'],
      {
        'config.data.lowercase': '--config.data.lowercase',
        'process_id': '--process_id=1',
      },
    ),
    (
      ['--noconfig.data.lowercase'],
      {'config.data.lowercase': '--noconfig.data.lowercase'},
    ),
    (
      ['--config.data.lowercase=false', '--config.train.seed', '-1'],
      {
        'config.data.lowercase': '--noconfig.data.lowercase',
        'config.train.seed': '--config.train.seed=-1',
      },
    ),
    (
      ['--config.drop.keep=0.25', '--config.drop.keep=0.75'],
      {'config.drop.keep': '--config.drop.keep=0.75'},
    ),
    (
      ['--config.drop.stages='],
      {'config.drop.stages': '--config.drop.stages='},
    ),
  ],
)
def test_the_arguments_that_were_given_are_known_by_name(arguments, expected):
  file = ['--config', 'configs/quickstart.py']
  done = command(*file, *arguments, shows='flags.given()')
  found = ast.literal_eval(done.stdout)
  assert found.pop('config') == '--config=configs/quickstart.py'
  assert found == expected
  # They say the same again.
  again = command(
    '--config=configs/quickstart.py', *found.values(), shows='flags.given()'
  )
  assert again.stdout == done.stdout


def test_the_config_comes_first_then_what_overrides_it(tmp_path):
  file = tmp_path / 'with_argument.py'
  file.write_text(
    'from td_flax import config\n'
    'def get_config(name):\n'
    '  raw = config.default()\n'
    '  raw.name = name\n'
    '  return raw\n'
  )
  done = command(
    *('--workdir=a', '--config', f'{file}:b', '--config.drop.keep=1'),
    shows='[*flags.given().values()]',
  )
  expected = [f'--config={file}:b', '--config.drop.keep=1.0', '--workdir=a']
  assert ast.literal_eval(done.stdout) == expected


@pytest.mark.parametrize(
  ('content', 'problem'),
  [
    ('def get_config(:\n', 'SyntaxError'),
    ('x = 1\n', 'is no config file: it has no get_config()'),
    (
      'import os\ndef get_config(): return os.get_config_small()\n',
      "AttributeError: module 'os' has no attribute 'get_config_small'",
    ),
    (
      "def get_config(): return open('/nowhere')\n",
      "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'",
    ),
    ('def get_config(): return 1\n', 'get_config() returns no ConfigDict'),
    (None, 'no such file'),
  ],
)
def test_what_is_wrong_with_a_config_file_is_said(tmp_path, content, problem):
  file = tmp_path / 'file.py'
  if content:
    file.write_text(content)
  done = command(f'--config={file}')
  assert done.returncode == 2
  assert f'--config={file}: {problem}' in done.stderr
  assert done.stderr.count('\n') == 1


def test_what_looks_at_one_program_refuses_a_run_of_several():
  done = command(
    '--config=configs/quickstart.py',
    '--config.drop.consistency_every=10',
    shows='flags.load_step()',
  )
  assert done.returncode == 2
  assert (
    'error: drop.stages, drop.consistency_every: one program' in done.stderr
  )


def test_a_given_tokenizer_says_how_many_ids_there_are(tmp_path):
  pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  pieces += [f'w{i}' for i in range(395)]
  (tmp_path / 'vocab.txt').write_text('\n'.join(pieces) + '\n')
  done = command(
    '--config=configs/quickstart.py',
    f'--config.data.tokenizer={tmp_path}/vocab.txt',
    shows='flags.load_step().data.vocab_size',
  )
  assert (done.returncode, done.stdout) == (0, '400\n'), done.stderr
