"""Draws how token dropping routes the tokens of one row.

python docs/figures/token_dropping.py docs/figures/token_dropping.svg
"""

import sys

import matplotlib as mpl
from matplotlib import patches, pyplot

WORDS = '[CLS] the [MASK] of a glacier is [MASK] by its own weight . [SEP]'
KEPT = {0, 2, 5, 7, 10, 11, 13}  # pins and words that are hard to predict
LAYERS = 12
FIRST, LAST = 5, 10  # of BERT-base, as published
FULL, NARROW, SKIPPED = '#3b6ea5', '#d9822b', '#e9edf2'


def draw(path: str) -> None:
  """Writes the figure; the suffix of `path` decides its format."""
  mpl.rcParams['svg.fonttype'] = 'none'
  mpl.rcParams['svg.hashsalt'] = 'td_flax'  # the same bytes every time
  words = WORDS.split()
  figure, axes = pyplot.subplots(figsize=(9, 5.2))
  for layer in range(LAYERS):
    is_narrow = FIRST <= layer <= LAST
    for token in range(len(words)):
      if is_narrow and token not in KEPT:
        axes.plot(
          [token] * 2, [layer - 0.5, layer + 0.5], color='#b8c2cc', lw=1
        )
        color = SKIPPED
      else:
        color = NARROW if is_narrow else FULL
      axes.add_patch(
        patches.FancyBboxPatch(
          (token - 0.32, layer - 0.3),
          0.64,
          0.6,
          boxstyle='round,pad=0.02,rounding_size=0.12',
          facecolor=color,
          edgecolor='none',
          zorder=2,
        )
      )
  for token, word in enumerate(words):
    weight = 'bold' if token in KEPT else 'normal'
    axes.text(
      token, -1.0, word, ha='center', va='center', weight=weight, size=8.5
    )
  right = len(words) - 0.2
  for low, high, text in (
    (0, FIRST - 1, 'every token'),
    (FIRST, FIRST, 'kept tokens,\nattending to all'),
    (FIRST + 1, LAST, 'kept tokens only;\nthe others wait'),
    (LAST + 1, LAYERS - 1, 'every token again'),
  ):
    axes.plot([right] * 2, [low - 0.35, high + 0.35], color='#555', lw=1.2)
    axes.text(right + 0.25, (low + high) / 2, text, va='center')
  axes.set_yticks(range(LAYERS), [f'layer {i}' for i in range(LAYERS)])
  axes.set_xticks([])
  axes.set_xlim(-0.8, right + 3.4)
  axes.set_ylim(-1.6, LAYERS - 0.3)
  axes.tick_params(length=0)
  for spine in axes.spines.values():
    spine.set_visible(False)
  figure.tight_layout()
  figure.savefig(
    path, metadata={'Date': None} if path.endswith('svg') else None
  )


if __name__ == '__main__':
  draw(sys.argv[1])
