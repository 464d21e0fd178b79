"""An arm's figures in one protocol, and its differences to the baselines."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from td_flax.compare import statistics
from td_flax.compare.plan import Run
from td_flax.compare.settings import PLAIN, RANDOM, SHALLOW

CONTROLS = PLAIN, RANDOM, SHALLOW
# Instead of a verdict: what an arm whose runs diverge would have reached is not
# known, and those that are left are the lucky ones.
DIVERGED = 'runs diverged'
# Instead of a verdict on losses: the arm trains something else than plain BERT.
OWN_GEOMETRY = 'see scores'
# Instead of a verdict at equal time, whose budgets are only as good as the step
# times: what their errors are worth is not known.
UNTIMED = 'errors of times unknown'
Seeds = dict[int, dict[str, Any]]  # the runs of one arm and length
Rows = dict[tuple[str, int], Seeds]  # by arm and steps


class Found(NamedTuple):
  """The runs that are there, and what stands against a verdict on them.

  Attributes:
    rows: those with a loss.
    lost: those that failed or have none.
    failed: those that failed, if only at being scored.
    own: the arms that train something else than plain BERT.
    baselines: what every arm is compared with, the controls and the reference.
    conclusive: plain BERT has left the plateau.
  """

  rows: Rows
  lost: set[Run]
  failed: set[Run]
  own: set[str]
  baselines: tuple[str, ...]
  conclusive: bool

  def of(self, by_arm: dict[str, tuple[int, ...]], arm: str) -> Seeds:
    """An arm's runs of the one length that a protocol has for it."""
    return self.rows.get((arm, *by_arm.get(arm, ())), {})


def _arms(runs: set[Run], by_arm: dict[str, tuple[int, ...]]) -> set[str]:
  """Those of the runs that are of the one length of a protocol."""
  return {x.arm for x in runs if (x.steps,) == by_arm.get(x.arm)}


def _losses(by_seed: Seeds) -> dict[int, float]:
  return {seed: x['loss'] for seed, x in by_seed.items()}


def _scores(by_seed: Seeds, name: str) -> dict[int, float]:
  """Those of the seeds that have been scored, where they are finite."""
  return {
    seed: x['scores'][name]['score']
    for seed, x in by_seed.items()
    if name in x['scores'] and x['scores'][name]['score'] is not None
  }


def common(*several: dict[int, Any]) -> list[int]:
  """The seeds that all have, ascending."""
  return sorted(set.intersection(*map(set, several)))


def figures(
  found: Found,
  by_arm: dict[str, tuple[int, ...]],
  arm: str,
  nats: dict[str, float] | None,
) -> dict[str, Any] | None:
  """An arm's runs of one length, and their differences to the baselines'.

  Args:
    found: the runs.
    by_arm: the lengths of the protocol.
    arm: its name.
    nats: by arm, what the error of its measured step time is worth; None if
      that is not known.
  """
  (steps,) = by_arm[arm]
  ours = found.of(by_arm, arm)
  if not ours:
    return None
  diverged = _arms(found.lost, by_arm)
  others = [x for x in found.baselines if x != arm]
  instead = {}
  errors = dict.fromkeys(others, 0.0)
  for other in others:
    if {arm, other} & found.own:
      instead[other] = OWN_GEOMETRY
    elif {arm, other} & diverged:
      instead[other] = DIVERGED
    elif nats is None:
      instead[other] = UNTIMED
    else:
      errors[other] = math.hypot(nats[arm], nats[other])
  own_losses = [
    x['own_loss'] for x in ours.values() if x['own_loss'] is not None
  ]
  one = next(iter(ours.values()))
  metrics = {
    name: score['metric']
    for x in ours.values()
    for name, score in x['scores'].items()
  }
  return {
    'steps': steps,
    'seeds': sorted(ours),
    'loss': statistics.spread(_losses(ours).values())._asdict(),
    'own_loss': statistics.spread(own_losses)._asdict() if own_losses else None,
    'seconds': one['seconds'],
    'time': one['time'],
    'flops_share': one['flops_share'],
    'diverged': sorted(x.seed for x in found.lost if x[:2] == (arm, steps)),
    'against': {
      x: _difference(
        _losses(ours),
        _losses(found.of(by_arm, x)),
        error=errors[x],
        instead=instead.get(x, ''),
        conclusive=found.conclusive,
      )
      for x in others
      if common(ours, found.of(by_arm, x))
    },
    'scores': {
      name: scored
      for name, metric in metrics.items()
      if (scored := _scored(found, by_arm, arm, others, name, metric))
    },
  }


def _scored(
  found: Found,
  by_arm: dict[str, tuple[int, ...]],
  arm: str,
  others: list[str],
  name: str,
  metric: str,
) -> dict[str, Any] | None:
  """An arm's scores of one kind, and their differences to the baselines'."""
  scores = {x: _scores(found.of(by_arm, x), name) for x in (arm, *others)}
  if not scores[arm]:
    return None
  lacking = _arms(found.lost | found.failed, by_arm)
  for x in scores:
    there = [y['scores'] for y in found.of(by_arm, x).values()]
    if any(y[name]['score'] is None for y in there if name in y):
      lacking.add(x)
  return {
    'metric': metric,
    'seeds': sorted(scores[arm]),
    'score': statistics.spread(scores[arm].values())._asdict(),
    'against': {
      x: _difference(
        scores[arm],
        scores[x],
        instead=DIVERGED * bool({arm, x} & lacking),
        conclusive=found.conclusive,
        higher_is_better=True,
      )
      for x in others
      if common(scores[arm], scores[x])
    },
  }


def _difference(
  ours: dict[int, float],
  theirs: dict[int, float],
  *,
  instead: str,
  conclusive: bool,
  error: float = 0.0,
  higher_is_better: bool = False,
) -> dict[str, Any]:
  """The difference to a baseline, over the seeds that both have.

  What `instead` says stands for the verdict, if it says something.
  """
  seeds = common(ours, theirs)
  pair = [[x[seed] for seed in seeds] for x in (ours, theirs)]
  # A verdict is on losses; the other way round it is that of scores.
  judged = statistics.paired(
    *(pair[::-1] if higher_is_better else pair), error=error
  )
  return {
    **statistics.paired(*pair, error=error)._asdict(),
    'verdict': (instead or judged.verdict) if conclusive else '',
  }


def crossings(
  found: Found,
  arm: str,
  lengths: tuple[int, ...],
  target: Seeds,
  error: float,
) -> dict[str, Any] | None:
  """Where an arm's losses reach plain's, in time and in FLOPs.

  Args:
    found: the runs.
    arm: its name.
    lengths: of its runs, ascending.
    target: plain's whole runs.
    error: of its measured step time, relative.
  """
  points = [found.rows.get((arm, steps), {}) for steps in lengths]
  seeds = common(target, *points)
  if not seeds or arm in found.own:
    return None

  def reached(chosen: list[int]) -> dict[str, Any]:
    losses = [mean_loss(point, chosen) for point in points]
    goal = mean_loss(target, chosen)
    return {
      key: statistics.crossing(
        [next(iter(point.values()))[key] for point in points], losses, goal
      )._asdict()
      for key in ('time', 'flops_share')
    }

  by_seed = {seed: reached([seed]) for seed in seeds}
  needed = {(arm, steps) for steps in lengths}
  needed |= {(PLAIN, x['steps']) for x in target.values()}
  return {
    'seeds': seeds,
    'diverged': sorted({x.seed for x in found.lost if x[:2] in needed}),
    'target': mean_loss(target, seeds),
    'points': [
      {
        'steps': steps,
        'time': next(iter(point.values()))['time'],
        'loss': mean_loss(point, seeds),
      }
      for steps, point in zip(lengths, points, strict=True)
    ],
    **reached(seeds),
    'by_seed': by_seed,
    'interval': statistics.crossing_interval(
      [statistics.Crossing(**x['time']) for x in by_seed.values()], error
    ),
  }


def mean_loss(by_seed: Seeds, seeds: Iterable[int]) -> float:
  """Of some of the runs."""
  return statistics.spread([by_seed[seed]['loss'] for seed in seeds]).mean
