"""What a worker installs, with stubs of all that would install something."""

import pathlib
import shutil

import pytest
import support

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch'
_NOTE = '#!/bin/sh\necho "$(basename "$0") $*" >>"$HOME/calls"\n'
# Each does what the next steps look for.
_STUBS = {
  'bin/sudo': '[ ! -e "$HOME/locked" ] || exit 100\n'
  'cp "$HOME/noting" "$HOME/bin/tmux"\n',
  'bin/python3': 'mkdir -p "$HOME/.local/bin"\n'
  'cp "$HOME/uv" "$HOME/.local/bin"\n',
  'uv': 'if [ "$1" = venv ]; then\n'
  'mkdir -p .venv/bin && cp "$HOME/noting" .venv/bin/python\nfi\n',
  'noting': '',
}
_INSTALL = 'uv pip install --quiet --python .venv/bin/python -e .[tpu,gcs,hf]'
_CHECK = 'python launch/worker.py check'


@pytest.fixture
def home(tmp_path):
  """A home folder whose `bin` is all of the PATH."""
  for folder in ('bin', 'td_flax/launch'):
    (tmp_path / folder).mkdir(parents=True)
  shutil.copy(LAUNCH / 'worker_setup.sh', tmp_path / 'td_flax/launch')
  for tool in ('basename', 'bash', 'cp', 'dirname', 'mkdir'):
    (tmp_path / 'bin' / tool).symlink_to(shutil.which(tool))
  for name, text in _STUBS.items():
    (tmp_path / name).write_text(_NOTE + text)
    (tmp_path / name).chmod(0o755)
  return tmp_path


def setup(home):
  """What it did, its exit code and the last line that it said."""
  calls = home / 'calls'
  calls.unlink(missing_ok=True)
  done = support.run(
    ['bash', 'td_flax/launch/worker_setup.sh'],
    cwd=home,
    env={'HOME': str(home), 'PATH': str(home / 'bin')},
  )
  said = done.stderr.splitlines()
  return calls.read_text().splitlines(), done.returncode, said[-1:]


def test_what_is_there_is_not_installed_again(home):
  assert setup(home) == (
    [
      'sudo apt-get -o DPkg::Lock::Timeout=300 install -y -q tmux',
      'python3 -m pip install --quiet --user uv',
      'uv venv --quiet --python 3.11 .venv',
      _INSTALL,
      _CHECK,
    ],
    0,
    [],
  )
  # The checkout may have changed; the rest is there.
  assert setup(home) == ([_INSTALL, _CHECK], 0, [])


def test_a_tool_that_cannot_be_had_says_so_and_may_be_had_later(home):
  (home / 'locked').touch()
  _, code, said = setup(home)
  assert code == 75
  assert 'failed, try again: sudo apt-get' in said[0]
  (home / 'locked').unlink()
  assert setup(home)[1] == 0


def test_a_check_that_fails_is_no_reason_to_try_again(home):
  setup(home)
  python = home / 'td_flax/.venv/bin/python'
  python.write_text('#!/bin/sh\nexit 1\n')
  assert setup(home) == ([_INSTALL], 1, [])
