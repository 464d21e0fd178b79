"""On device: rows of ids -> what the model reads and what it must predict.

The host ships ids only. Every draw depends on (seed, step, row of the global
batch) and nothing else: the same masks on any number of devices and hosts.
Letters: B rows, N tokens, P predicted positions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from td_flax.config import num_predicted
from td_flax.data.vocabulary import SpecialIds
from td_flax.dropping import routing

# Of the predicted positions, BERT shows 80% as [MASK], 10% as a random token
# and 10% as they are (Devlin et al. 2019, section 3.1).
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


class Segments(NamedTuple):
  """Which document a token belongs to, and where in it.

  Attributes:
    segments: 0 for [PAD], the documents of a row count from 1.
    positions: index of the position embedding.
  """

  segments: Int[Array, 'B N']
  positions: Int[Array, 'B N']


class MaskedBatch(NamedTuple):
  """One batch of the masked-LM task.

  Attributes:
    ids: what the model reads.
    segments: which tokens see each other, and their positions.
    predicted: the predicted positions, as a route to them.
    labels: the original ids there.
    weights: 1, or 0 where a short row has fewer than P predictions.
    is_predicted: the positions that count, where `predicted` always has P.
  """

  ids: Int[Array, 'B N']
  segments: Segments
  predicted: routing.Route
  labels: Int[Array, 'B P']
  weights: Float[Array, 'B P']
  is_predicted: Bool[Array, 'B N']


def row_keys(
  key: Key[Array, ''], step: Int[Array, ''] | int, rows: Int[Array, ' B']
) -> Key[Array, ' B']:
  """One key per row of the global batch, from (seed, step, row)."""
  key = jax.random.fold_in(key, step)
  return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def segment(
  ids: Int[Array, 'B N'],
  special: SpecialIds,
  *,
  attend_across: bool,
  restart_positions: bool,
) -> Segments:
  """Derives documents from the [CLS] that begins each of them.

  Args:
    ids: packed rows, before masking.
    special: the tokenizer's special ids.
    attend_across: all documents of a row form one segment.
    restart_positions: positions count from 0 in every document.

  Returns:
    The segment and the position of every token.
  """
  index = jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape)
  begins = ids == special.cls
  documents = jnp.cumsum(begins, axis=-1, dtype=jnp.int32)
  # A row that does not begin with [CLS] continues a document: segment 1 too.
  documents = documents + (documents[:, :1] == 0)
  if attend_across:
    documents = jnp.ones_like(documents)
  positions = index
  if restart_positions:
    positions = index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
  return Segments(jnp.where(ids == special.pad, 0, documents), positions)


def mask(
  ids: Int[Array, 'B N'],
  segments: Segments,
  keys: Key[Array, ' B'],
  *,
  mask_rate: float,
  vocab_size: int,
  special: SpecialIds,
  all_as_mask: bool = False,
) -> MaskedBatch:
  """Draws the predicted positions of every row and hides them.

  A row of n real tokens predicts floor(mask_rate n) of them, at least one:
  exactly P in a full row. Specials are never predicted.

  Args:
    ids: packed rows.
    segments: of these rows.
    keys: one per row.
    mask_rate: share of the tokens that is predicted.
    vocab_size: random replacements are drawn from its ordinary ids.
    special: the tokenizer's special ids.
    all_as_mask: show every predicted position as [MASK], rather than 80%.

  Returns:
    The batch.
  """
  n = ids.shape[-1]
  p = num_predicted(mask_rate, n)
  specials = sorted(set(special.as_tuple()))
  ordinary = jnp.ones_like(ids, bool)
  for token in specials:
    ordinary &= ids != token

  lots = jax.vmap(lambda key: jax.random.bits(key, (3, n)))(keys)
  order, action, draw = lots[:, 0], lots[:, 1], lots[:, 2]
  ranks = routing.rank(ordinary.astype(jnp.int32), order)
  real = jnp.sum(ids != special.pad, axis=-1)
  wanted = _floor_share(mask_rate, n, real)
  wanted = jnp.minimum(wanted, jnp.sum(ordinary, axis=-1))  # [B]
  is_predicted = ranks < wanted[:, None]

  # Thresholds on 24 bits, exact in float32 and the same on every backend.
  action = action >> 8
  as_mask = action < round(MASK_SHARE * 2**24)
  as_random = ~as_mask & (action < round((MASK_SHARE + RANDOM_SHARE) * 2**24))
  # The modulo favours small ids by less than 1 part in 60,000.
  random_ids = (draw % (vocab_size - len(specials))).astype(ids.dtype)
  for token in specials:  # step over the special ids
    random_ids += random_ids >= token

  if all_as_mask:
    shown = jnp.where(is_predicted, special.mask, ids)
  else:
    shown = jnp.where(is_predicted & as_mask, special.mask, ids)
    shown = jnp.where(is_predicted & as_random, random_ids, shown)
  chosen = routing.select(ranks, p)
  weights = routing.compact(chosen.kept, is_predicted.astype(jnp.int32), p)
  return MaskedBatch(
    ids=shown,
    segments=segments,
    predicted=chosen,
    labels=routing.compact(chosen.kept, ids, p),
    weights=weights.astype(jnp.float32),
    is_predicted=is_predicted,
  )


def _floor_share(
  share: float, n: int, counts: Int[Array, ' B']
) -> Int[Array, ' B']:
  """`num_predicted(share, count)` per row, in integers: no rounding on device.

  A table of n + 1 numbers, read by comparison: the sum of the thresholds that
  a count reaches.
  """
  values = [0] + [num_predicted(share, count) for count in range(1, n + 1)]
  thresholds = [
    count
    for count in range(1, n + 1)
    for _ in range(values[count] - values[count - 1])
  ]
  reached = counts[:, None] >= jnp.array(thresholds)[None, :]
  return jnp.sum(reached, axis=-1)
