"""What the benchmarks share: compiled arms, interleaved turns, the JSON."""

import datetime
import json
import os
import pathlib
import platform
import shlex
import sys
from typing import Any

import jax

from td_flax.compare import machine
from td_flax.compare.timing import Arm, interleave, ratio

__all__ = ['Arm', 'facts', 'interleave', 'ratio', 'write']


def facts() -> dict[str, Any]:
  """Where and how something was measured."""
  return {
    'platform': jax.devices()[0].device_kind,
    'machine': machine.cpu(),
    'cores': os.cpu_count(),
    'jax': jax.__version__,
    'python': platform.python_version(),
    'command': shlex.join(['python', *sys.argv]),
    'date': datetime.date.today().isoformat(),
  }


def write(path: str | None, result: dict[str, Any]) -> None:
  """Writes `result` and the facts as JSON where a path is given."""
  if path:
    text = json.dumps(result | facts(), indent=2)
    pathlib.Path(path).write_text(text + '\n')
