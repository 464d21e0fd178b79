"""Attention of whole rows as two Pallas kernels for TPUs, dropout included.

Splash attention wants heads apart, [B, H, E, N]; XLA then spends more time on
copying activations between that layout and its own than the kernel does on its
softmax. Here a grid step reads what the dense layers write, [N, 128] of
[B, N, D]: one, two or more heads side by side in the 128 lanes. A head is taken
out by zeroing the lanes of the others in one factor of each product, which
costs nothing: a matrix unit is 128 wide whether or not half of it is zeros. A
row's scores [Q, M] fit the vector memory, so that the softmax needs no second
pass, nothing but queries, keys and values is kept for the backward pass, and
dropout draws the very bits that `attention.plain` draws.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from td_flax.chips import LANES
from td_flax.model import dropout
from td_flax.model.dropout import Seeds

LONGEST = 512  # a longer row's scores and gradients outgrow the vector memory

_Ref = Any  # a block of an array, in vector memory


@dataclasses.dataclass(frozen=True)
class _Spec:
  """What the kernels are compiled for.

  Attributes:
    width: of a head.
    queries: of a row, before padding.
    rate: of dropout.
    interpret: run as plain JAX.
  """

  width: int
  queries: int
  rate: float
  interpret: bool


def attend(
  query: Float[Array, 'B Q H E'],
  key: Float[Array, 'B M H E'],
  value: Float[Array, 'B M H E'],
  query_segments: Int[Array, 'B Q'],
  key_segments: Int[Array, 'B M'],
  seeds: Seeds | None = None,
  *,
  dropout_rate: float = 0.0,
  interpret: bool = False,
) -> Float[Array, 'B Q H E']:
  """`attention.plain` without its scores in HBM; TPU only.

  Args:
    query: scaled; Q of up to 512 is padded to a multiple of 128.
    key: of the tokens that are seen; M is a multiple of 128 up to 512, E a
      divisor of 128 and H * E a multiple of it.
    value: likewise.
    query_segments: who sees whom: tokens of the same segment.
    key_segments: likewise.
    seeds: of the dropout on attention weights; None is none.
    dropout_rate: its rate.
    interpret: runs the kernels as plain JAX, anywhere.
  """
  rows, queries, heads, width = query.shape
  query, key, value = (x.reshape(*x.shape[:2], -1) for x in (query, key, value))
  if padding := -queries % LANES:
    # Padded queries copy the last one: they see something, and nobody them.
    query = jnp.pad(query, ((0, 0), (0, padding), (0, 0)), 'edge')
    query_segments = jnp.pad(query_segments, ((0, 0), (0, padding)), 'edge')
  if seeds is None:
    seeds, dropout_rate = jnp.zeros((rows, 2), jnp.uint32), 0.0
  mixed = _attend(
    _Spec(width, queries, dropout_rate, interpret),
    query,
    key,
    value,
    query_segments[:, :, None],
    key_segments[:, None],
    seeds,
  )
  return mixed[:, :queries].reshape(rows, queries, heads, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(spec: _Spec, query: Array, *others: Array) -> Array:
  return _call(spec, _forward, 'fwd', [query], (query, *others))


def _attend_fwd(spec: _Spec, *args: Array) -> tuple[Array, tuple[Array, ...]]:
  return _attend(spec, *args), args


def _attend_bwd(
  spec: _Spec, args: tuple[Array, ...], gradient: Array
) -> tuple[Array | None, ...]:
  found = _call(spec, _backward, 'bwd', args[:3], (*args, gradient))
  return *found, None, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _call(
  spec: _Spec,
  kernel: Callable[..., None],
  direction: str,
  outputs: Any,
  args: tuple[Array, ...],
) -> Any:
  """Runs a kernel for every row and every 128 lanes of its activations."""
  rows, _, width = args[0].shape
  dropout_ = '_dropout' if spec.rate else ''

  def block(x: Array) -> pl.BlockSpec:
    if x.dtype == jnp.uint32:
      return pl.BlockSpec(memory_space=pltpu.SMEM)
    if jnp.issubdtype(x.dtype, jnp.integer):
      return pl.BlockSpec((1, *x.shape[1:]), lambda row, lanes: (row, 0, 0))
    return pl.BlockSpec(
      (1, x.shape[1], LANES), lambda row, lanes: (row, 0, lanes)
    )

  found = pl.pallas_call(
    functools.partial(kernel, spec),
    grid=(rows, width // LANES),
    in_specs=[block(x) for x in args],
    out_specs=[block(x) for x in outputs],
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel')
    ),
    interpret=spec.interpret,
    # `tpu/kernels.py` reads what it costs off its name.
    name=f'row_attention{dropout_}_{direction}_{spec.width}',
  )(*args)
  return found[0] if len(found) == 1 else found


def _forward(
  spec: _Spec, q_ref: _Ref, k_ref: _Ref, v_ref: _Ref, *refs: _Ref
) -> None:
  """Mixed values [Q, 128] of the heads in these lanes."""
  *others, out_ref = refs
  out = jnp.zeros(out_ref.shape[1:], jnp.float32)
  for own, weights, total, kept in _heads(spec, q_ref, k_ref, *others):
    weights = jnp.where(kept, weights, 0.0).astype(v_ref.dtype)
    mixed = _product(weights, own(v_ref[0]), (1, 0))
    out += mixed / (total * (1 - spec.rate))
  out_ref[0] = out.astype(out_ref.dtype)


def _backward(
  spec: _Spec, q_ref: _Ref, k_ref: _Ref, v_ref: _Ref, *refs: _Ref
) -> None:
  """Gradients of queries, keys and values of the heads in these lanes."""
  *others, g_ref, dq_ref, dk_ref, dv_ref = refs
  dq, dk, dv = (
    jnp.zeros(ref.shape[1:], jnp.float32) for ref in (dq_ref, dk_ref, dv_ref)
  )
  dtype = q_ref.dtype
  for own, weights, total, kept in _heads(spec, q_ref, k_ref, *others):
    weights = weights / total
    g = own(g_ref[0])
    used = jnp.where(kept, weights * (1 / (1 - spec.rate)), 0.0)
    dv += _product(used.astype(dtype), g, (0, 0))
    # Both factors of a softmax's gradient carry what dropout did.
    flow = used * _product(g, v_ref[0], (1, 1))
    scores = flow - weights * jnp.sum(flow, axis=1, keepdims=True)
    scores = scores.astype(dtype)
    dq += _product(scores, own(k_ref[0]), (1, 0))
    dk += _product(scores, own(q_ref[0]), (0, 0))
  for ref, gradient in ((dq_ref, dq), (dk_ref, dk), (dv_ref, dv)):
    ref[0] = gradient.astype(ref.dtype)


def _heads(
  spec: _Spec,
  q_ref: _Ref,
  k_ref: _Ref,
  q_segments_ref: _Ref,
  k_segments_ref: _Ref,
  seeds_ref: _Ref,
) -> Iterator[tuple[Callable[[Array], Array], Array, Array, Array | bool]]:
  """What both passes compute first, head by head.

  Yields:
    A function that zeroes the other heads' lanes of [N, 128], exp of the scores
    [Q, M] less their maximum, its sums [Q, 1], and what dropout keeps.
  """
  row, lanes = pl.program_id(0), pl.program_id(1)
  heads = LANES // spec.width
  visible = q_segments_ref[0] == k_segments_ref[0]
  for head in range(heads):

    def own(x: Array, head: int = head) -> Array:
      lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) - head * spec.width
      is_own = (lane >= 0) & (lane < spec.width)
      return jnp.where(is_own, x, jnp.zeros((), x.dtype))

    scores = _product(q_ref[0], own(k_ref[0]), (1, 1))
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
    total = jnp.sum(weights, axis=1, keepdims=True)
    kept = True
    if spec.rate:
      place = lanes * heads + head
      if head % 2 == 0:
        words = _words(spec, scores.shape, place >> 1, seeds_ref, row)
      kept = dropout.keep(words, place.astype(jnp.uint32), spec.rate)
    yield own, weights, total, kept


def _words(
  spec: _Spec, shape: tuple[int, int], pair: Array, seeds_ref: _Ref, row: Array
) -> Array:
  """Random bits [Q, M] of two heads, as `dropout.attention_dropout` draws."""
  query, key = (
    jax.lax.broadcasted_iota(jnp.uint32, size, axis)
    for axis, size in enumerate(((shape[0], 1), (1, shape[1])))
  )
  # Counted without the padding of queries.
  query += (pair * spec.queries).astype(jnp.uint32)
  index = query * jnp.uint32(shape[1]) + key
  return dropout.words(index, seeds_ref[row, 0], seeds_ref[row, 1])


def _product(x: Array, y: Array, contract: tuple[int, int]) -> Array:
  """A matrix product over one dimension of each, in float32."""
  return jax.lax.dot_general(
    x,
    y,
    (((contract[0],), (contract[1],)), ((), ())),
    preferred_element_type=jnp.float32,
    precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
  )
