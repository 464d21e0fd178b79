"""What a benchmark ran on; imports nothing that starts an accelerator."""

import contextlib
import datetime
import importlib.metadata
import pathlib
import platform
import shlex
from typing import Any

import td_flax
from td_flax.data import workers


def cpu() -> str:
  """The processor's name."""
  with contextlib.suppress(OSError):  # not on every system
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()


def facts(command: list[str], *packages: str) -> dict[str, Any]:
  """Where, when and how something was measured.

  Args:
    command: its arguments.
    *packages: whose versions matter beside those of jax and td_flax.
  """
  versions = {x: importlib.metadata.version(x) for x in ('jax', *packages)}
  return {
    'machine': cpu(),
    'cores': workers.usable_cores(),
    'td_flax': td_flax.__version__,
    **versions,
    'python': platform.python_version(),
    'command': shlex.join(command),
    'date': datetime.date.today().isoformat(),
  }
