"""Plots of a comparison, where matplotlib (the extra `plot`) is there."""

import pathlib
import statistics
import types
from collections.abc import Iterator
from typing import Any

from td_flax import extras
from td_flax.compare.settings import (
  EQUAL_STEPS,
  EQUAL_TIME,
  PLAIN,
  PROTOCOLS,
  SCORED,
)

# Losses of the first part of a run would leave no room for the others.
_SHOWN_FROM = 0.2


def draw(folder: pathlib.Path, found: dict[str, Any]) -> list[str]:
  """Draws loss_steps, loss_time, loss_flops, pareto and scores, each a .png.

  Args:
    folder: is there.
    found: of `figures.content`.

  Returns:
    The names of those that were drawn.
  """
  pyplot = extras.pyplot(f'{folder}: plots')
  if pyplot is None or all(x['loss'] is None for x in found['runs']):
    return []
  drawn = []
  for name, figure in _figures(pyplot, found):
    figure.tight_layout()
    part = folder / f'{name}.tmp.png'
    figure.savefig(part, dpi=120)
    part.replace(folder / f'{name}.png')
    pyplot.close(figure)
    drawn.append(name)
  return drawn


def _figures(
  pyplot: types.ModuleType, found: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
  """The plots that there are runs for, by name."""
  others = [arm for arm in found['arms'] if arm != PLAIN]
  palette = pyplot.get_cmap('tab10' if len(others) <= 10 else 'tab20')
  colors = {arm: palette(i % palette.N) for i, arm in enumerate(others)}
  colors[PLAIN] = 'black'
  title = found['name']
  if not found['conclusive']:
    title += ' (INCONCLUSIVE)'
  title += f': {found["finished_runs"]} of {found["planned_runs"]} runs'
  timed = _runs(found, EQUAL_TIME)
  for name, label, key, runs in (
    ('loss_steps', 'steps', 'steps', _runs(found, EQUAL_STEPS)),
    ('loss_time', 'seconds of training steps', 'seconds', timed),
    ('loss_flops', 'matmul FLOPs', 'flops', timed),
    ('pareto', "time of training steps, share of plain's", '', {}),
  ):
    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    if key:
      _curves(axes, runs, key, colors)
    else:
      _pareto(axes, found, colors)
    if not axes.has_data():  # no run of this protocol is finished yet
      pyplot.close(figure)
      continue
    axes.set(xlabel=label, ylabel='held-out loss, nats per predicted token')
    axes.grid(alpha=0.3)
    # Beside the axes: of many arms it would hide what they did.
    beside = {'loc': 'upper left', 'bbox_to_anchor': (1, 1.02)}
    axes.legend(frameon=False, fontsize='small', **beside)
    axes.set_title(title)
    yield name, figure
  names = list(dict.fromkeys(y for x in found['runs'] for y in x['scores']))
  if not names:
    return
  protocols = [x for x in SCORED if x in found['lengths']]
  size = 1.5 + 2.5 * len(names), 1 + 3 * len(protocols)
  figure, grid = pyplot.subplots(
    len(protocols), len(names), figsize=size, squeeze=False
  )
  for row, protocol in zip(grid, protocols, strict=True):
    row[0].set_ylabel('score x 100')
    for axes, name in zip(row, names, strict=True):
      _scores(axes, _runs(found, protocol), name, colors)
      axes.set_title(f'{name}, {protocol.replace("_", " ")}')
  figure.suptitle(title)
  yield 'scores', figure


def _runs(
  found: dict[str, Any], protocol: str
) -> dict[str, list[dict[str, Any]]]:
  """Every arm's longest runs in a protocol, or in the nearest there is."""
  there = found['lengths']
  i = PROTOCOLS.index(protocol)
  nearest = next(x for x in (*PROTOCOLS[i:], *PROTOCOLS[:i]) if x in there)
  by_arm = {
    arm: [
      x
      for x in found['runs']
      if (x['arm'], x['steps']) == (arm, steps[-1]) and x['loss'] is not None
    ]
    for arm, steps in there[nearest].items()
  }
  return {arm: runs for arm, runs in by_arm.items() if runs}


def _curves(
  axes: Any,
  by_arm: dict[str, list[dict[str, Any]]],
  key: str,
  colors: dict[str, str],
) -> None:
  """The mean loss over seeds, in a band from the lowest to the highest."""
  shown = []
  for arm, runs in by_arm.items():
    curves = [dict(x['curve']) for x in runs]
    # A loss on the way may have been infinite: there is no mean of it.
    steps = sorted(set.intersection(*map(set, curves)))
    losses = [[curve[step] for curve in curves] for step in steps]
    x = [step * runs[0][key] / runs[0]['steps'] for step in steps]
    mean = [statistics.fmean(values) for values in losses]
    axes.plot(x, mean, color=colors[arm], label=f'{arm} ({len(runs)})')
    low, high = [min(y) for y in losses], [max(y) for y in losses]
    axes.fill_between(x, low, high, color=colors[arm], alpha=0.15, linewidth=0)
    first = _SHOWN_FROM * steps[-1]
    for step, *range_ in zip(steps, low, high, strict=True):
      shown += range_ if step >= first else []
  if shown:  # plain's runs may not have finished yet
    room = 0.05 * (max(shown) - min(shown)) or 0.1
    axes.set_ylim(min(shown) - room, max(shown) + room)


def _scores(
  axes: Any,
  by_arm: dict[str, list[dict[str, Any]]],
  name: str,
  colors: dict[str, str],
) -> None:
  """Every run a dot, the mean of an arm a line through its dots."""
  for i, (arm, runs) in enumerate(by_arm.items()):
    scores = [
      100 * x['scores'][name]['score']
      for x in runs
      if name in x['scores'] and x['scores'][name]['score'] is not None
    ]
    if scores:
      axes.scatter([i] * len(scores), scores, color=colors[arm], alpha=0.5)
      mean = statistics.fmean(scores)
      axes.hlines(mean, i - 0.3, i + 0.3, color=colors[arm])
  axes.set_xticks(range(len(by_arm)), by_arm, rotation=45, ha='right')
  axes.set_xlim(-0.5, len(by_arm) - 0.5)
  axes.grid(alpha=0.3)


def _pareto(axes: Any, found: dict[str, Any], colors: dict[str, str]) -> None:
  """Every arm and length, and the front: nothing is faster and better.

  Not the arms that train something else: their losses are not comparable.
  """
  groups: dict[str, dict[float, list[float]]] = {}
  for x in found['runs']:
    own = found['arms'][x['arm']]['own_geometry']
    if x['loss'] is not None and not own:
      by_time = groups.setdefault(x['arm'], {})
      by_time.setdefault(x['time'], []).append(x['loss'])
  for arm, by_time in groups.items():
    times = sorted(by_time)
    means = [statistics.fmean(by_time[x]) for x in times]
    spread = [
      statistics.stdev(by_time[x]) if len(by_time[x]) > 1 else 0.0
      for x in times
    ]
    axes.errorbar(
      times,
      means,
      spread,
      color=colors[arm],
      marker='o',
      linestyle='none',
      capsize=3,
      label=arm,
    )
  front = [(x['time'], x['loss']) for x in found['front']]
  if not front:
    return
  axes.plot(
    *zip(*front, strict=True),
    color='gray',
    linestyle='--',
    drawstyle='steps-post',
    linewidth=1,
    zorder=0,
    label='Pareto front',
  )
  axes.scatter(
    *zip(*front, strict=True), s=120, facecolors='none', edgecolors='gray'
  )
  # At equal time, arms differ by rounding only.
  earliest = min(time for by_time in groups.values() for time in by_time)
  axes.set_xlim(left=min(earliest, 0.9) - 0.05)
