"""What our and JAX's Pallas kernels cost: the compiler estimates none.

How many VLIW bundles (one issues per cycle) the compiler schedules for a grid
step was read from its own final schedules, which libtpu 0.0.42 writes with
LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true" (lines of
the files `*final_bundles.txt`; a kernel's one loop is a grid step). For
`row_attention.py` that is two heads of width 64, copying what is on its way in
and out excluded; for JAX's splash attention one block of one head, on v5e with
rows minor (`SEQ_MINOR`), else with the width minor.

On v5e rows of 512 take 0.36 of the peak forward, 0.39 backward: a matrix unit
of 128 rows and columns is half empty where one of them runs over a head of
width 64. Waiting for memory is not in a schedule; bytes over bandwidth are the
other bound (`estimate.py`). TPU v3 does not compile these kernels; v4 has no
multiplication of integers, which dropout pays for.

`lookup.py` has no products; it waits for its loops, one turn after another,
whose bundles are read off the same files: of a grid step (what is outside of
its inner loops), of adding a token and of clearing a row, at a width of 768 and
rounded up. The loop over what is left of a step's tokens, 3.5 of them on
average, is counted with the step. Every part of the sums reads all tokens,
which takes longer where the parts are many, and has its memory to itself, so
that writing it is not overlapped.
"""

import dataclasses
import math
import re

from td_flax import chips
from td_flax.model import attention
from td_flax.tpu import hlo

_WIDTH = 64
# Bundles per core and head for queries x keys: forward, backward.
_Figures = dict[tuple[int, int], tuple[float, float]]
_ROWS: _Figures = {
  (512, 512): (1440, 3258),
  (256, 512): (797, 1744),
  (256, 256): (628, 1235),
  (128, 512): (568, 1181),
}
_DROPOUT: _Figures = {
  (512, 512): (1934, 3904),
  (256, 512): (1033, 1984),
  (256, 256): (691, 1309),
  (128, 512): (658, 1293),
}
_SPLASH: _Figures = {
  (512, 512): (2026, 2843),
  (256, 512): (1037, 2035),
  (256, 256): (946, 1076),
  (128, 512): (668, 1299),
}
# 512 x 512 elsewhere; other lengths in v5e's proportions.
_LARGE = {
  'TPU v4': {
    'rows': (1843, 4504),
    'rows_dropout': (6243, 8600),
    'splash': (2815, 3708),
  },
  'TPU v5p': {
    'rows': (1436, 3211),
    'rows_dropout': (1926, 3868),
    'splash': (1946, 2936),
  },
  'TPU v6e': {
    'rows': (1027, 2029),
    'rows_dropout': (1478, 2513),
    'splash': (1325, 1820),
  },
}
_V5E = {'rows': _ROWS, 'rows_dropout': _DROPOUT, 'splash': _SPLASH}
_MATMULS = (2, 5)  # over the scores: forward, backward
_ROW_KERNEL = re.compile(
  r'row_attention(?P<dropout>_dropout)?_(?P<direction>fwd|bwd)_(?P<width>\d+)'
)
_SUM_KERNEL = re.compile(r'sum_by_id_(?P<parts>\d+)')
# Bundles per grid step, token added and row cleared.
_SUM = {
  'TPU v4': (230, 13.7, 1.25),
  'TPU v5e': (140, 10.5, 1.25),
  'TPU v5p': (200, 10.8, 1.25),
  'TPU v6e': (170, 10.4, 0.9),
}
_SUM_WIDTH = 768
_SPLASH_KERNEL = re.compile(r'splash_mha_(?P<direction>fwd|dkv)')


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one execution on a device."""

  flops: int
  seconds: float


def cost(
  chip: chips.Chip, instruction: hlo.Instruction, operands: list[hlo.Shape]
) -> Cost | None:
  """What a kernel that is known here costs; None for anything else.

  Args:
    chip: the device.
    instruction: perhaps such a kernel.
    operands: what it reads; attention's queries are the first array of floats,
      its keys the second.
  """
  if instruction.target != 'tpu_custom_call':
    return None
  if sums := _SUM_KERNEL.search(instruction.name):
    return _sum_cost(chip, int(sums['parts']), instruction.shapes[0], operands)
  rows = _ROW_KERNEL.search(instruction.name)
  splash = _SPLASH_KERNEL.search(instruction.name)
  if not (rows or splash):
    return None
  queries, keys = [s.dims for s in operands if 'f' in s.dtype][:2]
  is_backward = (rows or splash)['direction'] != 'fwd'
  if rows:
    kernel = 'rows' + (rows['dropout'] or '')
    width = int(rows['width'])
    heads = queries[0] * queries[2] // width  # [B, Q, D]
    lengths = queries[1], keys[1]
    # A narrower head is computed as wide as the matrix unit all the same.
    cycles = _cycles(chip, kernel, is_backward, *lengths)
  else:
    # [B, H, Q, E] or [B, H, E, Q]: lengths are multiples of the lanes.
    is_width_last = queries[-2] % chips.LANES == 0
    width = queries[-1 if is_width_last else -2]
    lengths = tuple(
      dims[-2 if is_width_last else -1] for dims in (queries, keys)
    )
    heads = math.prod(queries[:-2])
    cycles = _cycles(chip, 'splash', is_backward, *lengths)
    # Wider heads: the matmuls grow, the softmax does not; count all of it.
    cycles *= max(1, width / _WIDTH)
  return Cost(
    2 * _MATMULS[is_backward] * heads * math.prod(lengths) * width,
    heads * cycles / chip.cores / chip.clock,
  )


def _sum_cost(
  chip: chips.Chip, parts: int, sums: hlo.Shape, operands: list[hlo.Shape]
) -> Cost:
  """Of `lookup.sum_by_id`: sums [V, D] of states [N, D], of ids in blocks."""
  step, added, cleared = _SUM[chip.name]
  x, ids = operands[:2]
  (tokens, width), (blocks, *_) = x.dims, ids.dims
  bundles = parts * blocks * step
  bundles += tokens * added + sums.dims[0] * cleared
  # A wider row takes more loads.
  bundles *= max(1, width / _SUM_WIDTH)
  adding = bundles / chip.cores / chip.clock
  reading = parts * x.bytes / chip.hbm_bandwidth
  return Cost(0, max(adding, reading) + sums.bytes / chip.hbm_bandwidth)


def _cycles(
  chip: chips.Chip, kernel: str, is_backward: bool, queries: int, keys: int
) -> float:
  """Of one head of one row."""
  block = attention.block_length(queries), attention.block_length(keys)
  figures = _V5E[kernel]
  large = figures[512, 512][is_backward]
  if block in figures:
    share = figures[block][is_backward] / large
  else:
    share = math.prod(block) / 512**2
  if chip.name in _LARGE:
    large = _LARGE[chip.name][kernel][is_backward]
  return queries * keys // math.prod(block) * share * large
