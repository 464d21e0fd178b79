"""What the benchmarks share: compiled arms, interleaved turns, the JSON."""

import json
import pathlib
import sys
from typing import Any

import jax

from td_flax.compare import machine
from td_flax.compare.timing import TimedStep, interleave, ratio

__all__ = ['TimedStep', 'facts', 'interleave', 'ratio', 'write']


def facts() -> dict[str, Any]:
  """Where and how something was measured."""
  device = jax.devices()[0].device_kind
  return {'platform': device, **machine.facts(['python', *sys.argv])}


def write(path: str | None, result: dict[str, Any]) -> None:
  """Writes `result` and the facts as JSON where a path is given."""
  if path:
    text = json.dumps(result | facts(), indent=2)
    pathlib.Path(path).write_text(text + '\n')
