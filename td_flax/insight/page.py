"""The report as one HTML page that needs nothing else, and its plots."""

import base64
import html
import json
import pathlib
from typing import Any

import numpy as np

from td_flax import artifacts, progress
from td_flax.data.vocabulary import Tokenizer
from td_flax.insight.kept import Kept

_SAMPLES = 6  # rows that are shown token by token
_SHARES = {
  'frequency': 'By frequency: rank of the id in the corpus',
  'position': 'By position in the row',
  'classes': 'By word class',
}
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto;
  padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: 0.1em 0.8em; text-align: left; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% }
.beside { display: flex; flex-wrap: wrap; gap: 0 3em }
p.row { border-left: 3px solid #ddd; padding-left: 1em }
span.predicted { outline: 2px solid #c60; border-radius: 2px }
span.special { color: #888; font-size: 80% }
"""


def write(folder: pathlib.Path, content: dict[str, Any], samples: str) -> None:
  """Writes report.json, plots as PNG, and index.html, which holds them too.

  Args:
    folder: made where it is missing.
    content: what report.json holds.
    samples: of `sentences`.
  """
  folder.mkdir(parents=True, exist_ok=True)
  images = _plots(folder, content)
  body = [
    f'<h1>What <code>{html.escape(content["workdir"])}</code> drops</h1>',
    f'<p>{html.escape(content["about"])}</p>',
  ]
  body += [
    '<h2>Token by token</h2>',
    '<p>The paler, the fewer of the layers that drop tokens let it through. '
    'Predicted tokens have a frame: most are shown as [MASK], which is always '
    'kept. Point at a token for its importance.</p>',
    samples,
    '<h2>What is kept</h2>',
    '<p>Share of these layers that a token passes through, over tokens that '
    'are neither special nor predicted.</p>',
    _image('shares', images),
  ]
  shares = [
    f'<div><h3>{title}</h3>{_shares(content[key])}</div>'
    for key, title in _SHARES.items()
    if key in content
  ]
  body.append(_beside(shares))
  if content['extremes']:
    body += ['<h2>The importance table</h2>', _extremes(content['extremes'])]
  body += [_image(x, images) for x in ('importance', 'drift')]
  page = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
    f'<title>Tokens of {html.escape(content["workdir"])}</title>'
    f'<style>{_STYLE}</style><body>{"".join(body)}</body></html>\n'
  )
  text = json.dumps(content, indent=1) + '\n'
  artifacts.write_atomically(folder / 'report.json', text.encode())
  artifacts.write_atomically(folder / 'index.html', page.encode())


def sentences(
  kept: Kept, tokenizer: Tokenizer, table: np.ndarray | None
) -> str:
  """The first rows, every token as pale as it is dropped.

  Args:
    kept: the rows.
    tokenizer: writes them.
    table: importance of every id; None where the policy has none.
  """
  special = tokenizer.special
  rows = []
  for ids, shown, share, free in zip(
    *(x[:_SAMPLES] for x in kept), strict=True
  ):
    spans = []
    for i, index in enumerate(ids):
      if index == special.pad:
        continue
      kind = 'free' if free[i] else 'predicted'
      if index in special.as_tuple():
        kind = 'special'
      notes = [] if table is None else [f'importance {table[index]:.3f}']
      if shown[i] != index:
        notes.append(f'shown as {tokenizer.piece(int(shown[i]))}')
      spans.append(
        f'<span class="{kind}" style="opacity:{0.25 + 0.75 * share[i]:.2f}" '
        f'title="{html.escape(", ".join(notes))}">'
        f'{html.escape(tokenizer.piece(int(index)))}</span>'
      )
    rows.append(f'<p class="row">{" ".join(spans)}</p>')
  return ''.join(rows)


def _extremes(found: dict[str, list[dict[str, Any]]]) -> str:
  titles = {
    'least': 'Least important: dropped first',
    'most': 'Most important: dropped last',
  }
  head = 'piece', 'importance', 'in the corpus'
  parts = []
  for name, title in titles.items():
    rows = [
      (x['piece'], f'{x["importance"]:.3f}', f'{x["count"]:,}')
      for x in found[name]
    ]
    parts.append(f'<div><h3>{title}</h3>{_table(head, rows)}</div>')
  return _beside(parts)


def _beside(parts: list[str]) -> str:
  return f'<div class="beside">{"".join(parts)}</div>'


def _shares(groups: list[dict[str, Any]]) -> str:
  rows = [(x['name'], f'{x["tokens"]:,}', f'{x["share"]:.1%}') for x in groups]
  return _table(('', 'tokens', 'kept'), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
  """Rows of a name and numbers."""
  lines = [f'<tr>{"".join(f"<th>{x}</th>" for x in head)}</tr>']
  for name, *numbers in rows:
    cells = ''.join(f'<td class="number">{x}</td>' for x in numbers)
    lines.append(f'<tr><td>{html.escape(name)}</td>{cells}</tr>')
  return f'<table>{"".join(lines)}</table>'


def _image(name: str, images: dict[str, bytes]) -> str:
  if name not in images:
    return ''
  data = base64.b64encode(images[name]).decode()
  return f'<img alt="{name}" src="data:image/png;base64,{data}">'


def _plots(folder: pathlib.Path, content: dict[str, Any]) -> dict[str, bytes]:
  """Draws what there is; the PNGs by name."""
  try:
    import matplotlib as mpl
  except ImportError:
    progress.write_line(
      f'{folder}: no plots; they need the extra `plot`: pip install '
      "'td_flax[plot]'"
    )
    return {}
  mpl.use('Agg')
  from matplotlib import pyplot

  images = {}

  def save(figure: Any, name: str) -> None:
    figure.tight_layout()
    path = folder / f'{name}.png'
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    images[name] = path.read_bytes()

  if content['histogram']:
    figure, axes = pyplot.subplots(figsize=(7, 3))
    edges = content['histogram']['edges']
    axes.stairs(content['histogram']['ids'], edges, fill=True)
    axes.set(xlabel='importance', ylabel='ids', yscale='log')
    save(figure, 'importance')
  if content['drift']['step']:
    figure, axes = pyplot.subplots(figsize=(7, 3))
    steps = content['drift']['step']
    for name, values in content['drift'].items():
      if name != 'step':
        label = f'{int(name.removeprefix("q"))}%'
        axes.plot(steps, values, label=label)
    axes.set(xlabel='step', ylabel='importance, quantiles')
    axes.legend(frameon=False)
    save(figure, 'drift')
  there = [key for key in _SHARES if content.get(key)]
  heights = [len(content[key]) + 1 for key in there]
  figure, grid = pyplot.subplots(
    len(there),
    figsize=(7, 0.35 * sum(heights) + 1),
    height_ratios=heights,
    squeeze=False,
  )
  for axes, key in zip(grid[:, 0], there, strict=True):
    groups = content[key][::-1]
    axes.barh([x['name'] for x in groups], [100 * x['share'] for x in groups])
    axes.set(title=_SHARES[key], xlim=(0, 100))
  grid[-1, 0].set_xlabel('kept, %')
  save(figure, 'shares')
  return images
