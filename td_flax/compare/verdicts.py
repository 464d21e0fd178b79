"""Differences to baselines: cells of tables, and what follows in words."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from td_flax.compare import statistics
from td_flax.compare.differences import (
  CONTROLS,
  DIVERGED,
  OWN_GEOMETRY,
  UNTIMED,
)
from td_flax.compare.settings import PLAIN


class Scale(NamedTuple):
  """How a kind of figures is printed."""

  factor: float
  digits: int
  unit: str

  def signed(self, x: float) -> str:
    """A difference."""
    return f'{self.factor * x:+.{self.digits}f}'

  def size(self, x: float) -> str:
    """A figure, or how large a difference is."""
    return f'{self.factor * x:.{self.digits}f}'


# The differences that are told, by baseline and arm.
Told = dict[str, dict[str, Any]]

NATS, POINTS = Scale(1, 4, 'nats'), Scale(100, 2, 'points')


def mean_cell(x: dict[str, Any], scale: Scale = NATS) -> str:
  """Mean and deviation over seeds."""
  spread = '' if x['deviation'] is None else f' ± {scale.size(x["deviation"])}'
  return f'{scale.size(x["mean"])}{spread}'


def difference_cell(
  x: dict[str, Any] | None, ours: dict[str, Any], scale: Scale = NATS
) -> str:
  """A difference: mean, interval, verdict, seeds if not all."""
  if x is None:
    return ''
  parts = [scale.signed(x['mean'])]
  if x['low'] is not None:
    parts[0] += f' ({scale.signed(x["low"])} to {scale.signed(x["high"])})'
  if x['verdict']:
    parts.append(x['verdict'])
  if x['n'] < len(ours['seeds']):
    parts.append(f'n={x["n"]}')
  return ', '.join(parts)


def told(figures: dict[str, Any], baselines: Iterable[str]) -> Told:
  """The differences of a protocol's arms that are told."""
  found: Told = {baseline: {} for baseline in baselines}
  for arm, x in figures.items():
    for baseline, difference in x['against'].items():
      # A control is seen beside plain, and in its own column.
      if baseline == PLAIN or arm not in CONTROLS:
        found[baseline][arm] = difference
  return {baseline: by_arm for baseline, by_arm in found.items() if by_arm}


# What follows from the differences to a baseline, by their verdict.
_FOLLOWS = {
  'better': 'better than {}',
  'worse': 'worse than {}',
  'not distinguishable': (
    'not distinguishable from {}, so neither a difference nor equality follows'
  ),
  OWN_GEOMETRY: (
    'no verdict by losses against {}, since one of the two trains something '
    'else than plain BERT; scores decide'
  ),
  DIVERGED: (
    'no verdict against {}, since not all runs reached their end with finite '
    'figures'
  ),
  UNTIMED: (
    'no verdict against {}, since no arm ran at two lengths, which would tell '
    'what the errors of the step times are worth'
  ),
  '': 'no verdict against {}, since one seed has no interval',
}


def words(told: Told, scale: Scale = NATS, of: str = '') -> list[str]:
  """What follows from differences, a line for each baseline and verdict."""
  lines = []
  for baseline, by_arm in told.items():
    for verdict, follows in _FOLLOWS.items():
      arms = [
        f'{arm} by {scale.size(abs(x["mean"]))} {scale.unit}'
        if verdict in ('better', 'worse')
        else arm
        for arm, x in by_arm.items()
        if x['verdict'] == verdict
      ]
      if arms:
        lines.append(f'- {of}{follows.format(baseline)}: {", ".join(arms)}')
  seeds = [x['n'] for by_arm in told.values() for x in by_arm.values()]
  return lines + preliminary(seeds)


def preliminary(seeds: list[int]) -> list[str]:
  """What too few seeds mean, given how many each figure has."""
  fewest = min(seeds, default=statistics.ENOUGH_SEEDS)
  if fewest >= statistics.ENOUGH_SEEDS:
    return []
  return ['', f'Preliminary: {fewest} seed{"s" * (fewest > 1)}.']


def by_chance(several: Iterable[Told]) -> list[str]:
  """What several verdicts at once mean."""
  verdicts = sum(
    x['verdict'] not in ('', DIVERGED, OWN_GEOMETRY, UNTIMED)
    for told in several
    for by_arm in told.values()
    for x in by_arm.values()
  )
  if verdicts < 2:
    return []
  return [
    '',
    f'Each interval stands for itself: of {verdicts} differences that are '
    f'none, {0.05 * verdicts:.2g} would on average be called better or worse.',
  ]
