"""Attention behind one function; masks are segment ids.

Letters: B rows, Q queries, M keys and values, H heads, E width of a head.

Four ways to compute the same: `plain` lets XLA fuse what it can and holds the
scores [B, H, Q, M] in memory; the others never do. On TPUs `rows`
(`row_attention.py`) takes short rows, and dropout on the attention weights;
`splash` is JAX's Pallas kernel for longer ones. `cudnn` is NVIDIA's fused
kernel. The last two have no such dropout.
"""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from td_flax import errors
from td_flax.chips import LANES
from td_flax.config import ModelConfig
from td_flax.devices import Devices
from td_flax.model import row_attention
from td_flax.model.dropout import Seeds, attention_dropout

# Below, the scores are small and a kernel's fixed costs are not worth it.
_SHORTEST_FOR_KERNEL = 256
_WIDEST_FOR_CUDNN = 128  # a head, before Hopper (jax.nn.dot_product_attention)
_KERNELS = {'rows': 'tpu', 'splash': 'tpu', 'cudnn': 'gpu'}
_NO_KERNEL = ('TPU v2', 'TPU v3')  # Mosaic has no bf16 matmul there


class Attend(Protocol):
  """What `make` gives to a layer."""

  def __call__(
    self,
    query: Float[Array, 'B Q H E'],
    key: Float[Array, 'B M H E'],
    value: Float[Array, 'B M H E'],
    query_segments: Int[Array, 'B Q'],
    key_segments: Int[Array, 'B M'],
    seeds: Seeds | None,
  ) -> Float[Array, 'B Q H E']:
    """As `plain`, with the rate of dropout that the config has."""


def make(config: ModelConfig, devices: Devices) -> Attend:
  """Attention as `model.attention` says, on the devices' platform.

  Args:
    config: the `model` section.
    devices: the platform, and the wrapper of kernels.

  Returns:
    A function that chooses by the shapes it is called with, as `choose` does.
  """
  wrapped = {
    'rows': devices.wrap_kernel(
      functools.partial(
        row_attention.attend, dropout_rate=config.attention_dropout
      )
    ),
    'splash': devices.wrap_kernel(splash),
    'cudnn': devices.wrap_kernel(cudnn),
  }

  def attend(
    query: Array,
    key: Array,
    value: Array,
    query_segments: Array,
    key_segments: Array,
    seeds: Seeds | None,
  ) -> Array:
    args = [query, key, value, query_segments, key_segments]
    name, _ = choose(config, devices, query.shape[1], key.shape[1])
    if name == 'plain':
      rate = config.attention_dropout
      return plain(*args, dropout_rate=rate, seeds=seeds)
    if name == 'rows' and seeds is not None:
      args.append(seeds)
    return wrapped[name](*args)

  return attend


def choose(
  config: ModelConfig, devices: Devices, queries: int, keys: int
) -> tuple[str, str]:
  """The implementation for one shape, and why.

  Args:
    config: the `model` section.
    devices: what is compiled for.
    queries: Q.
    keys: M.

  Returns:
    Its name and the reason in words.

  Raises:
    errors.ConfigError: `model.attention` names one that cannot compute this.
  """
  wanted, platform = config.attention, devices.platform
  if wanted == 'plain':
    return 'plain', 'model.attention=plain'
  if wanted != 'auto':
    if obstacle := _obstacle(wanted, config, devices, queries, keys):
      raise errors.ConfigError(
        f'model.attention={wanted!r}: cannot be used: {obstacle}; auto picks '
        'one that can'
      )
    return wanted, f'on {platform}'
  obstacles = []
  for kernel in (name for name, where in _KERNELS.items() if where == platform):
    if obstacle := _obstacle(kernel, config, devices, queries, keys):
      obstacles.append(obstacle)
    elif keys < _SHORTEST_FOR_KERNEL:
      return 'plain', f'rows of {keys} keys are short'
    else:
      return kernel, f'on {platform}'
  return 'plain', '; '.join(obstacles) or f'no kernel for {platform}'


def _obstacle(
  kernel: str, config: ModelConfig, devices: Devices, queries: int, keys: int
) -> str | None:
  """Why a kernel cannot compute this; None if it can."""
  if devices.platform != _KERNELS[kernel]:
    return f'{kernel} does not run on {devices.platform}'
  if devices.kind in _NO_KERNEL:
    return f'{kernel} does not compile for {devices.kind}'
  if config.attention_dropout and kernel != 'rows':
    return (
      f'model.attention_dropout={config.attention_dropout}: {kernel} has no '
      'dropout'
    )
  width = config.hidden_dim // config.num_heads
  if kernel == 'cudnn':
    if config.dtype != 'bfloat16':
      return f'model.dtype={config.dtype}: cudnn wants bfloat16'
    if queries % 2 or keys % 2:
      return f'{queries} queries and {keys} keys: cudnn wants even numbers'
    if width % 8 or width > _WIDEST_FOR_CUDNN:
      return (
        f'{config.num_heads} heads of width {width}: cudnn wants a multiple of '
        f'8 up to {_WIDEST_FOR_CUDNN}'
      )
  elif keys % LANES:
    return f'{keys} keys are no multiple of {LANES}: {kernel} wants one'
  if kernel == 'rows':
    longest = row_attention.LONGEST
    if max(queries, keys) > longest:
      return f'{max(queries, keys)} tokens: rows takes up to {longest}'
    if LANES % width or config.hidden_dim % LANES:
      return (
        f'{config.num_heads} heads of width {width}: rows wants them to fill '
        f'groups of {LANES} lanes'
      )
  return None


def plain(
  query: Float[Array, 'B Q H E'],
  key: Float[Array, 'B M H E'],
  value: Float[Array, 'B M H E'],
  query_segments: Int[Array, 'B Q'],
  key_segments: Int[Array, 'B M'],
  *,
  dropout_rate: float = 0.0,
  seeds: Seeds | None = None,
) -> Float[Array, 'B Q H E']:
  """Dot-product attention within segments, softmax in float32.

  Args:
    query: scaled.
    key: of the tokens that are seen.
    value: likewise.
    query_segments: who sees whom: tokens of the same segment. Each must occur
      among the keys' (a token sees itself).
    key_segments: likewise.
    dropout_rate: of the attention weights.
    seeds: of that dropout; None is none.
  """
  # [B, H, N, E]: batched matmuls without a transpose inside.
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
  scores = jnp.einsum(
    'bhqe,bhme->bhqm', query, key, preferred_element_type=jnp.float32
  )
  visible = query_segments[:, None, :, None] == key_segments[:, None, None, :]
  scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  weights = attention_dropout(weights, dropout_rate, seeds)
  mixed = jnp.einsum('bhqm,bhme->bhqe', weights, value)
  return jnp.swapaxes(mixed, 1, 2)


def received(
  query: Float[Array, 'B N H E'],
  key: Float[Array, 'B N H E'],
  segments: Int[Array, 'B N'],
) -> Float[Array, 'B N']:
  """Attention that each token receives from the others of its document.

  The sum over queries of the softmax weights, without what a token gives to
  itself, as a mean over heads (Zhao et al. 2022, FCA-BERT, section 3.1). In
  blocks of queries: where N is a multiple of 128, no [B, H, N, N] is held in
  memory.
  """
  n = query.shape[1]
  block = LANES if n % LANES == 0 else n

  def of_block(first: Int[Array, '']) -> Float[Array, 'B N']:
    queries = jax.lax.dynamic_slice_in_dim(query, first, block, axis=1)
    own = jax.lax.dynamic_slice_in_dim(segments, first, block, axis=1)
    scores = jnp.einsum(
      'bqhe,bmhe->bhqm', queries, key, preferred_element_type=jnp.float32
    )
    visible = own[:, None, :, None] == segments[:, None, None, :]
    scores = jnp.where(visible, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).mean(1)  # [B, block, N]
    itself = first + jnp.arange(block)[:, None] == jnp.arange(n)[None]
    return jnp.sum(jnp.where(itself[None], 0, weights), axis=1)

  return jax.lax.map(of_block, jnp.arange(0, n, block)).sum(0)


def splash(
  query: Float[Array, 'B Q H E'],
  key: Float[Array, 'B M H E'],
  value: Float[Array, 'B M H E'],
  query_segments: Int[Array, 'B Q'],
  key_segments: Int[Array, 'B M'],
) -> Float[Array, 'B Q H E']:
  """`plain` as one Pallas kernel, its backward pass as another; TPU only.

  M must be a multiple of 128; Q is padded to one.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernel,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  num_queries, num_heads = query.shape[1:3]
  if padding := -num_queries % LANES:
    # Padded queries copy the last one: they see something, and nobody them.
    query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)), 'edge')
    query_segments = jnp.pad(query_segments, ((0, 0), (0, padding)), 'edge')
  q, m = query.shape[1], key.shape[1]
  block_q, block_m = block_length(q), block_length(m)
  attend = kernel.make_splash_mha_single_device(
    mask=masks.MultiHeadMask([masks.FullMask((q, m))] * num_heads),
    block_sizes=kernel.BlockSizes(
      block_q=block_q,
      block_kv=block_m,
      block_kv_compute=block_m,
      block_q_dkv=block_q,
      block_kv_dkv=block_m,
      block_kv_dkv_compute=block_m,
      use_fused_bwd_kernel=True,
      # As XLA lays activations out; else it copies them, padded to 128 lanes.
      q_layout=kernel.QKVLayout.SEQ_MINOR,
      k_layout=kernel.QKVLayout.SEQ_MINOR,
      v_layout=kernel.QKVLayout.SEQ_MINOR,
    ),
  )
  query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
  mixed = jax.vmap(
    lambda q, k, v, q_segments, k_segments: attend(
      q, k, v, segment_ids=kernel.SegmentIds(q_segments, k_segments)
    )
  )(query, key, value, query_segments, key_segments)
  return jnp.swapaxes(mixed, 1, 2)[:, :num_queries]


def block_length(length: int) -> int:
  """The largest block of up to 512 that divides a multiple of 128."""
  return next(x for x in (512, 384, 256, LANES) if length % x == 0)


def cudnn(
  query: Float[Array, 'B Q H E'],
  key: Float[Array, 'B M H E'],
  value: Float[Array, 'B M H E'],
  query_segments: Int[Array, 'B Q'],
  key_segments: Int[Array, 'B M'],
) -> Float[Array, 'B Q H E']:
  """`plain` as cuDNN's fused kernel, with one mask [B, 1, Q, M] for all heads.

  NVIDIA GPUs only, half precision, even Q and M.
  """
  visible = query_segments[:, None, :, None] == key_segments[:, None, None, :]
  return jax.nn.dot_product_attention(
    query, key, value, mask=visible, scale=1.0, implementation='cudnn'
  )
