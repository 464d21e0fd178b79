"""The report as one HTML page that needs nothing else, and its plots."""

import base64
import html
import itertools
import pathlib
from typing import Any

import numpy as np

from td_flax import artifacts, extras
from td_flax.data.vocabulary import Tokenizer
from td_flax.insight.kept import Kept

_SAMPLES = 6  # rows that are shown token by token
_SHARES = {
  'frequency': 'By rank of frequency',
  'position': 'By position in the row',
  'classes': 'By word class',
}
_CURVES = {
  'full': 'all tokens in all layers',
  'dropping': 'as it drops',
  'against': 'the other run',
}
_KINDS = {
  'all': 'all words',
  'passing': 'words whose token is kept',
  'skipping': 'words whose token is dropped',
}
_BASELINES = {
  'majority': 'most frequent class',
  'token': "most frequent class of the word's first token",
}
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto;
  padding: 0 1em; color: #222 }
h1, p { overflow-wrap: anywhere }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: 0.1em 0.8em; text-align: left; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { padding-left: 0 }
th + th { text-align: right }
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
  if 'probe' in content:
    body += _probe(content, images)
  if content['extremes']:
    body += ['<h2>The importance table</h2>', _extremes(content['extremes'])]
  body += [_image(x, images) for x in ('importance', 'drift')]
  page = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
    f'<title>Tokens of {html.escape(content["workdir"])}</title>'
    f'<style>{_STYLE}</style><body>{"".join(body)}</body></html>\n'
  )
  artifacts.write_json(folder / 'report.json', content)
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
        f'<span class="{kind}" style="opacity:{0.35 + 0.65 * share[i]:.2f}" '
        f'title="{html.escape(", ".join(notes))}">'
        f'{html.escape(tokenizer.piece(int(index)))}</span>'
      )
    rows.append(f'<p class="row">{" ".join(spans)}</p>')
  return ''.join(rows)


def _probe(content: dict[str, Any], images: dict[str, bytes]) -> list[str]:
  """The section on what layers' states tell of words."""
  found = content['probe']
  words = found['test_words']
  noise = 1 / words**0.5  # two deviations of a share, at the most
  baselines = ', '.join(
    f'{title}: {found["baselines"][name]:.1%}'
    for name, title in _BASELINES.items()
  )
  other = ''
  if content['against']:
    name = html.escape(content['against'])
    other = f' The other run, all tokens in all layers: <code>{name}</code>.'
  tables = []
  for kind, title in _KINDS.items():
    curves = {_CURVES[x]: y[kind] for x, y in found['curves'].items()}
    rows = [
      (
        f'layer {i - 1}' if i else 'embeddings',
        *('' if x is None else f'{x:.1%}' for x in figures),
      )
      for i, figures in enumerate(itertools.zip_longest(*curves.values()))
    ]
    tables.append(
      f'<div><h3>{title.capitalize()}</h3>{_table(("", *curves), rows)}</div>'
    )
  return [
    '<h2>What the layers know</h2>',
    "<p>Accuracy of a linear classifier of a word's class on the states of its "
    f'first token, nothing masked: fitted on {found["train_words"]:,} words, '
    f'counted on {words:,} of other sentences. {found["skipping"]:,} of these '
    'have a token that is dropped; behind a layer that drops it, it stands as '
    f'it entered. Without states: {baselines}. Chance moves a figure by up to '
    f'{noise:.1%}, those of fewer words by more.{other}</p>',
    _image('probe', images),
    _beside(tables),
  ]


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
  pyplot = extras.pyplot(f'{folder}: plots')
  if pyplot is None:
    return {}
  images = {}

  def save(figure: Any, name: str) -> None:
    figure.set_layout_engine('constrained')
    path = folder / f'{name}.png'
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    images[name] = path.read_bytes()

  if content['histogram']:
    figure, axes = pyplot.subplots(figsize=(7, 3))
    edges = content['histogram']['edges']
    axes.stairs(content['histogram']['ids'], edges, fill=True)
    axes.set(title='Distribution', xlabel='importance', ylabel='ids')
    axes.set_yscale('log')
    save(figure, 'importance')
  if content['drift']['step']:
    figure, axes = pyplot.subplots(figsize=(7, 3))
    steps = content['drift']['step']
    for name, values in content['drift'].items():
      if name != 'step':
        label = f'{int(name.removeprefix("q"))}%'
        axes.plot(steps, values, label=label)
    axes.set(
      title='Quantiles over training', xlabel='step', ylabel='importance'
    )
    axes.legend(frameon=False)
    save(figure, 'drift')
  if 'probe' in content:
    figure, grid = pyplot.subplots(1, 3, figsize=(11, 4.8), sharey=True)
    _draw_probe(grid, content['probe'])
    save(figure, 'probe')
  there = [key for key in _SHARES if content.get(key)]
  if not there:  # every token is special or predicted
    return images
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
    axes.margins(y=0.02)
  grid[-1, 0].set_xlabel('kept, %')
  save(figure, 'shares')
  return images


def _draw_probe(grid: Any, found: dict[str, Any]) -> None:
  """A panel per kind of words, a curve per model; a baseline of all words.

  The majority's is in the text alone: far below, it would flatten the curves.
  """
  for axes, (kind, title) in zip(grid, _KINDS.items(), strict=True):
    for name, marker in zip(found['curves'], 'osd', strict=False):
      figures = [100 * x for x in found['curves'][name][kind]]
      axes.plot(figures, marker=marker, markersize=4, label=_CURVES[name])
    axes.set(title=title, xlabel='behind layer')
    depth = max(len(x[kind]) for x in found['curves'].values())
    axes.set_xticks(range(depth), ['emb.', *range(depth - 1)][:depth])
  token = 100 * found['baselines']['token']
  grid[0].axhline(
    token, color='gray', linestyle='--', label=_BASELINES['token']
  )
  grid[0].set_ylabel('class told, % of words')
  handles, labels = grid[0].get_legend_handles_labels()
  grid[0].figure.legend(
    handles, labels, loc='outside lower center', ncols=3, frameon=False
  )
