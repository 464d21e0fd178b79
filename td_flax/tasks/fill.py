"""What a masked language model puts in the place of [MASK]."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from td_flax import errors, masking
from td_flax.data.vocabulary import PIECES, Tokenizer
from td_flax.dropping import plan as plans
from td_flax.model import bert
from td_flax.pretrained import Pretrained

# Stands where a mask is while text becomes tokens: a word like any other, so
# that what is around it is cut as it would be around a word.
_STAND_IN = 'it'
_ALONE = f'a {PIECES.mask} must stand between spaces or punctuation'
# A Chinese character is a word of its own.
_LETTER = r'[^\W_\u3400-\u9fff]'
_MASK = re.escape(PIECES.mask)
_IN_WORD = re.compile(rf'{_LETTER}{_MASK}|{_MASK}(?:{_LETTER}|{_MASK})')


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
  """The ids of a text, each `[MASK]` in it one id; uint16.

  Raises:
    errors.DataError: the text has no `[MASK]`, or one that is part of a word.
  """
  parts = text.split(PIECES.mask)
  if len(parts) == 1:
    raise errors.DataError(f'{text[:40]!r}: must have a {PIECES.mask}')
  if _IN_WORD.search(text):
    raise errors.DataError(f'{text[:40]!r}: {_ALONE}')
  starts, joined = [], parts[0]
  for part in parts[1:]:
    starts.append(len(joined))
    joined += _STAND_IN + part
  ((ids, offsets),) = tokenizer.encode_with_offsets([joined])
  found = []
  for index, (begin, end) in zip(ids, offsets, strict=True):
    under = [x for x in starts if begin < x + len(_STAND_IN) and x < end]
    if not under:
      found.append(index)
    elif begin < under[0] or end > under[0] + len(_STAND_IN):
      raise errors.DataError(f'{text[:40]!r}: {_ALONE}')
    elif begin == under[0]:
      found.append(tokenizer.special.mask)
  if found.count(tokenizer.special.mask) != len(starts):
    raise errors.DataError(f'{text[:40]!r}: {_ALONE}')
  return np.array(found, np.uint16)


def fill(
  found: Pretrained, text: str, count: int = 5
) -> list[list[tuple[str, float]]]:
  """The most probable pieces for every mask, and their probabilities.

  Args:
    found: the model; it computes in float32, all tokens in all layers.
    text: with at least one `[MASK]`.
    count: pieces for each of them.

  Raises:
    errors.DataError: the text has no `[MASK]`, has one that is part of a word,
      or is too long for the model.
  """
  tokenizer, special = found.tokenizer, found.tokenizer.special
  ids = encode(tokenizer, text)
  if len(ids) + 2 > found.model.max_positions:
    raise errors.DataError(
      f'{text[:40]!r}...: has {len(ids)} tokens; the model takes '
      f'{found.model.max_positions - 2}'
    )
  row = np.concatenate([[special.cls], ids, [special.sep]]).astype(np.int32)
  config = dataclasses.replace(
    found.model, dtype='float32', attention='plain', remat='none'
  )
  model = bert.Bert(config, tokenizer.vocab_size, nnx.Rngs(0))
  graph, fresh = nnx.split(model)
  params = found.params(jax.device_get(fresh))
  logits = jax.jit(_logits, static_argnums=(0, 3))(
    graph, params, row[None], special
  )
  best, pieces = jax.lax.top_k(jax.nn.softmax(logits[0]), count)
  return [
    [
      (tokenizer.piece(int(i)), float(p))
      for i, p in zip(pieces[place], best[place], strict=True)
    ]
    for place in np.flatnonzero(row == special.mask)
  ]


def _logits(graph: Any, params: Any, ids: Any, special: Any) -> Any:
  model = nnx.merge(graph, params)
  segments = masking.segment(
    ids, special, attend_across=False, restart_positions=True
  )
  plan = plans.full(len(model.layers))
  return model.predict(model.encode(jnp.asarray(ids), segments, plan))
