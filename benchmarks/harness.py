"""What the benchmarks share: flags, compiled arms, interleaved turns, JSON."""

import json
import pathlib
import sys
from typing import Any

import jax
from absl import flags as absl_flags

from td_flax import artifacts, flags
from td_flax.compare import machine
from td_flax.compare.timing import TimedStep, interleave, ratio
from td_flax.config import Config

__all__ = [
  'ROUNDS',
  'TimedStep',
  'interleave',
  'load',
  'ratio',
  'write',
]

ROUNDS = absl_flags.DEFINE_integer('rounds', 10, 'Turns per arm.', 1)
_JSON = absl_flags.DEFINE_string('json', None, 'Write the figures here.')


def load() -> Config:
  """The config whose step is timed; refuses a `--json` nobody can write."""
  if _JSON.value:
    artifacts.require_writable('--json', pathlib.Path(_JSON.value).parent)
  return flags.load_step()


def write(result: dict[str, Any]) -> None:
  """Writes `result` and the facts to `--json`, where it is given."""
  if _JSON.value:
    facts = machine.facts(['python', *sys.argv])
    facts['platform'] = jax.devices()[0].device_kind
    text = json.dumps(result | facts, indent=2)
    pathlib.Path(_JSON.value).write_text(text + '\n')
