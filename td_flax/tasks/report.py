"""Figures of several models side by side: JSON, Markdown and a plot."""

import pathlib
from typing import Any, NamedTuple

from td_flax import artifacts, extras

Results = dict[str, dict[str, Any]]  # model -> suite -> its figures


def write(folder: pathlib.Path, results: Results, about: dict[str, Any]) -> str:
  """Writes report.json and report.md.

  Args:
    folder: is there.
    results: what each suite returned for each model, so far.
    about: what else the JSON tells: command, versions, machine.

  Returns:
    The Markdown.
  """
  artifacts.write_json(folder / 'report.json', {**about, 'models': results})
  text = _markdown(results)
  artifacts.write_atomically(folder / 'report.md', text.encode())
  return text


def draw(folder: pathlib.Path, results: Results) -> None:
  """Draws report.png where there is matplotlib, and something to compare.

  Args:
    folder: is there.
    results: what each suite returned for each model.
  """
  panels = _panels(results)
  if panels:
    _plot(folder / 'report.png', panels)


def _of(suite: str, results: Results) -> dict[str, Any]:
  """What a suite returned, by model, for those that it is done with."""
  return {name: x[suite] for name, x in results.items() if suite in x}


def _compares(heldout: dict[str, Any]) -> bool:
  """Whether losses per token are of the same tokens, in rows as long."""
  kinds = {(x['tokenizer'], x['row_length']) for x in heldout.values()}
  return len(kinds) == 1


def _markdown(results: Results) -> str:
  lines = ['# Evaluation', '']
  if heldout := _of('heldout', results):
    lines += [
      '## Held-out text',
      '',
      '| model | loss, nats per token | perplexity | accuracy | rows |',
      '|---|---|---|---|---|',
    ]
    for name, x in heldout.items():
      lines.append(
        f'| {name} | {x["loss"]:.4f} | {x["perplexity"]:.2f} | '
        f'{x["accuracy"]:.1%} | {x["rows"]:,} |'
      )
    if not _compares(heldout):
      lines += [
        '',
        'Losses do not compare: the tokenizers or the lengths of rows differ.',
      ]
    lines.append('')
  if glue := _of('glue', results):
    lines += _glue(glue)
  if blimp := _of('blimp', results):
    figures = list(blimp.values())
    lines += [
      f'## BLiMP, {figures[0]["pairs"]:,} pairs',
      '',
      f'| accuracy, % (chance: 50) | {" | ".join(blimp)} |',
      '|---|' + '---|' * len(blimp),
      _line('**overall**', [x['overall'] for x in figures]),
    ]
    for kind in ('fields', 'terms', 'paradigms'):
      lines += [
        _line(f'{name} ({kind[:-1]})', [x[kind][name] for x in figures])
        for name in figures[0][kind]
      ]
    lines.append('')
  return '\n'.join(lines)


def _glue(results: dict[str, Any]) -> list[str]:
  """Every official metric of GLUE's tasks, one a line."""
  first = next(iter(results.values()))
  lines = [
    f'## GLUE, dev, {first["seeds"]} seeds',
    '',
    f'| task (metric), x 100 | {" | ".join(results)} |',
    '|---|' + '---|' * len(results),
  ]
  for task, x in first['tasks'].items():
    for name in x['official']:
      cells = []
      for suite in results.values():
        figure = suite['tasks'][task]['figures'][name]
        deviation = figure['deviation']
        spread = '' if deviation is None else f' ± {100 * deviation:.1f}'
        cells.append(f'{100 * figure["mean"]:.1f}{spread}')
      lines.append(f'| {task} ({name}) | {" | ".join(cells)} |')
  averages = [x['average'] for x in results.values()]
  return [
    *lines,
    _line('**average**', averages),
    '',
    'The average is that of the tasks; a task with several metrics counts with '
    'their mean.',
    '',
  ]


def _line(name: str, accuracies: list[float]) -> str:
  cells = ' | '.join(f'{100 * x:.1f}' for x in accuracies)
  return f'| {name} | {cells} |'


class _Panel(NamedTuple):
  """Bars of several models.

  Attributes:
    title: what they show, and its unit.
    bars: by model and name.
    deviations: of the bars, where there are any.
    chance: what guessing gets; None where there is no such number.
    most: the end of the axis; None if there is no largest number.
  """

  title: str
  bars: dict[str, dict[str, float]]
  deviations: dict[str, dict[str, float]]
  chance: float | None
  most: float | None


def _panels(results: Results) -> list[_Panel]:
  """A panel for each suite whose figures compare."""
  panels = []
  heldout = _of('heldout', results)
  if heldout and _compares(heldout):
    bars = {model: {'loss': x['loss']} for model, x in heldout.items()}
    title = 'Held-out text, nats per token (less is better)'
    panels.append(_Panel(title, bars, {}, None, None))
  if blimp := _of('blimp', results):
    bars = {
      model: _percent({'overall': x['overall'], **x['terms']})
      for model, x in blimp.items()
    }
    title = 'BLiMP accuracy, % (dashed: chance)'
    panels.append(_Panel(title, bars, {}, 50, 100))
  if glue := _of('glue', results):
    bars, deviations = {}, {}
    for model, suite in glue.items():
      figures = {
        f'{task} ({name})': x['figures'][name]
        for task, x in suite['tasks'].items()
        for name in x['official']
      }
      means = {name: x['mean'] for name, x in figures.items()}
      bars[model] = _percent({'average': suite['average'], **means})
      deviations[model] = _percent(
        {name: x['deviation'] or 0.0 for name, x in figures.items()}
      )
    title = 'GLUE, dev, x 100 (lines: deviation)'
    panels.append(_Panel(title, bars, deviations, None, 100))
  return panels


def _percent(figures: dict[str, float]) -> dict[str, float]:
  return {name: 100 * x for name, x in figures.items()}


def _plot(path: pathlib.Path, panels: list[_Panel]) -> None:
  pyplot = extras.pyplot(str(path))
  if pyplot is None:
    return
  labels = [list(next(iter(x.bars.values())))[::-1] for x in panels]
  figure, columns = pyplot.subplots(
    ncols=len(panels),
    figsize=(7 * len(panels), 1.5 + 0.35 * max(map(len, labels))),
    squeeze=False,
  )
  for axes, panel, names in zip(columns[0], panels, labels, strict=True):
    height = 0.8 / len(panel.bars)
    for i, (model, bars) in enumerate(panel.bars.items()):
      places = [at + 0.4 - height * (i + 0.5) for at in range(len(names))]
      deviations = panel.deviations.get(model, {})
      axes.barh(
        places,
        [bars[name] for name in names],
        height,
        xerr=[deviations.get(name, 0.0) for name in names],
        label=model,
      )
    if panel.chance is not None:
      axes.axvline(panel.chance, color='black', linewidth=0.8, linestyle='--')
    axes.set_yticks(range(len(names)), [x.replace('_', ' ') for x in names])
    axes.set_xlim(right=panel.most)
    axes.set_xlabel(panel.title)
  columns[0][0].legend(loc='lower left', bbox_to_anchor=(0, 1), frameon=False)
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  pyplot.close(figure)
