"""Figures of several models side by side: JSON, Markdown and a plot."""

import json
import pathlib
from typing import Any

from td_flax import artifacts, progress

Results = dict[str, dict[str, Any]]  # model -> suite -> its figures


def write(folder: pathlib.Path, results: Results, about: dict[str, Any]) -> str:
  """Writes report.json, report.md and, with matplotlib, report.png.

  Args:
    folder: made if it is missing.
    results: what each suite returned for each model.
    about: what else the JSON tells: command, versions, machine.

  Returns:
    The Markdown.
  """
  folder.mkdir(parents=True, exist_ok=True)
  content = json.dumps({**about, 'models': results}, indent=1) + '\n'
  artifacts.write_atomically(folder / 'report.json', content.encode())
  text = _markdown(results)
  artifacts.write_atomically(folder / 'report.md', text.encode())
  if any('blimp' in suites for suites in results.values()):
    _plot(folder / 'report.png', results)
  return text


def _markdown(results: Results) -> str:
  lines = ['# Evaluation', '']
  names = list(results)
  if any('heldout' in suites for suites in results.values()):
    lines += [
      '## Held-out text',
      '',
      '| model | loss, nats per token | perplexity | accuracy | rows |',
      '|---|---|---|---|---|',
    ]
    for name, suites in results.items():
      x = suites['heldout']
      lines.append(
        f'| {name} | {x["loss"]:.4f} | {x["perplexity"]:.2f} | '
        f'{x["accuracy"]:.1%} | {x["rows"]:,} |'
      )
    lines.append('')
  if any('glue' in suites for suites in results.values()):
    lines += _glue({name: suites['glue'] for name, suites in results.items()})
  if any('blimp' in suites for suites in results.values()):
    figures = [suites['blimp'] for suites in results.values()]
    lines += [
      f'## BLiMP, {figures[0]["pairs"]:,} pairs',
      '',
      f'| accuracy, % (chance: 50) | {" | ".join(names)} |',
      '|---|' + '---|' * len(names),
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
  """GLUE's tasks, one a line."""
  first = next(iter(results.values()))
  lines = [
    f'## GLUE, dev, {first["seeds"]} seeds',
    '',
    f'| task (metric), x 100 | {" | ".join(results)} |',
    '|---|' + '---|' * len(results),
  ]
  for task, x in first['tasks'].items():
    cells = []
    for suite in results.values():
      mean, deviation = (
        suite['tasks'][task][key] for key in ('mean', 'deviation')
      )
      spread = '' if deviation is None else f' ± {100 * deviation:.1f}'
      cells.append(f'{100 * mean:.1f}{spread}')
    lines.append(f'| {task} ({x["metric"]}) | {" | ".join(cells)} |')
  averages = [x['average'] for x in results.values()]
  return [*lines, _line('**average**', averages), '']


def _line(name: str, accuracies: list[float]) -> str:
  cells = ' | '.join(f'{100 * x:.1f}' for x in accuracies)
  return f'| {name} | {cells} |'


def _plot(path: pathlib.Path, results: Results) -> None:
  try:
    import matplotlib as mpl
  except ImportError:
    progress.write_line(
      f'{path}: not drawn; that needs the extra `plot`: pip install '
      "'td_flax[plot]'"
    )
    return
  mpl.use('Agg')
  from matplotlib import pyplot

  figures = {name: suites['blimp'] for name, suites in results.items()}
  terms = list(next(iter(figures.values()))['terms'])
  labels = ['overall', *terms][::-1]
  height = 0.8 / len(figures)
  figure, axes = pyplot.subplots(figsize=(7, 1.5 + 0.35 * len(labels)))
  for i, (name, x) in enumerate(figures.items()):
    values = [100 * x['terms'].get(label, x['overall']) for label in labels]
    places = [at + 0.4 - height * (i + 0.5) for at in range(len(labels))]
    axes.barh(places, values, height, label=name)
  axes.axvline(50, color='black', linewidth=0.8, linestyle='--')
  axes.set_yticks(range(len(labels)), [x.replace('_', ' ') for x in labels])
  axes.set_xlim(0, 100)
  axes.set_xlabel('BLiMP accuracy, % (dashed: chance)')
  axes.legend(loc='lower left', bbox_to_anchor=(0, 1), frameon=False)
  figure.tight_layout()
  figure.savefig(path, dpi=120)
  pyplot.close(figure)
