"""Rows of a table by id; the gradient as a Pallas kernel for TPUs.

XLA's scatter sorts the ids on a TPU. Here a part of the table's gradient, as
large as fits the vector memory, stays there while blocks of tokens pass by,
each in the order of the parts that their ids lie in, and is added to row by
row: each id sums in float32 in the order of its tokens, the same bits every
time. Letters as in `bert.py`, V and D of any table; G blocks of T tokens, R
parts.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from td_flax import chips
from td_flax.devices import Devices

_TOKENS = 256  # T
_UNROLLED = 8  # tokens whose latencies overlap, and rows of a tile
_MOST_PARTS = 16
_REACH = 4 * chips.LANES  # of one load from a single row

_Ref = Any  # a block of an array, in vector or scalar memory
Lookup = Callable[[Array, Array], Array]


def make(devices: Devices) -> Lookup:
  """`table[ids]` and its gradient, as the devices do it best.

  Args:
    devices: what is compiled for, and the wrapper of kernels.

  Returns:
    A function (f32[V, D], i32[B, N]) -> f32[B, N, D].
  """
  chip = chips.chip_of(devices.kind) if devices.platform == 'tpu' else None

  def lookup(table: Array, ids: Array) -> Array:
    parts = num_parts(*table.shape, chip) if chip else None
    if parts is None:
      return _take(table, ids)
    kernel = functools.partial(sum_by_id, rows=len(table), parts=parts)
    return _lookup(devices.wrap_kernel(kernel), table, ids)

  return lookup


def num_parts(rows: int, width: int, chip: chips.Chip) -> int | None:
  """In how many parts of equal size the kernel sums a table [V, D].

  Args:
    rows: V.
    width: D.
    chip: a TPU.

  Returns:
    The fewest, a power of two, that give every core one to work on and leave it
    a quarter of its vector memory; None where the kernel does not apply.
  """
  parts = chip.cores
  while 4 * rows * width / parts > 0.75 * chip.vector_bytes:
    parts *= 2
    if parts > _MOST_PARTS:
      return None
  if width % chips.LANES or rows % (parts * _UNROLLED):
    return None
  return parts


def _take(table: Array, ids: Array) -> Array:
  return jnp.take(table, ids, axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lookup(kernel: Callable[..., Array], table: Array, ids: Array) -> Array:
  del kernel
  return _take(table, ids)


def _lookup_fwd(
  kernel: Callable[..., Array], table: Array, ids: Array
) -> tuple[Array, Array]:
  return _lookup(kernel, table, ids), ids


def _lookup_bwd(
  kernel: Callable[..., Array], ids: Array, gradient: Array
) -> tuple[Array, None]:
  return kernel(ids, gradient).sum(0), None


_lookup.defvjp(_lookup_fwd, _lookup_bwd)


def sum_by_id(
  ids: Int[Array, 'B N'],
  x: Float[Array, 'B N D'],
  *,
  rows: int,
  parts: int,
  interpret: bool = False,
) -> Float[Array, '1 V D']:
  """The sum of the states of each id; TPU only.

  Args:
    ids: of the tokens; those outside [0, V) count for nothing.
    x: their states in float32; D is a multiple of 128.
    rows: V, a multiple of 8 `parts`.
    parts: in how many the sums are computed, one after another.
    interpret: runs the kernel as plain JAX, anywhere.

  Returns:
    The sums, under a dimension for those of other devices.
  """
  width = x.shape[-1]
  ids, x = ids.reshape(-1), x.reshape(-1, width)
  padding = -len(ids) % _TOKENS
  ids = jnp.pad(ids, (0, padding), constant_values=-1)
  x = jnp.pad(x, ((0, padding), (0, 0)))
  part = rows // parts
  blocks = ids.reshape(-1, _TOKENS)
  scalars = blocks, *_by_part(blocks, part, parts)
  found = pl.pallas_call(
    _kernel,
    grid=(parts, len(blocks)),
    in_specs=[
      pl.BlockSpec((_TOKENS, width), lambda r, g: (g, 0)),
      *(
        pl.BlockSpec(
          (1, 1, a.shape[1]), lambda r, g: (g, 0, 0), memory_space=pltpu.SMEM
        )
        for a in scalars
      ),
    ],
    out_specs=pl.BlockSpec(
      (part, width), lambda r, g: (r, 0), pipeline_mode=pl.Buffered(1)
    ),
    out_shape=jax.ShapeDtypeStruct((rows, width), jnp.float32),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'arbitrary'),
      # The part, a block of tokens twice, and as much again.
      vmem_limit_bytes=4 * width * (part + 4 * _TOKENS),
    ),
    interpret=interpret,
    # `tpu/kernels.py` reads what it costs off its name.
    name=f'sum_by_id_{parts}',
  )(x, *(a[:, None] for a in scalars))
  return found[None]


def _by_part(
  ids: Int[Array, 'G T'], part: int, parts: int
) -> tuple[Int[Array, 'G T'], Int[Array, 'G R+1']]:
  """A block's tokens in the order of their parts, and where each begins."""
  where = jnp.clip(ids // part, -1, parts)
  index = jnp.arange(_TOKENS)[None]
  keys = where * _TOKENS + index
  # By comparison of all pairs, as tokens are routed.
  ranks = jnp.sum(keys[:, None, :] < keys[:, :, None], -1, dtype=jnp.int32)
  there = ranks[:, None, :] == index[:, :, None]
  order = jnp.sum(jnp.where(there, index[:, None, :], 0), -1)
  before = where[:, None, :] < jnp.arange(parts + 1)[None, :, None]
  return order, jnp.sum(before, -1, dtype=jnp.int32)


def _kernel(
  x_ref: _Ref,
  ids_ref: _Ref,
  order_ref: _Ref,
  begins_ref: _Ref,
  out_ref: _Ref,
) -> None:
  """Adds a block of tokens to a part of the sums."""
  part, width = out_ref.shape
  own = pl.program_id(0)

  @pl.when(pl.program_id(1) == 0)
  def _() -> None:
    zeros = jnp.zeros((_UNROLLED, width), jnp.float32)

    def clear(i: Array, carry: None) -> None:
      row = pl.multiple_of(i * _UNROLLED, _UNROLLED)
      out_ref[pl.ds(row, _UNROLLED)] = zeros
      return carry

    jax.lax.fori_loop(0, part // _UNROLLED, clear, None)

  def add(i: Array, carry: None) -> None:
    token = order_ref[0, 0, i]
    row = ids_ref[0, 0, token] - own * part
    for lane in range(0, width, _REACH):
      lanes = pl.ds(lane, min(_REACH, width - lane))
      out_ref[pl.ds(row, 1), lanes] += x_ref[pl.ds(token, 1), lanes]
    return carry

  begin, end = begins_ref[0, 0, own], begins_ref[0, 0, own + 1]

  def add_several(turn: Array, carry: None) -> None:
    for i in range(_UNROLLED):
      add(begin + turn * _UNROLLED + i, carry)
    return carry

  turns = jax.lax.div(end - begin, _UNROLLED)
  jax.lax.fori_loop(0, turns, add_several, None)
  jax.lax.fori_loop(begin + turns * _UNROLLED, end, add, None)
