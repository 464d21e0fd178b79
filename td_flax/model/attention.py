"""Attention behind one function; masks are segment ids.

Letters: B rows, Q queries, M keys and values, H heads, E width of a head.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def dropout(x: Array, rate: float, key: Key[Array, ''] | None) -> Array:
  """Zeroes a share `rate` of `x` and rescales the rest; no key, no dropout."""
  if key is None or rate == 0:
    return x
  kept = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))


def attention(
  query: Float[Array, 'B Q H E'],
  key: Float[Array, 'B M H E'],
  value: Float[Array, 'B M H E'],
  query_segments: Int[Array, 'B Q'],
  key_segments: Int[Array, 'B M'],
  *,
  dropout_rate: float = 0.0,
  dropout_key: Key[Array, ''] | None = None,
) -> Float[Array, 'B Q H E']:
  """Scaled dot-product attention within segments, softmax in float32.

  Every query's segment must occur among the keys' (a token sees itself).
  """
  # [B, H, N, E]: batched matmuls without a transpose inside.
  query, key, value = (
    jnp.swapaxes(x, 1, 2) for x in (query * query.shape[-1] ** -0.5, key, value)
  )
  scores = jnp.einsum(
    'bhqe,bhme->bhqm', query, key, preferred_element_type=jnp.float32
  )
  visible = query_segments[:, None, :, None] == key_segments[:, None, None, :]
  scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  weights = dropout(weights, dropout_rate, dropout_key)
  mixed = jnp.einsum('bhqm,bhme->bhqe', weights, value)
  return jnp.swapaxes(mixed, 1, 2)
