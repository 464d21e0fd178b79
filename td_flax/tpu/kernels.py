"""What Pallas attention costs: the compiler estimates no custom kernel.

JAX's splash attention computes a block of scores per grid step. How many VLIW
bundles (one issues per cycle) the compiler schedules for a step was read from
its own final schedules, which libtpu 0.0.42 writes with
LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true" (lines of
the files `*splash*final_bundles.txt`; the kernel's one loop is a grid step), on
v5e for 512 x 512 with rows minor (`SEQ_MINOR`), else with the width minor.
On v5e that is a quarter of the peak forward, 0.42 backward: a matrix unit of
128 rows and columns is half empty where one of them runs over a head of width
64, and the softmax keeps the vector units busy for longer than the matmuls
last. Waiting for memory is not in a schedule; bytes over bandwidth are the
other bound (`estimate.py`). TPU v3 does not compile these kernels.
"""

import dataclasses
import math

from td_flax import chips
from td_flax.tpu import hlo

_WIDTH = 64
# Bundles per core for blocks of queries x keys: forward, fused backward.
_V5E = {
  (512, 512): (2026, 2843),
  (256, 512): (1037, 2035),
  (256, 256): (946, 1076),
  (128, 512): (668, 1299),
}
# A block of 512 x 512 elsewhere; other blocks in v5e's proportions.
_LARGE = {
  'TPU v4': (2815, 3708),
  'TPU v5e': _V5E[512, 512],
  'TPU v5p': (1946, 2936),
  'TPU v6e': (1325, 1820),
}
_BLOCKS = (512, 384, 256, 128)
# A part of the kernel's name, and its matmuls over the scores.
_KERNELS = (('splash_mha_fwd', 2), ('splash_mha_dkv', 5))


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one execution on a device."""

  flops: int
  seconds: float


def cost(
  chip: chips.Chip, instruction: hlo.Instruction, operands: list[hlo.Shape]
) -> Cost | None:
  """What a splash attention kernel costs; None for anything else.

  Args:
    chip: the device.
    instruction: perhaps such a kernel.
    operands: what it reads; its queries are the first array of floats, its
      keys the second.
  """
  if instruction.target != 'tpu_custom_call':
    return None
  for index, (name, matmuls) in enumerate(_KERNELS):
    if name in instruction.name:
      queries, keys = [s.dims for s in operands if 'f' in s.dtype][:2]
      # [B, H, Q, E] or [B, H, E, Q]: lengths are multiples of the lanes.
      is_width_last = queries[-2] % _BLOCKS[-1] == 0
      width = queries[-1 if is_width_last else -2]
      lengths = [dims[-2 if is_width_last else -1] for dims in (queries, keys)]
      heads = math.prod(queries[:-2])
      return Cost(
        2 * matmuls * heads * math.prod(lengths) * width,
        heads * _cycles(chip, index, *lengths, width) / chip.cores / chip.clock,
      )
  return None


def _cycles(
  chip: chips.Chip, index: int, queries: int, keys: int, width: int
) -> float:
  """Of one head of one row."""
  block = tuple(
    next(size for size in _BLOCKS if n % size == 0) for n in (queries, keys)
  )
  large = _V5E[512, 512][index]
  if block in _V5E:
    share = _V5E[block][index] / large
  else:
    share = math.prod(block) / 512**2
  count = queries * keys // math.prod(block)
  # Wider heads: the matmuls grow, the softmax does not; count all of it.
  grown = max(1, width / _WIDTH)
  return count * share * _LARGE[chip.name][index] * grown
