"""What the finished runs say: report.json, report.md and plots."""

import pathlib
from collections.abc import Iterable
from typing import Any

from td_flax import artifacts
from td_flax.compare import plots, verdicts
from td_flax.compare.differences import CONTROLS, DIVERGED
from td_flax.compare.settings import (
  EQUAL_TIME,
  PLAIN,
  SHALLOW,
  TIME_TO_TARGET,
)


def write(
  folder: pathlib.Path, found: dict[str, Any], about: dict[str, Any]
) -> None:
  """Writes report.json, report.md and, with matplotlib, the plots.

  Args:
    folder: is there.
    found: of `figures.content`.
    about: what else the JSON tells: command, versions, machine.
  """
  artifacts.write_json(
    folder / 'report.json', {**about, **found}, allow_nan=False
  )
  drawn = plots.draw(folder, found)
  page = markdown(found)
  if drawn:
    images = '\n'.join(f'![{name}]({name}.png)' for name in drawn)
    page += f'\n## Plots\n\n{images}\n'
  artifacts.write_atomically(folder / 'report.md', page.encode())


def markdown(found: dict[str, Any]) -> str:
  """The report as a page of text, without plots."""
  lines = [f'# Comparison `{found["name"]}`', '']
  if not found['conclusive']:
    lines += [f'**INCONCLUSIVE: {found["inconclusive_because"]}.**', '']
  unscored = found['unscored_runs']
  if found['finished_runs'] < found['planned_runs'] or unscored:
    lines += [
      '**UNFINISHED: a verdict that is looked for run after run is found too '
      'often; what counts is said when all runs are done.**',
      '',
    ]
  seeds = sorted({x['seed'] for x in found['runs']})
  without = f' ({unscored} still without scores)' if unscored else ''
  lines += [
    f'Rests on {found["finished_runs"]} of {found["planned_runs"]} planned '
    f'runs{without}, seeds {", ".join(map(str, seeds))}. Losses are held out, '
    'at the end of training, in nats per predicted token; ± is the sample '
    'deviation over seeds. Intervals are 95% '
    "intervals of the mean paired difference by Student's t. They hold for "
    'these held-out rows and masks, the same for all: others would move a '
    'difference too.',
    '',
    'Without context a prediction costs {unigram:.3f} nats by how frequent '
    'tokens are, and {shown:.3f} by what is shown at the position too, a tenth '
    'of the time the token itself.'.format(**found['context_free_loss']),
    '',
  ]
  problems = [f'{run}: {why}' for run, why in found['failed_runs'].items()]
  problems += [
    f'{run}: its loss is not finite' for run in found['not_finite_runs']
  ]
  problems += [f'{x} is not finite' for x in found['not_finite_scores']]
  if problems:
    lines += [*(f'- failed: {problem}' for problem in problems), '']
  lines += _arms(found)
  for protocol, figures in found['protocols'].items():
    left_out = [arm for arm, x in figures.items() if x is None]
    figures = {arm: x for arm, x in figures.items() if x is not None}
    if not figures:
      continue
    lines += ['', f'## {protocol.capitalize().replace("_", " ")}', '']
    if protocol == TIME_TO_TARGET:
      lines += _target(figures, conclusive=found['conclusive'])
    else:
      told = verdicts.told(figures, found['baselines'])
      lines += [*_losses_table(protocol, figures, told), '']
      if found['conclusive']:
        lines += [*verdicts.words(told), *verdicts.by_chance([told])]
      else:
        lines += ['Inconclusive: nothing follows from these differences.']
      if protocol == EQUAL_TIME:
        lines += _worth(found)
      lines += _scores(
        figures, found['baselines'], conclusive=found['conclusive']
      )
    if left_out:
      lines += ['', f'No figures: {", ".join(left_out)}.']
  lines += _front(found)
  return '\n'.join(lines) + '\n'


def _arms(found: dict[str, Any]) -> list[str]:
  timing = found['timing']
  plain = found['arms'][PLAIN]['flops_per_row']
  lines = [
    '## Arms',
    '',
    f'Measured on {timing["device_kind"]}: plain BERT takes '
    f'{1e3 * timing["arms"][PLAIN]["seconds_per_step"]:,.1f} ms a step. Step '
    f'times are medians of interleaved turns ({timing["rounds"]} in all; of '
    'several processes the mean), ± their standard error, quartiles in '
    'brackets. Compiling, evaluation, data and saving are in no time.',
    '',
    "| arm | changes | plain's FLOPs per row | plain's step time |",
    '|---|---|---|---|',
  ]
  for arm, x in found['arms'].items():
    timed = timing['arms'][arm]
    low, high = timed['quartiles']
    lines.append(
      f'| {arm} | `{x["change"]}` | x {x["flops_per_row"] / plain:.3f} | '
      f'x {timed["ratio"]:.3f} ± {timed["error"]:.3f} ({low:.3f} to '
      f'{high:.3f}) |'
    )
  others = [
    arm
    for arm, x in found['arms'].items()
    if arm not in CONTROLS and not x['imitated']
  ]
  if others:
    # There is always `random`, and `shallow` where it can be.
    who = '`random` and `shallow` imitate'
    if SHALLOW not in found['arms']:
      who = '`random` imitates'
    lines += [
      '',
      f'{who} `{found["reference"]}`. Not these: {", ".join(others)}. They '
      'drop in other layers, parts or shares, or cost something else, and so '
      'their differences to a control are not of the choice of tokens alone.',
    ]
  return lines


def _losses_table(
  protocol: str, figures: dict[str, Any], told: verdicts.Told
) -> list[str]:
  has_own = any(x['own_loss'] for x in figures.values())
  head = ['arm', 'steps', 'loss', 'n', *(f'minus {x}' for x in told)]
  head += ['time', 'FLOPs']
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
    cells = [arm, f'{x["steps"]:,}', verdicts.mean_cell(x['loss'])]
    cells.append(str(len(x['seeds'])))
    cells += [
      verdicts.difference_cell(by_arm.get(arm), x) for by_arm in told.values()
    ]
    cells += [f'{x["time"]:.3f}', f'{x["flops_share"]:.3f}']
    if has_own:
      cells.append(verdicts.mean_cell(x['own_loss']) if x['own_loss'] else '')
    lines.append(f'| {" | ".join(cells)} |')
  return lines


def _worth(found: dict[str, Any]) -> list[str]:
  """What an error of the step times would mean at equal time."""
  worth = found['nats_per_percent_of_time']
  text = 'Step times have errors too, the same for all seeds of an arm: '
  if worth is None:
    text += (
      'no arm ran at two lengths, so what they are worth is not known, and in '
      'no interval; another protocol beside this one tells it.'
    )
  else:
    text += (
      f'1% of one is worth {worth:.4f} nats here, which the intervals of '
      'losses hold.'
    )
  return ['', text]


def _front(found: dict[str, Any]) -> list[str]:
  """What nothing beats in both time and loss."""
  if not found['front'] or not found['conclusive']:
    return []
  seeds = ', '.join(map(str, found['front'][0]['seeds']))
  lines = [
    '',
    '## Pareto front',
    '',
    'Arms and lengths that none beats in both time and mean loss, whatever the '
    f'deviations; seeds {seeds}.',
    '',
    "| arm | steps | plain's time | loss |",
    '|---' * 4 + '|',
  ]
  lines += [
    f'| {x["arm"]} | {x["steps"]:,} | x {x["time"]:.3f} | {x["loss"]:.4f} |'
    for x in found['front']
  ]
  return lines


def _scores(
  figures: dict[str, Any], baselines: Iterable[str], *, conclusive: bool
) -> list[str]:
  """The table of a protocol's scores, and what follows from them."""
  by_name: dict[str, dict[str, Any]] = {}
  for arm, x in figures.items():
    for name, score in x['scores'].items():
      by_name.setdefault(name, {})[arm] = score
  if not by_name:
    return []
  told = {
    name: verdicts.told(by_arm, baselines) for name, by_arm in by_name.items()
  }
  columns = [x for x in baselines if any(x in y for y in told.values())]
  head = ['score', 'arm', 'mean', 'n', *(f'minus {x}' for x in columns)]
  lines = [
    '',
    'Scores of the final checkpoints at full sequences, x 100: more is better. '
    'BLiMP without training (chance: 50), tasks of GLUE on dev after '
    'fine-tuning.',
    '',
    f'| {" | ".join(head)} |',
    '|---' * len(head) + '|',
  ]
  words = []
  for name, by_arm in by_name.items():
    for arm, x in by_arm.items():
      cells = [f'{name} ({x["metric"]})', arm]
      cells.append(verdicts.mean_cell(x['score'], verdicts.POINTS))
      cells.append(str(len(x['seeds'])))
      cells += [
        verdicts.difference_cell(
          told[name].get(column, {}).get(arm), x, verdicts.POINTS
        )
        for column in columns
      ]
      lines.append(f'| {" | ".join(cells)} |')
    words += ['', *verdicts.words(told[name], verdicts.POINTS, f'{name}: ')]
  if not conclusive:
    words = ['', 'Inconclusive: nothing follows from these differences either.']
  return [*lines, *words, *verdicts.by_chance(told.values())]


def _target(figures: dict[str, Any], *, conclusive: bool) -> list[str]:
  """The table of times and FLOPs to plain's loss."""
  lines = [
    "What an arm needs to reach plain's final loss for good, as a share of "
    "plain's: between runs of several lengths, linear in the time's logarithm. "
    '`<=` and `>` say that the mean loss crosses below or above all of them. '
    'The interval is of the geometric mean over seeds, and holds the error of '
    'the measured step time.',
    '',
    '| arm | n | time | 95% interval | of each seed | FLOPs | losses at shares '
    'of the time |',
    '|---' * 7 + '|',
  ]
  for arm, x in figures.items():
    losses = ', '.join(
      f'{point["time"]:.2f}: {point["loss"]:.4f}' for point in x['points']
    )
    seeds = ', '.join(_crossing(y['time']) for y in x['by_seed'].values())
    cells = [_crossing(x['time']), '', seeds, _crossing(x['flops_share'])]
    if x['diverged']:
      cells = [DIVERGED, '', seeds, '']
    elif x['interval']:
      cells[1] = '{:.3f} to {:.3f}'.format(*x['interval'])
    lines.append(
      f'| {arm} | {len(x["seeds"])} | {" | ".join(cells)} | {losses} |'
    )
  if conclusive:
    words = [
      f'- {_time_in_words(arm, x)}'
      for arm, x in figures.items()
      if arm != PLAIN
    ]
  else:
    words = ['Inconclusive: nothing follows from these times.']
  words += verdicts.preliminary([len(x['seeds']) for x in figures.values()])
  return [*lines, '', *words]


def _time_in_words(arm: str, x: dict[str, Any]) -> str:
  """What follows from an arm's time to plain's loss."""
  if x['diverged']:
    return f'{arm}: not all runs reached their end, so no verdict.'
  relations = {y['time']['relation'] for y in x['by_seed'].values()}
  if x['time']['relation'] == '>':
    within = "within plain's time"
    if len(x['seeds']) > 1 and relations == {'>'}:
      return f"No seed of {arm} reaches plain's loss {within}."
    why = 'one seed' if len(x['seeds']) == 1 else 'some seed does'
    return (
      f"{arm} does not reach plain's loss {within} on average; no interval "
      f'({why}), so no verdict.'
    )
  needed = f"{_crossing(x['time'])} of plain's time to plain's loss"
  if x['interval'] is None:
    why = 'one seed'
    if len(x['seeds']) > 1:
      why = 'some seed crosses outside of the runs'
      if relations == {'<='}:
        why = 'its shortest runs are below it with every seed'
    return f'{arm} needs {needed}; no interval ({why}), so no verdict.'
  low, high = x['interval']
  interval = f'({low:.3f} to {high:.3f})'
  if low <= 1 <= high:
    return (
      f'{arm} is not distinguishable from plain {interval}: needs {needed}.'
    )
  return f'{arm} needs {needed} {interval}.'


def _crossing(x: dict[str, Any]) -> str:
  return f'{x["relation"]} {x["at"]:.3f}'.removeprefix('= ')
