"""What the finished runs say, in figures."""

from collections.abc import Iterable
from typing import Any

from td_flax.compare import statistics
from td_flax.compare.plan import Arm, Lengths
from td_flax.compare.settings import PLAIN, RANDOM, SHALLOW, TIME_TO_TARGET

CONTROLS = PLAIN, RANDOM, SHALLOW
_Rows = dict[tuple[str, int], dict[int, dict[str, Any]]]  # (arm, steps) -> seed


def content(
  name: str,
  arms: dict[str, Arm],
  lengths: Lengths,
  timing: dict[str, Any],
  finished: list[dict[str, Any]],
  *,
  planned: int,
  failed: dict[str, str],
  unigram: float,
) -> dict[str, Any]:
  """All figures, of the runs that are there.

  Args:
    name: of the comparison.
    arms: by name.
    lengths: of their runs.
    timing: of `timing.measure`.
    finished: of `runs.read`.
    planned: how many runs there shall be.
    failed: folder of a run -> what stopped it.
    unigram: `statistics.unigram_loss`, nats.

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
  for x in runs:
    if x['loss'] is not None:
      rows.setdefault((x['arm'], x['steps']), {})[x['seed']] = x
  target = rows.get((PLAIN, whole))
  if target:
    mean = statistics.spread(_losses(target).values()).mean
    reason = statistics.plateau(mean, unigram)
  else:
    reason = f'no run of {PLAIN} has finished yet'
  return {
    'name': name,
    'conclusive': not reason,
    'inconclusive_because': reason,
    'planned_runs': planned,
    'finished_runs': len(runs),
    'failed_runs': failed,
    'not_finite_runs': [x['workdir'] for x in runs if x['loss'] is None],
    'unigram_loss': unigram,
    'arms': {
      arm: {'change': x.change, 'flops_per_row': x.flops_per_row}
      for arm, x in arms.items()
    },
    'timing': timing,
    'lengths': lengths,
    'protocols': {
      protocol: {
        arm: _crossings(rows, arm, steps, target or {})
        if protocol == TIME_TO_TARGET
        else _figures(rows, by_arm, arm, conclusive=not reason)
        for arm, steps in by_arm.items()
      }
      for protocol, by_arm in lengths.items()
    },
    'runs': runs,
  }


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
  conclusive: bool,
) -> dict[str, Any] | None:
  """An arm's runs of one length, and their differences to the controls'."""
  (steps,) = by_arm[arm]
  ours = rows.get((arm, steps))
  if not ours:
    return None
  controls = {
    # There is no `shallow` where training goes on from somebody's weights.
    control: rows.get((control, *by_arm.get(control, ())), {})
    for control in CONTROLS
    if control != arm
  }
  own = [x['own_loss'] for x in ours.values() if x['own_loss'] is not None]
  one = next(iter(ours.values()))
  return {
    'steps': steps,
    'seeds': sorted(ours),
    'loss': statistics.spread(_losses(ours).values())._asdict(),
    'own_loss': statistics.spread(own)._asdict() if own else None,
    'seconds': one['seconds'],
    'time': one['time'],
    'flops_share': one['flops_share'],
    'against': _against(
      _losses(ours),
      {control: _losses(theirs) for control, theirs in controls.items()},
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
  conclusive: bool,
  higher_is_better: bool = False,
) -> dict[str, Any]:
  """Differences to each control, over the seeds that both have."""
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
      'verdict': judged.verdict if conclusive else '',
    }
  return against


def _crossings(
  rows: _Rows,
  arm: str,
  lengths: Iterable[int],
  target: dict[int, dict[str, Any]],
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

  return {
    'seeds': seeds,
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
    'by_seed': {seed: crossings([seed]) for seed in seeds},
  }


def _mean_loss(by_seed: dict[int, dict[str, Any]], seeds: list[int]) -> float:
  return statistics.spread([by_seed[seed]['loss'] for seed in seeds]).mean
