"""What the finished runs say: report.json, report.md and plots."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from td_flax import artifacts
from td_flax.compare import plots, statistics
from td_flax.compare.plan import Arm, Lengths
from td_flax.compare.settings import (
  EQUAL_TIME,
  PLAIN,
  RANDOM,
  SHALLOW,
  TIME_TO_TARGET,
)

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
    mean = statistics.spread(_losses(target)).mean
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


def _losses(by_seed: dict[int, dict[str, Any]]) -> list[float]:
  return [x['loss'] for x in by_seed.values()]


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
  against = {}
  for control in CONTROLS:
    # There is no `shallow` where training goes on from somebody's weights.
    theirs = rows.get((control, *by_arm.get(control, ())), {})
    seeds = _common(ours, theirs)
    if control == arm or not seeds:
      continue
    found = statistics.paired(
      *([x[seed]['loss'] for seed in seeds] for x in (ours, theirs))
    )
    verdict = found.verdict if conclusive else ''
    against[control] = {**found._asdict(), 'verdict': verdict}
  own = [x['own_loss'] for x in ours.values() if x['own_loss'] is not None]
  one = next(iter(ours.values()))
  return {
    'steps': steps,
    'seeds': sorted(ours),
    'loss': statistics.spread(_losses(ours))._asdict(),
    'own_loss': statistics.spread(own)._asdict() if own else None,
    'seconds': one['seconds'],
    'time': one['time'],
    'flops_share': one['flops_share'],
    'against': against,
  }


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


def write(
  folder: pathlib.Path, found: dict[str, Any], about: dict[str, Any]
) -> None:
  """Writes report.json, report.md and, with matplotlib, the plots.

  Args:
    folder: is there.
    found: of `content`.
    about: what else the JSON tells: command, versions, machine.
  """
  text = json.dumps({**about, **found}, indent=1, allow_nan=False) + '\n'
  artifacts.write_atomically(folder / 'report.json', text.encode())
  artifacts.write_atomically(folder / 'report.md', markdown(found).encode())
  plots.draw(folder, found)


def markdown(found: dict[str, Any]) -> str:
  """The report as a page of text."""
  lines = [f'# Comparison `{found["name"]}`', '']
  if not found['conclusive']:
    lines += [f'**INCONCLUSIVE: {found["inconclusive_because"]}.**', '']
  lines += [
    f'Rests on {found["finished_runs"]} of {found["planned_runs"]} planned '
    'runs. Losses are held out, at the end of training, in nats per predicted '
    'token; ± is the sample deviation over seeds. Intervals are 95% '
    "intervals of the mean paired difference by Student's t.",
    '',
  ]
  problems = [f'{run}: {why}' for run, why in found['failed_runs'].items()]
  problems += [
    f'{run}: its loss is not finite' for run in found['not_finite_runs']
  ]
  if problems:
    lines += [*(f'- failed: {problem}' for problem in problems), '']
  lines += _arms(found)
  for protocol, figures in found['protocols'].items():
    figures = {arm: x for arm, x in figures.items() if x is not None}
    if not figures:
      continue
    lines += ['', f'## {protocol.capitalize().replace("_", " ")}', '']
    if protocol == TIME_TO_TARGET:
      lines += _target(figures)
    else:
      lines += [*_losses_table(protocol, figures), '']
      lines += _words(figures, conclusive=found['conclusive'])
  return '\n'.join(lines) + '\n'


def _arms(found: dict[str, Any]) -> list[str]:
  timing = found['timing']
  plain = found['arms'][PLAIN]['flops_per_row']
  lines = [
    '## Arms',
    '',
    f'Measured on {timing["device_kind"]}: plain BERT takes '
    f'{1e3 * timing["arms"][PLAIN]["seconds_per_step"]:,.1f} ms a step (median '
    f'of {timing["rounds"]} interleaved turns; quartiles in brackets).',
    '',
    "| arm | changes | plain's FLOPs per row | plain's step time |",
    '|---|---|---|---|',
  ]
  for arm, x in found['arms'].items():
    timed = timing['arms'][arm]
    low, high = timed['quartiles']
    lines.append(
      f'| {arm} | `{x["change"]}` | x {x["flops_per_row"] / plain:.3f} | '
      f'x {timed["ratio"]:.3f} ({low:.3f} to {high:.3f}) |'
    )
  return lines


def _losses_table(protocol: str, figures: dict[str, Any]) -> list[str]:
  has_own = any(x['own_loss'] for x in figures.values())
  head = ['arm', 'steps', 'loss', 'n', 'minus plain', '95% interval']
  head += ['verdict', 'time', 'FLOPs']
  head += ["loss of the policy's own evaluation"] if has_own else []
  what = (
    "every arm takes as many steps as fit into plain's time"
    if protocol == EQUAL_TIME
    else 'every arm takes the same number of steps'
  )
  lines = [
    f"{what.capitalize()}; time and FLOPs are shares of plain's.",
    '',
    f'| {" | ".join(head)} |',
    '|---' * len(head) + '|',
  ]
  for arm, x in figures.items():
    to_plain = x['against'].get(PLAIN)
    cells = [arm, f'{x["steps"]:,}', _spread(x['loss']), str(len(x['seeds']))]
    cells += [f'{to_plain["mean"]:+.4f}'] if to_plain else ['']
    cells += (
      [_interval(to_plain), to_plain['verdict']] if to_plain else ['', '']
    )
    cells += [f'{x["time"]:.3f}', f'{x["flops_share"]:.3f}']
    if has_own:
      cells.append(_spread(x['own_loss']) if x['own_loss'] else '')
    lines.append(f'| {" | ".join(cells)} |')
  return lines


def _spread(x: dict[str, Any]) -> str:
  spread = '' if x['deviation'] is None else f' ± {x["deviation"]:.4f}'
  return f'{x["mean"]:.4f}{spread}'


def _interval(x: dict[str, Any]) -> str:
  return '' if x['low'] is None else f'{x["low"]:+.4f} to {x["high"]:+.4f}'


def _words(figures: dict[str, Any], *, conclusive: bool) -> list[str]:
  """What follows from a protocol's losses, a line for each difference."""
  if not conclusive:
    return ['Inconclusive: nothing follows from these differences.']
  lines = []
  for arm, x in figures.items():
    for control, difference in x['against'].items():
      # How the controls differ among themselves is seen beside plain.
      if control == PLAIN or arm not in CONTROLS:
        lines.append(f'- {sentence(arm, control, difference)}')
  verdicts = sum(
    x['against'][PLAIN]['verdict'] != ''
    for x in figures.values()
    if PLAIN in x['against']
  )
  if verdicts > 1:
    lines += [
      '',
      f'Each interval stands for itself: of {verdicts} arms that equal plain, '
      f'{0.05 * verdicts:.2g} would on average be called better or worse.',
    ]
  return lines


def sentence(arm: str, control: str, x: dict[str, Any]) -> str:
  """A difference in words.

  Args:
    arm: whose loss it is.
    control: whose loss is subtracted.
    x: `n`, `mean`, `low`, `high`, `verdict`.
  """
  if x['low'] is None:
    return (
      f'{arm}, {control}: one seed, so no interval and no verdict (difference '
      f'{x["mean"]:+.4f}).'
    )
  if x['verdict'] == 'not distinguishable':
    text = (
      f'{arm} is not distinguishable from {control} ({_interval(x)}): neither '
      'a difference nor equality follows.'
    )
  else:
    text = (
      f'{arm} is {x["verdict"]} than {control} by {abs(x["mean"]):.4f} nats '
      f'({_interval(x)}).'
    )
  if x['n'] < statistics.ENOUGH_SEEDS:
    text += f' Preliminary: {x["n"]} seeds.'
  return text


def _target(figures: dict[str, Any]) -> list[str]:
  """The table of times and FLOPs to plain's loss."""
  lines = [
    "What an arm needs to reach plain's final loss, as a share of plain's: "
    'between runs that end at each budget, linear in its logarithm. `<=` and '
    '`>` say that the mean loss crosses below or above all budgets.',
    '',
    '| arm | n | time | of each seed | FLOPs | losses by share of the time |',
    '|---|---|---|---|---|---|',
  ]
  for arm, x in figures.items():
    losses = ', '.join(
      f'{point["time"]:.2f}: {point["loss"]:.4f}' for point in x['points']
    )
    seeds = ', '.join(_crossing(y['time']) for y in x['by_seed'].values())
    lines.append(
      f'| {arm} | {len(x["seeds"])} | {_crossing(x["time"])} | {seeds} | '
      f'{_crossing(x["flops_share"])} | {losses} |'
    )
  fewest = min(len(x['seeds']) for x in figures.values())
  if fewest < statistics.ENOUGH_SEEDS:
    lines += ['', f'Preliminary: {fewest} seed{"s" * (fewest > 1)}.']
  return lines


def _crossing(x: dict[str, Any]) -> str:
  return f'{x["relation"]} {x["at"]:.3f}'.removeprefix('= ')
