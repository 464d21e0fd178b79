"""Rank, select, gather, restore: exact, deterministic, with static shapes.

Nothing here sorts or scatters. A rank is the number of positions that go
ahead, counted by pairwise comparison; the chosen positions are compacted by
comparing a running count with the slot number. Both are a few million integer
comparisons per step, fused by XLA into one reduction each.

Tokens move by a gather whose gradient is a gather too; on TPU, where a gather
walks row by row, by a product with a one-hot matrix and its transpose.

Letters: B rows, N tokens, K kept, D width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


class Clusters(NamedTuple):
  """Tokens that stand for those that do not pass through a span.

  Attributes:
    weights: of every token in each cluster; they add up to 1, or to 0 where a
      cluster is empty.
    segments: the document that a cluster belongs to; 0 where it is empty.
  """

  weights: Float[Array, 'B C N']
  segments: Int[Array, 'B C']


class Route(NamedTuple):
  """The tokens of each row that pass through a span.

  Attributes:
    positions: their positions, ascending.
    kept: whether a position is among them.
    slots: for a kept position its index in `positions`, otherwise any index.
    clusters: of the other tokens; None where nothing stands for them.
  """

  positions: Int[Array, 'B K']
  kept: Bool[Array, 'B N']
  slots: Int[Array, 'B N']
  clusters: Clusters | None = None


def rank(*keys: Shaped[Array, 'B N']) -> Int[Array, 'B N']:
  """The number of positions of the same row that go ahead of each position.

  Larger keys go ahead; the first key decides, later ones break ties, and what
  is still tied falls to the smaller position, so ranks are a permutation of
  0..N-1. Keys must not be NaN.
  """
  index = jnp.arange(keys[0].shape[-1])
  ahead = index[None, None, :] < index[None, :, None]  # [1, N, other N]
  for key in reversed(keys):
    other, own = key[:, None, :], key[:, :, None]
    ahead = (other > own) | ((other == own) & ahead)
  return jnp.sum(ahead, axis=-1, dtype=jnp.int32)


def compact(
  chosen: Bool[Array, 'B N'], values: Int[Array, 'B N'], k: int
) -> Int[Array, 'B K']:
  """The `values` at the `chosen` positions, in order; exactly k are chosen."""
  slots = jnp.cumsum(chosen, axis=-1, dtype=jnp.int32) - 1
  here = slots[:, None, :] == jnp.arange(k)[None, :, None]
  here &= chosen[:, None, :]  # [B, K, N]
  return jnp.sum(jnp.where(here, values[:, None, :], 0), axis=-1)


def select(ranks: Int[Array, 'B N'], k: int) -> Route:
  """The route of the k positions with the smallest ranks."""
  kept = ranks < k
  index = jnp.broadcast_to(jnp.arange(ranks.shape[-1]), ranks.shape)
  slots = jnp.cumsum(kept, axis=-1, dtype=jnp.int32) - 1
  return Route(
    positions=compact(kept, index, k), kept=kept, slots=jnp.maximum(slots, 0)
  )


def with_first(route: Route) -> Route:
  """A route that lacks position 0, and the same with it."""
  at_start = jnp.arange(route.kept.shape[-1])[None] == 0
  return Route(
    positions=jnp.pad(route.positions, ((0, 0), (1, 0))),
    kept=route.kept | at_start,
    slots=jnp.where(at_start, 0, route.slots + 1),
  )


def cluster(
  dropped: Bool[Array, 'B N'],
  weights: Float[Array, 'B N'],
  segments: Int[Array, 'B N'],
  count: int,
) -> Clusters:
  """Divides the dropped tokens of each row, in order, into equal parts.

  A part is the cluster of its first token's document: what it holds of the next
  one is left out, so that no document sees another.

  Args:
    dropped: the tokens to stand for; [PAD] is not among them.
    weights: of each token among those of its cluster, at least 0.
    segments: the document of each token, ascending along a row.
    count: C.
  """
  order = jnp.cumsum(dropped, axis=-1, dtype=jnp.int32) - 1
  total = jnp.sum(dropped, axis=-1, keepdims=True, dtype=jnp.int32)
  part = order * count // jnp.maximum(total, 1)
  member = part[:, None, :] == jnp.arange(count)[None, :, None]
  member &= dropped[:, None, :]  # [B, C, N]
  last = jnp.iinfo(jnp.int32).max
  own = jnp.min(jnp.where(member, segments[:, None, :], last), axis=-1)
  member &= segments[:, None, :] == own[:, :, None]
  # Where all weights are 0, a cluster is an ordinary mean.
  weighed = jnp.where(member, weights[:, None, :], 0)
  summed = jnp.sum(weighed, axis=-1, keepdims=True)
  weighed = jnp.where(summed > 0, weighed, member.astype(weights.dtype))
  summed = jnp.sum(weighed, axis=-1, keepdims=True)
  return Clusters(
    weighed / jnp.where(summed > 0, summed, 1), jnp.where(own == last, 0, own)
  )


def pool(x: Float[Array, 'B N D'], clusters: Clusters) -> Float[Array, 'B C D']:
  """The weighted mean of each cluster's tokens."""
  return _product(clusters.weights.astype(x.dtype), x)


def take_ids(
  ids: Int[Array, 'B N'], positions: Int[Array, 'B K']
) -> Int[Array, 'B K']:
  """`ids[b, positions[b]]` for every row b; positions are in bounds."""
  return jax.lax.platform_dependent(
    ids, positions, tpu=_compare, default=_index
  )


def _move(
  x: Float[Array, 'B N D'], positions: Int[Array, 'B K']
) -> Float[Array, 'B K D']:
  """`x[b, positions[b]]` for every row b; positions are in bounds."""
  return jax.lax.platform_dependent(x, positions, tpu=_multiply, default=_index)


def _index(
  x: Shaped[Array, 'B N *D'], positions: Int[Array, 'B K']
) -> Shaped[Array, 'B K *D']:
  return jax.vmap(lambda x, i: x.at[i].get(mode='promise_in_bounds'))(
    x, positions
  )


def _multiply(
  x: Float[Array, 'B N D'], positions: Int[Array, 'B K']
) -> Float[Array, 'B K D']:
  # Exact: each sum has one summand that is not 0.
  return _product(jax.nn.one_hot(positions, x.shape[1], dtype=x.dtype), x)


def _product(
  weights: Float[Array, 'B K N'], x: Float[Array, 'B N D']
) -> Float[Array, 'B K D']:
  # Float32 needs the highest precision: a TPU multiplies it as bfloat16 else.
  exact = x.dtype == jnp.float32
  return jnp.einsum(
    'bkn,bnd->bkd',
    weights,
    x,
    precision=jax.lax.Precision.HIGHEST if exact else None,
  )


def _compare(
  ids: Int[Array, 'B N'], positions: Int[Array, 'B K']
) -> Int[Array, 'B K']:
  there = positions[:, :, None] == jnp.arange(ids.shape[-1])[None, None]
  return jnp.sum(jnp.where(there, ids[:, None, :], 0), axis=-1)


@jax.custom_vjp
def gather(x: Float[Array, 'B N D'], route: Route) -> Float[Array, 'B K D']:
  """The kept tokens. Its gradient is `restore`'s gather, not a scatter."""
  return _move(x, route.positions)


@jax.custom_vjp
def restore(
  y: Float[Array, 'B K D'], x: Float[Array, 'B N D'], route: Route
) -> Float[Array, 'B N D']:
  """`x` with the kept tokens replaced by `y`: dropped ones stay as in `x`."""
  return jnp.where(route.kept[..., None], _move(y, route.slots), x)


def _gather_forward(x: Array, route: Route) -> tuple[Array, Route]:
  return gather(x, route), route


def _gather_backward(route: Route, dy: Array) -> tuple[Array, None]:
  dx = _move(dy, route.slots)
  return jnp.where(route.kept[..., None], dx, jnp.zeros((), dy.dtype)), None


def _restore_forward(y: Array, x: Array, route: Route) -> tuple[Array, Route]:
  return restore(y, x, route), route


def _restore_backward(route: Route, dx: Array) -> tuple[Array, Array, None]:
  dropped = jnp.where(route.kept[..., None], jnp.zeros((), dx.dtype), dx)
  return _move(dx, route.positions), dropped, None


gather.defvjp(_gather_forward, _gather_backward)
restore.defvjp(_restore_forward, _restore_backward)
