"""What the finished runs say, in figures."""

import itertools
import math
from collections.abc import Collection
from typing import Any

from td_flax import stages
from td_flax.compare import differences, statistics
from td_flax.compare.differences import Found, Rows
from td_flax.compare.plan import Arm, Lengths, Run
from td_flax.compare.settings import EQUAL_TIME, PLAIN, TIME_TO_TARGET
from td_flax.config import Config
from td_flax.dropping import policies


def content(
  name: str,
  reference: str,
  arms: dict[str, Arm],
  lengths: Lengths,
  timing: dict[str, Any],
  finished: list[dict[str, Any]],
  *,
  planned: int,
  unscored: int,
  failed: dict[Run, str],
  context_free: statistics.ContextFree,
) -> dict[str, Any]:
  """All figures, of the runs that are there.

  Args:
    name: of the comparison.
    reference: the arm that the controls imitate.
    arms: by name.
    lengths: of their runs.
    timing: of `timing.measure`.
    finished: of `runs.read`.
    planned: how many runs there shall be.
    unscored: how many lack scores that they shall have.
    failed: what stopped these runs.
    context_free: what predicting without context costs.

  Returns:
    The content of report.json. Losses are held out and in nats, seconds those
    of the measured step times; `time` and `flops` of a run are shares of those
    of plain BERT's whole run. What no finished run tells is None.
  """
  whole = lengths[next(iter(lengths))][PLAIN][-1]
  runs = _with_costs(finished, arms, timing, whole)
  rows, lost = _group(runs, failed)
  target = rows.get((PLAIN, whole), {})
  reason = f'no run of {PLAIN} has finished yet'
  if any(x[:2] == (PLAIN, whole) for x in lost):
    reason = f'no run of {PLAIN} has a finite loss'
  if target:
    mean = differences.mean_loss(target, target)
    reason = statistics.plateau(mean, context_free.unigram)
  own = {arm for arm, x in arms.items() if _own_geometry(x.config)}
  # There is no `shallow` where training goes on from somebody's weights.
  controls = [x for x in differences.CONTROLS if x in arms]
  baselines = tuple(dict.fromkeys([*controls, reference]))
  found = Found(rows, lost, set(failed), own, baselines, conclusive=not reason)
  errors = {arm: _time_error(timing, arm) for arm in arms}
  worth = _worth_of_time(found, lengths)
  protocols: dict[str, dict[str, Any]] = {}
  for protocol, by_arm in lengths.items():
    nats: dict[str, float] | None = dict.fromkeys(by_arm, 0.0)
    if protocol == EQUAL_TIME:
      nats = None
      if worth is not None:
        nats = {arm: 100 * worth * errors[arm] for arm in by_arm}
    protocols[protocol] = {
      arm: differences.crossings(found, arm, steps, target, errors[arm])
      if protocol == TIME_TO_TARGET
      else differences.figures(found, by_arm, arm, nats)
      for arm, steps in by_arm.items()
    }
  return {
    'name': name,
    'reference': reference,
    'baselines': baselines,
    'conclusive': not reason,
    'inconclusive_because': reason,
    'planned_runs': planned,
    'finished_runs': len(runs),
    'unscored_runs': unscored,
    'failed_runs': {run.folder: why for run, why in failed.items()},
    'not_finite_runs': [x['workdir'] for x in runs if x['loss'] is None],
    'not_finite_scores': [
      f'{x["workdir"]}: {name}'
      for x in runs
      for name, score in x['scores'].items()
      if score['score'] is None
    ],
    'context_free_loss': context_free._asdict(),
    'arms': {
      arm: {
        'change': x.change,
        'flops_per_row': x.flops_per_row,
        'own_geometry': arm in own,
        'imitated': _alike(x, arms[reference]),
      }
      for arm, x in arms.items()
    },
    'timing': timing,
    'lengths': lengths,
    'protocols': protocols,
    'nats_per_percent_of_time': worth,
    'front': _front(runs, own, lost),
    'runs': runs,
  }


def _time_error(timing: dict[str, Any], arm: str) -> float:
  """The relative standard error of an arm's step time."""
  x = timing['arms'][arm]
  if not x['error']:
    return 0.0
  # Older files tell the turns of all, which were in one process.
  samples = x.get('samples', timing['rounds'])
  return statistics.like_normal(x['error'], samples) / x['ratio']


def _alike(arm: Arm, reference: Arm) -> bool:
  """Whether controls that imitate the reference imitate the arm too.

  They do if it drops as many tokens in the same layers and parts, at the same
  cost: then it differs in the choice of tokens.
  """

  def spans(config: Config) -> list[Any]:
    return [
      (x.start, x.stop, policies.load(x.config.drop.policy).plan(x.config))
      for x in stages.of(config)
    ]

  cost = arm.flops_per_row / reference.flops_per_row
  return abs(cost - 1) < 0.01 and spans(arm.config) == spans(reference.config)


def _with_costs(
  finished: list[dict[str, Any]],
  arms: dict[str, Arm],
  timing: dict[str, Any],
  whole: int,
) -> list[dict[str, Any]]:
  """The runs with their seconds and FLOPs, and as shares of plain's `whole`."""
  costs = {
    arm: {
      'seconds': timing['arms'][arm]['seconds_per_step'],
      'flops': x.config.train.batch_size * x.flops_per_row,
    }
    for arm, x in arms.items()
  }
  runs = []
  for x in finished:
    cost = {key: x['steps'] * y for key, y in costs[x['arm']].items()}
    time, flops = (cost[key] / (whole * y) for key, y in costs[PLAIN].items())
    runs.append({**x, **cost, 'time': time, 'flops_share': flops})
  return runs


def _group(
  runs: list[dict[str, Any]], failed: Collection[Run]
) -> tuple[Rows, set[Run]]:
  """The runs with a loss by arm, length and seed, and those without one."""
  rows: Rows = {}
  lost = set(failed)
  for x in runs:
    run = Run(x['arm'], x['steps'], x['seed'])
    if x['loss'] is None:
      lost.add(run)
    else:
      lost.discard(run)  # what failed was its scoring
      rows.setdefault((x['arm'], x['steps']), {})[x['seed']] = x
  return rows, lost


def _own_geometry(config: Config) -> bool:
  """Whether some part of a run trains something else than plain BERT."""
  return any(
    policies.load(part.config.drop.policy).own_geometry
    for part in stages.of(config)
  )


def _worth_of_time(found: Found, lengths: Lengths) -> float | None:
  """What 1% more steps take off the loss, from the two longest runs of an arm.

  So much is an error of 1% in a measured step time worth. None where no arm ran
  at two lengths.
  """
  fall = logarithm = 0.0
  for arm in set().union(*lengths.values()) - found.own:
    there = sorted(steps for x, steps in found.rows if x == arm)
    for few, many in itertools.pairwise(there[-2:]):
      short, long = found.rows[arm, few], found.rows[arm, many]
      if seeds := differences.common(short, long):
        one, other = (differences.mean_loss(x, seeds) for x in (short, long))
        fall += one - other
        logarithm += math.log(many / few)
  return 0.01 * fall / logarithm if logarithm else None


def _front(
  runs: list[dict[str, Any]], own: Collection[str], lost: Collection[Run]
) -> list[dict[str, Any]]:
  """The arms and lengths that none beats in time and mean loss, by time.

  Means are over the seeds that all of them have. Not those that lost runs: the
  others are the lucky ones.
  """
  left_out = {x[:2] for x in lost}
  losses: dict[tuple[str, int, float], dict[int, float]] = {}
  for x in runs:
    if x['arm'] not in own and (x['arm'], x['steps']) not in left_out:
      key = x['arm'], x['steps'], x['time']
      losses.setdefault(key, {})[x['seed']] = x['loss']
  seeds = differences.common(*losses.values()) if losses else []
  if not seeds:
    return []
  # Equal times differ by the rounding of steps, which is no merit.
  points = sorted(
    (
      round(time, 2),
      statistics.spread([by_seed[seed] for seed in seeds]).mean,
      time,
      arm,
      steps,
    )
    for (arm, steps, time), by_seed in losses.items()
  )
  front: list[dict[str, Any]] = []
  for _, loss, time, arm, steps in points:
    if not front or loss < front[-1]['loss']:
      point = {'arm': arm, 'steps': steps, 'time': time, 'loss': loss}
      front.append(point | {'seeds': seeds})
  return front
