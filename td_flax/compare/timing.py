"""How long a step takes: interleaved turns, in several processes."""

import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from td_flax import (
  artifacts,
  chips,
  compilation,
  errors,
  parallel,
  programs,
  step,
)
from td_flax import config as config_lib
from td_flax.compare import machine as machine_lib
from td_flax.compare.settings import PLAIN
from td_flax.config import Config, ParallelConfig
from td_flax.data import workers
from td_flax.data.vocabulary import SpecialIds

FILE = 'timing.json'  # in the comparison's folder
# What `machine` says of where it was written.
_MACHINE = 'platform', 'device_kind', 'devices', 'machine', 'cores', 'jax'

_SPECIAL = SpecialIds()
# A turn takes at least this long on plain BERT: the clock and the call that
# starts a step then weigh little.
_TURN_SECONDS = 1.0
# The same programs take other shares of each other's time in another process
# (where their memory lies), by more than turns within one show.
_PROCESSES = 5
_FEWEST_ROUNDS = 4  # in each of several processes


class TimedStep:
  """A compiled train step, its state and random rows.

  Speed does not depend on what the ids are, but for [CLS] and [SEP].

  Args:
    config: the experiment.
    steps: one of its programs; by default that of a run in one part.
  """

  def __init__(self, config: Config, steps: step.Steps | None = None):
    self.config = config
    self.engine = parallel.make(config.parallel)
    self.steps = steps or step.Steps(
      config, config.data.vocab_size, _SPECIAL, self.engine
    )
    size = self.steps.vocab_size
    table = self.steps.policy.initial_table(np.ones(size, np.int64))
    state = jax.device_get(self.steps.init(table))
    self.state = self.engine.place(state)
    shape = config.train.batch_size, config.data.sequence_length
    rows = np.random.default_rng(0).integers(5, size, shape, np.uint16)
    rows[:, 0], rows[:, -1] = _SPECIAL.cls, _SPECIAL.sep
    self.rows = self.engine.split(rows)
    begun = time.monotonic()
    self._train = self.engine.compile_train(
      self.steps.train, self.state, self.steps.batch
    )
    self.compile_seconds = time.monotonic() - begun

  def turn(self, steps: int) -> float:
    """Takes some steps; seconds per step."""
    begun = time.monotonic()
    for _ in range(steps):
      self.state, _ = self._train(self.state, self.rows)
    jax.block_until_ready(self.state)
    return (time.monotonic() - begun) / steps

  @property
  def flops(self) -> int:
    """Matmul FLOPs of a step, over all devices."""
    rows = self.config.train.batch_size
    return rows * self.steps.row_flops

  def figures(self, seconds: list[float]) -> dict[str, float | None]:
    """Speed from the seconds per step of its turns."""
    median = float(np.median(seconds))
    rows = self.config.train.batch_size
    chip = chips.chip_of(jax.devices()[0].device_kind)
    peak = chip and chip.peak_flops * self.engine.num_devices
    return {
      'milliseconds': 1e3 * median,
      'tokens_per_second': rows * self.config.data.sequence_length / median,
      'gflops_per_second': self.flops / median / 1e9,
      'mfu': self.flops / median / peak if peak else None,
      'compile_seconds': self.compile_seconds,
    }


def interleave(
  turns: Mapping[Any, Callable[[], float]], rounds: int
) -> dict[Any, list[float]]:
  """Seconds of every turn, one of each arm in every round.

  A first round is not counted: it fills caches. The order is reversed in every
  second round, so that no arm always follows the same one.
  """
  seconds: dict[Any, list[float]] = {name: [] for name in turns}
  for number in range(-1, rounds):
    for name in list(turns)[:: -1 if number % 2 else 1]:
      taken = turns[name]()
      if number >= 0:
        seconds[name].append(taken)
  return seconds


def ratio(one: list[float], other: list[float]) -> dict[str, Any]:
  """The ratios of turns of the same round.

  Returns:
    `ratio`, their median; `quartiles`; `error`, the standard error of the
    median, from the quartiles as if the ratios were normal; `samples`, how many
    it comes from.
  """
  ratios = np.array(one) / np.array(other)
  low, high = np.percentile(ratios, [25, 75])
  deviation = (high - low) / 1.349
  return {
    'ratio': float(np.median(ratios)),
    'quartiles': [float(low), float(high)],
    'error': float((np.pi / 2 / len(ratios)) ** 0.5 * deviation),
    'samples': len(ratios),
  }


def fingerprint(config: Config) -> str:
  """Of all that decides about an arm's step time."""
  flat = config_lib.flatten(config)
  ours = (
    'data.sequence_length',
    'data.tokenizer',
    'data.vocab_size',
    'drop.',
    'model.',
    'optimizer.',
    'parallel.',
    'train.',
  )
  return artifacts.fingerprint(
    {key: value for key, value in flat.items() if key.startswith(ours)}
  )


def measure(
  arms: dict[str, Config], vocab_size: int, rounds: int
) -> dict[str, Any]:
  """Times arms against `plain`, the only work of the machine meanwhile.

  In this process alone: see `split` and `combine`. The programs of the runs
  take turns, and count in a run by their share of its steps. A program of
  several arms is timed once: its error then is in none of the differences
  between them.

  Args:
    arms: by name, `plain` among them.
    vocab_size: ids there are.
    rounds: turns of each.

  Returns:
    What was measured on, and under `arms` for each arm `ratio` (its step time
    over plain's, the median over rounds) and what else `ratio` has,
    `seconds_per_step`, and the `fingerprint` of its config.
  """
  compilation.keep_programs()  # of several processes the first one compiles
  engine = parallel.make(arms[PLAIN].parallel)
  runs = {
    name: programs.Programs(config, vocab_size, _SPECIAL, engine)
    for name, config in arms.items()
  }
  parts = {
    name: [_program(run, key) for key in run.steps]
    for name, run in runs.items()
  }
  different = {
    part: steps
    for name, run in runs.items()
    for part, steps in zip(parts[name], run.steps.values(), strict=True)
  }
  compiled = {
    part: TimedStep(steps.config, steps) for part, steps in different.items()
  }
  plain = compiled[parts[PLAIN][0]]
  plain.turn(1)  # warm before its speed decides how long a turn is
  steps = max(1, round(_TURN_SECONDS / plain.turn(1)))
  seconds = interleave(
    {part: lambda arm=arm: arm.turn(steps) for part, arm in compiled.items()},
    rounds,
  )
  totals = {
    name: [
      run.mean(dict(zip(run.steps, taken, strict=True)))
      for taken in zip(*(seconds[part] for part in parts[name]), strict=True)
    ]
    for name, run in runs.items()
  }
  pace = float(np.median(totals[PLAIN]))
  timed = {name: ratio(total, totals[PLAIN]) for name, total in totals.items()}
  return {
    **machine(arms[PLAIN].parallel),
    'rounds': rounds,
    'steps_per_turn': steps,
    'arms': {
      name: {
        **x,
        'seconds_per_step': x['ratio'] * pace,
        'fingerprint': fingerprint(arms[name]),
      }
      for name, x in timed.items()
    },
  }


def split(rounds: int) -> list[int]:
  """The rounds of each process: five where there are enough, else one."""
  if rounds < _FEWEST_ROUNDS * _PROCESSES:
    return [rounds]
  bounds = [rounds * i // _PROCESSES for i in range(_PROCESSES + 1)]
  return [stop - start for start, stop in itertools.pairwise(bounds)]


def combine(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """What several processes have measured, of the same arms.

  Args:
    measured: of `measure`, one or at least three.

  Returns:
    The same, with the mean of the processes' ratios and quartiles; `error` is
    the standard error of that mean, and `samples` the number of processes.
  """
  first, *others = measured
  if not others:
    return first
  pace = statistics.median(
    x['arms'][PLAIN]['seconds_per_step'] for x in measured
  )
  arms = {}
  for name, x in first['arms'].items():
    several = [one['arms'][name] for one in measured]
    ratios = [one['ratio'] for one in several]
    mean = statistics.fmean(ratios)
    quartiles = zip(*(one['quartiles'] for one in several), strict=True)
    arms[name] = {
      **x,
      'ratio': mean,
      'quartiles': [*map(statistics.fmean, quartiles)],
      'error': statistics.stdev(ratios) / len(ratios) ** 0.5,
      'samples': len(ratios),
      'seconds_per_step': mean * pace,
    }
  return first | {'rounds': sum(x['rounds'] for x in measured), 'arms': arms}


def _program(run: programs.Programs, key: programs.Key) -> tuple[Any, ...]:
  """What runs have in common if this program of theirs is the same."""
  table_policy = run.base.config.drop.policy
  return fingerprint(run.configs[key]), table_policy, key.consistent


def machine(config: ParallelConfig) -> dict[str, Any]:
  """All that the same config's step times depend on.

  Args:
    config: which devices the steps are mapped over.
  """
  engine = parallel.make(config)
  return {
    'platform': engine.platform,
    'device_kind': engine.kind,
    'devices': engine.num_devices,
    'machine': machine_lib.cpu(),
    'cores': workers.usable_cores(),
    'jax': jax.__version__,
  }


def read(file: pathlib.Path, arms: dict[str, Config]) -> dict[str, Any]:
  """The content of timing.json, empty where there is none.

  Args:
    file: timing.json.
    arms: whose times are wanted; some may be missing.

  Raises:
    errors.CheckpointError: it is damaged, or of another comparison.
  """
  try:
    found = json.loads(file.read_bytes())
    timed = {name: x['fingerprint'] for name, x in found['arms'].items()}
  except FileNotFoundError:
    return {'arms': {}}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.CheckpointError(
      f'{file}: damaged ({type(error).__name__}); use another --workdir'
    ) from error
  for name in arms.keys() & timed.keys():
    if timed[name] != fingerprint(arms[name]):
      raise errors.CheckpointError(
        f'{file}: {name} had another config when it was timed; use another '
        '--workdir'
      )
  return found


def check(
  file: pathlib.Path, there: dict[str, Any], here: dict[str, Any]
) -> None:
  """Refuses step times of another machine.

  Args:
    file: timing.json.
    there: of `read`.
    here: of `machine`, and what else there may be.

  Raises:
    errors.CheckpointError: names what differs.
  """
  for key in _MACHINE:
    if there.get(key) != here[key]:
      raise errors.CheckpointError(
        f'{file}: timed with {key}={there.get(key)!r}, and here it is '
        f'{here[key]!r}: arms take other shares of the time here; use another '
        '--workdir, or that machine and --jobs'
      )


def add(
  file: pathlib.Path, there: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
  """Writes timing.json with more arms in it; returns its content.

  Args:
    file: timing.json.
    there: of `read`.
    found: of `measure`; arms that are there keep their times, so that a plan
      never changes.

  Raises:
    errors.CheckpointError: those that are there are of another machine.
  """
  if there['arms']:
    check(file, there, found)
  arms = found['arms'] | there['arms']
  for name in arms.keys() - there['arms'].keys():
    # In the seconds of the first measurement: ratios carry over, a noisy
    # machine's seconds do not.
    pace = arms[PLAIN]['seconds_per_step']
    arms[name]['seconds_per_step'] = arms[name]['ratio'] * pace
  content = {**found, **there, 'arms': arms}
  artifacts.write_json(file, content)
  return content
