"""What the finished runs say, in figures."""

import math
from collections.abc import Collection
from typing import Any

from td_flax import stages
from td_flax.compare import statistics
from td_flax.compare.plan import Arm, Lengths, Run
from td_flax.compare.settings import (
  EQUAL_STEPS,
  EQUAL_TIME,
  PLAIN,
  RANDOM,
  SHALLOW,
  TIME_TO_TARGET,
)
from td_flax.config import Config
from td_flax.dropping import policies

CONTROLS = PLAIN, RANDOM, SHALLOW
# Instead of a verdict: what an arm whose runs diverge would have reached is not
# known, and those that are left are the lucky ones.
DIVERGED = 'runs diverged'
# Instead of a verdict on losses: the arm trains something else than plain BERT.
OWN_GEOMETRY = 'see scores'
_Rows = dict[tuple[str, int], dict[int, dict[str, Any]]]  # (arm, steps) -> seed


def content(
  name: str,
  arms: dict[str, Arm],
  lengths: Lengths,
  timing: dict[str, Any],
  finished: list[dict[str, Any]],
  *,
  planned: int,
  failed: dict[Run, str],
  context_free: statistics.ContextFree,
) -> dict[str, Any]:
  """All figures, of the runs that are there.

  Args:
    name: of the comparison.
    arms: by name.
    lengths: of their runs.
    timing: of `timing.measure`.
    finished: of `runs.read`.
    planned: how many runs there shall be.
    failed: what stopped these runs.
    context_free: what predicting without context costs.

  Returns:
    The content of report.json. Losses are held out and in nats, seconds those
    of the measured step times; `time` and `flops` of a run are shares of those
    of plain BERT's whole run. What no finished run tells is None.
  """
  whole = lengths[next(iter(lengths))][PLAIN][-1]
  costs = {
    arm: (
      timing['arms'][arm]['seconds_per_step'],
      x.config.train.batch_size * x.flops_per_row,
    )
    for arm, x in arms.items()
  }
  runs = []
  for x in finished:
    seconds, flops = (x['steps'] * cost for cost in costs[x['arm']])
    runs.append({
      **x,
      'seconds': seconds,
      'flops': flops,
      'time': seconds / (whole * costs[PLAIN][0]),
      'flops_share': flops / (whole * costs[PLAIN][1]),
    })  # fmt: skip
  rows: _Rows = {}
  lost = set(failed)
  for x in runs:
    run = Run(x['arm'], x['steps'], x['seed'])
    if x['loss'] is None:
      lost.add(run)
    else:
      lost.discard(run)  # what failed was its scoring
      rows.setdefault((x['arm'], x['steps']), {})[x['seed']] = x
  unscored = lost.union(failed)
  own = {arm for arm, x in arms.items() if _own_geometry(x.config)}
  target = rows.get((PLAIN, whole))
  if target:
    mean = statistics.spread(_losses(target).values()).mean
    reason = statistics.plateau(mean, context_free.unigram)
  else:
    reason = f'no run of {PLAIN} has finished yet'
  return {
    'name': name,
    'conclusive': not reason,
    'inconclusive_because': reason,
    'planned_runs': planned,
    'finished_runs': len(runs),
    'failed_runs': {run.folder: why for run, why in failed.items()},
    'not_finite_runs': [x['workdir'] for x in runs if x['loss'] is None],
    'context_free_loss': context_free._asdict(),
    'arms': {
      arm: {
        'change': x.change,
        'flops_per_row': x.flops_per_row,
        'own_geometry': arm in own,
      }
      for arm, x in arms.items()
    },
    'timing': timing,
    'lengths': lengths,
    'protocols': {
      protocol: {
        arm: (
          None
          if arm in own
          else _crossings(rows, arm, steps, target or {}, lost)
        )
        if protocol == TIME_TO_TARGET
        else _figures(
          rows,
          by_arm,
          arm,
          lost=lost,
          unscored=unscored,
          own=own,
          conclusive=not reason,
        )
        for arm, steps in by_arm.items()
      }
      for protocol, by_arm in lengths.items()
    },
    'nats_per_percent_of_time': _worth_of_time(rows, lengths, own),
    'front': _front(runs, own, lost),
    'runs': runs,
  }


def _own_geometry(config: Config) -> bool:
  """Whether some part of a run trains something else than plain BERT."""
  return any(
    policies.load(part.config.drop.policy).own_geometry
    for part in stages.of(config)
  )


def _worth_of_time(
  rows: _Rows, lengths: Lengths, own: Collection[str]
) -> float | None:
  """What 1% more steps take off the loss, from arms that ran at two lengths.

  So much is an error of 1% in a measured step time worth.
  """
  slopes = []
  for arm, (few,) in lengths.get(EQUAL_STEPS, {}).items():
    (many,) = lengths.get(EQUAL_TIME, {}).get(arm, (few,))
    short, long = (rows.get((arm, steps), {}) for steps in (few, many))
    seeds = _common(short, long)
    if arm not in own and seeds and many > few:
      fall = _mean_loss(short, seeds) - _mean_loss(long, seeds)
      slopes.append(fall / math.log(many / few))
  return 0.01 * statistics.spread(slopes).mean if slopes else None


def _front(
  runs: list[dict[str, Any]], own: Collection[str], lost: Collection[Run]
) -> list[dict[str, Any]]:
  """The arms and lengths that none beats in time and mean loss, by time.

  Not those that lost runs: the others are the lucky ones.
  """
  left_out = {x[:2] for x in lost}
  losses: dict[tuple[str, int, float], list[float]] = {}
  for x in runs:
    if x['arm'] not in own and (x['arm'], x['steps']) not in left_out:
      key = x['arm'], x['steps'], x['time']
      losses.setdefault(key, []).append(x['loss'])
  # Equal times differ by the rounding of steps, which is no merit.
  points = sorted(
    (round(time, 2), statistics.spread(several).mean, time, arm, steps)
    for (arm, steps, time), several in losses.items()
  )
  front: list[dict[str, Any]] = []
  for _, loss, time, arm, steps in points:
    if not front or loss < front[-1]['loss']:
      front.append({'arm': arm, 'steps': steps, 'time': time, 'loss': loss})
  return front


def _losses(by_seed: dict[int, dict[str, Any]]) -> dict[int, float]:
  return {seed: x['loss'] for seed, x in by_seed.items()}


def _scores(by_seed: dict[int, dict[str, Any]], name: str) -> dict[int, float]:
  """Those of the seeds that have been scored."""
  return {
    seed: x['scores'][name]['score']
    for seed, x in by_seed.items()
    if name in x['scores']
  }


def _scored(by_seed: dict[int, dict[str, Any]]) -> dict[str, str]:
  """The scores that some seed has, and their metrics."""
  return {
    name: score['metric']
    for x in by_seed.values()
    for name, score in x['scores'].items()
  }


def _common(*several: dict[int, Any]) -> list[int]:
  """The seeds that all have, ascending."""
  return sorted(set.intersection(*map(set, several)))


def _figures(
  rows: _Rows,
  by_arm: dict[str, tuple[int, ...]],
  arm: str,
  *,
  lost: Collection[Run],
  unscored: Collection[Run],
  own: Collection[str],
  conclusive: bool,
) -> dict[str, Any] | None:
  """An arm's runs of one length, and their differences to the controls'."""
  (steps,) = by_arm[arm]
  ours = rows.get((arm, steps))
  if not ours:
    return None
  # A pair with one of these has no verdict: on losses, on scores.
  diverged, no_score = (
    {x.arm for x in runs if (x.steps,) == by_arm.get(x.arm)}
    for runs in (lost, unscored)
  )
  controls = {
    # There is no `shallow` where training goes on from somebody's weights.
    control: rows.get((control, *by_arm.get(control, ())), {})
    for control in CONTROLS
    if control != arm
  }
  own_losses = [
    x['own_loss'] for x in ours.values() if x['own_loss'] is not None
  ]
  one = next(iter(ours.values()))
  return {
    'steps': steps,
    'seeds': sorted(ours),
    'loss': statistics.spread(_losses(ours).values())._asdict(),
    'own_loss': statistics.spread(own_losses)._asdict() if own_losses else None,
    'seconds': one['seconds'],
    'time': one['time'],
    'flops_share': one['flops_share'],
    'diverged': sorted(x.seed for x in lost if x[:2] == (arm, steps)),
    'against': _against(
      _losses(ours),
      {control: _losses(theirs) for control, theirs in controls.items()},
      instead={
        control: OWN_GEOMETRY
        if {arm, control} & own
        else DIVERGED * bool({arm, control} & diverged)
        for control in controls
      },
      conclusive=conclusive,
    ),
    'scores': {
      name: {
        'metric': metric,
        'seeds': sorted(scores),
        'score': statistics.spread(scores.values())._asdict(),
        'against': _against(
          scores,
          {x: _scores(theirs, name) for x, theirs in controls.items()},
          instead={
            control: DIVERGED * bool({arm, control} & no_score)
            for control in controls
          },
          conclusive=conclusive,
          higher_is_better=True,
        ),
      }
      for name, metric in _scored(ours).items()
      for scores in [_scores(ours, name)]
    },
  }


def _against(
  ours: dict[int, float],
  controls: dict[str, dict[int, float]],
  *,
  instead: dict[str, str],
  conclusive: bool,
  higher_is_better: bool = False,
) -> dict[str, Any]:
  """Differences to each control, over the seeds that both have.

  What `instead` says of a control stands for the verdict, if it says something.
  """
  against = {}
  for control, theirs in controls.items():
    seeds = _common(ours, theirs)
    if not seeds:
      continue
    pair = [[x[seed] for seed in seeds] for x in (ours, theirs)]
    # A verdict is on losses; the other way round it is that of scores.
    judged = statistics.paired(*(pair[::-1] if higher_is_better else pair))
    against[control] = {
      **statistics.paired(*pair)._asdict(),
      'verdict': (instead[control] or judged.verdict) if conclusive else '',
    }
  return against


def _crossings(
  rows: _Rows,
  arm: str,
  lengths: tuple[int, ...],
  target: dict[int, dict[str, Any]],
  lost: Collection[Run],
) -> dict[str, Any] | None:
  """Where an arm's losses reach plain's, in time and in FLOPs."""
  points = [rows.get((arm, steps), {}) for steps in lengths]
  seeds = _common(target, *points)
  if not seeds:
    return None

  def crossings(chosen: list[int]) -> dict[str, Any]:
    losses = [_mean_loss(point, chosen) for point in points]
    goal = _mean_loss(target, chosen)
    return {
      key: statistics.crossing(
        [next(iter(point.values()))[key] for point in points], losses, goal
      )._asdict()
      for key in ('time', 'flops_share')
    }

  by_seed = {seed: crossings([seed]) for seed in seeds}
  needed = {(arm, steps) for steps in lengths}
  needed |= {(PLAIN, x['steps']) for x in target.values()}
  return {
    'seeds': seeds,
    'diverged': sorted({x.seed for x in lost if x[:2] in needed}),
    'target': _mean_loss(target, seeds),
    'points': [
      {
        'steps': steps,
        'time': next(iter(point.values()))['time'],
        'loss': _mean_loss(point, seeds),
      }
      for steps, point in zip(lengths, points, strict=True)
    ],
    **crossings(seeds),
    'by_seed': by_seed,
    'interval': statistics.crossing_interval(
      [statistics.Crossing(**x['time']) for x in by_seed.values()]
    ),
  }


def _mean_loss(by_seed: dict[int, dict[str, Any]], seeds: list[int]) -> float:
  return statistics.spread([by_seed[seed]['loss'] for seed in seeds]).mean
