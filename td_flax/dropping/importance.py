"""The importance of a token: pins at lookup, the EMA table, ties.

The table f32[V] holds the policy's importance per token id and nothing else;
what is always or never kept is decided where it is read. Letters: B rows, N
tokens, V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from td_flax.chips import LANES
from td_flax.data.vocabulary import SpecialIds
from td_flax.dropping import routing


def pin_class(ids: Int[Array, 'B N'], special: SpecialIds) -> Int[Array, 'B N']:
  """Larger classes are kept first: [CLS] [MASK] [SEP] [UNK], text, [PAD]."""
  pinned = ((special.cls, 4), (special.mask, 3), (special.sep, 2))
  classes = jnp.zeros_like(ids)
  for token, level in (*pinned, (special.unk, 1), (special.pad, -1)):
    classes = jnp.where(ids == token, level, classes)
  return classes


def select(
  score: Float[Array, 'B N'],
  ids: Int[Array, 'B N'],
  keys: Key[Array, ' B'],
  k: int,
  *,
  special: SpecialIds,
  noise: float,
) -> routing.Route:
  """The k tokens per row that go on: pins first, then by score, then by lot.

  Args:
    score: importance per position; larger is kept first.
    ids: as they enter the model, that is after masking.
    keys: one key per row, which draws the order of equal scores and the noise.
    k: tokens kept per row.
    special: ids that are pinned.
    noise: scale of Gumbel noise on the scores, so that 1 samples without
      replacement from softmax(score) and 0 keeps exactly the largest.

  Returns:
    The route of the kept tokens, positions ascending.
  """
  n = ids.shape[-1]
  if noise:
    draws = jax.vmap(
      lambda key: jax.random.gumbel(jax.random.fold_in(key, 1), (n,))
    )(keys)
    score = score + noise * draws
  # Equal scores must not favour positions (the first k would win at the start).
  ranks = routing.rank(pin_class(ids, special), score, lots(keys, n))
  return routing.select(ranks, k)


def lots(keys: Key[Array, ' B'], n: int) -> UInt32[Array, 'B N']:
  """A random number per position, from the key of its row."""
  return jax.vmap(lambda key: jax.random.bits(key, (n,)))(keys)


class IdSums(NamedTuple):
  """Per id: what was lost on it and how often it was predicted."""

  losses: Float[Array, ' V']
  weights: Float[Array, ' V']


def id_sums(
  labels: Int[Array, 'B P'],
  losses: Float[Array, 'B P'],
  weights: Float[Array, 'B P'],
  vocab_size: int,
) -> IdSums:
  """Sums the weighted losses and the weights of the positions of each id."""
  values = jnp.stack([losses * weights, weights]).reshape(2, -1)
  sums = jax.lax.platform_dependent(
    labels.reshape(-1),
    values,
    tpu=functools.partial(_multiply, vocab_size=vocab_size),
    default=functools.partial(_scatter, vocab_size=vocab_size),
  )
  return IdSums(*sums)


def _scatter(
  labels: Int[Array, ' I'], values: Float[Array, '2 I'], *, vocab_size: int
) -> Float[Array, '2 V']:
  zeros = jnp.zeros(vocab_size, jnp.float32)
  return jnp.stack([zeros.at[labels].add(x) for x in values])


def _multiply(
  labels: Int[Array, ' I'], values: Float[Array, '2 I'], *, vocab_size: int
) -> Float[Array, '2 V']:
  # A label as two digits, each of them one-hot, the last as wide as the lanes:
  # few products, and nothing that XLA sorts, as it does for a scatter on some
  # TPUs.
  high, low = (
    jax.nn.one_hot(digit, size)
    for digit, size in (
      (labels // LANES, -(-vocab_size // LANES)),
      (labels % LANES, LANES),
    )
  )
  weighed = values[:, :, None] * high[None]
  sums = jnp.einsum(
    'kih,il->khl', weighed, low, precision=jax.lax.Precision.HIGHEST
  )
  return sums.reshape(2, -1)[:, :vocab_size]


def update(
  table: Float[Array, ' V'], observed: IdSums, beta: float
) -> Float[Array, ' V']:
  """One step of the EMA, for the ids that were predicted in this step.

  Hou et al. 2022, section 3.2, with the mean over the global batch where an id
  was predicted several times: m <- beta m + (1 - beta) s/c where c > 0.

  Args:
    table: m, the EMA of each id's masked-LM loss.
    observed: s and c, summed over the global batch.
    beta: decay.

  Returns:
    The new table; ids that were not predicted keep their value.
  """
  losses, counts = observed
  mean = losses / jnp.where(counts > 0, counts, 1)
  return jnp.where(counts > 0, beta * table + (1 - beta) * mean, table)


def ordered(
  table: Float[np.ndarray, ' V'],
  known: Bool[np.ndarray, ' V'],
  special: SpecialIds,
) -> Int[np.ndarray, ' I']:
  """The known ids but the special ones, the most important first.

  Args:
    table: importance of every id, on the host.
    known: ids whose importance was learned or counted.
    special: ids that are left out.

  Returns:
    The ids; those of equal importance in ascending order.
  """
  ids = np.setdiff1d(np.flatnonzero(known), special.as_tuple())
  return ids[np.argsort(-table[ids], kind='stable')]
