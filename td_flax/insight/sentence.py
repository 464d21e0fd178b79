"""What a run's dropping makes of a text of one's own, in colours.

For notebooks: HTML whose marks bring both the colour of the text and that of
its ground, so that they read alike on light and dark pages, and that strikes
dropped tokens through, so that nobody needs the colours.
"""

import dataclasses
import html

import numpy as np

from td_flax import errors, saved
from td_flax.insight import kept as kept_lib

_STYLE = 'color:#000;padding:0 0.2em;border-radius:3px;background:'
_KEPT = f'{_STYLE}#a6d3f2'
_DROPPED = f'{_STYLE}#f7d08a;text-decoration:line-through'
_SHORTEST = 16  # tokens, [CLS] and [SEP] among them


def coloured(workdir: str, text: str, step: str = 'latest') -> str:
  """The tokens of a text, those that the run would drop marked, as HTML.

  The text is a row by itself, as long as it is, of which the same share is kept
  as of the run's rows; what does not fit into one of these is left out. Nothing
  is masked.

  Args:
    workdir: of a pretraining that drops tokens.
    text: one sentence or several.
    step: `latest`, `best` (by held-out loss) or a number.

  Raises:
    errors.UserError: the run cannot be used, or the text is too short.
  """
  found = kept_lib.find(workdir, 'workdir', step)
  config = kept_lib.dropping(found.config, found.where)
  share = config.num_kept / config.data.sequence_length
  special = found.tokenizer.special
  (ids,) = found.tokenizer.encode_batch([text])
  ids = ids[: config.data.sequence_length - 2]
  if len(ids) + 2 < _SHORTEST:
    raise errors.DataError(
      f'{text[:40]!r}: must have at least {_SHORTEST - 2} tokens, not '
      f'{len(ids)}'
    )
  row = np.concatenate([[special.cls], ids, [special.sep]]).astype(np.uint16)
  config = dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, sequence_length=len(row)),
    drop=dataclasses.replace(config.drop, keep=share),
  )
  importance = saved.load_importance(found.checkpoint)
  kept = kept_lib.of_rows(found, config, importance, row[None], masked=False)
  pieces = [
    f'<span style="{_KEPT if x >= 0.5 else _DROPPED}" title="{x:.0%}">'
    f'{html.escape(found.tokenizer.piece(int(i)))}</span>'
    for i, x in zip(row, kept.share[0], strict=True)
  ]
  return (
    f'<p style="line-height:2"><span style="{_KEPT}">kept</span> '
    f'<span style="{_DROPPED}">dropped</span></p>'
    f'<p style="line-height:2">{" ".join(pieces)}</p>'
  )
