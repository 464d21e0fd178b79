"""A compiled step -> seconds by kind of operation, on paper.

Three sources, in this order. The compiler's `estimated_cycles` of a fusion,
over the clock. For Pallas kernels, which have none, the length of their
schedules (`kernels.py`). For all else a roofline: the longer of FLOPs over the
peak and bytes over HBM's bandwidth; for a collective the bytes that a device
sends over the bandwidth of the links that it uses.

Operations follow one another on a TPU core, so their seconds add up; copies
between HBM and vector memory that are started early (`copy-start`,
`slice-start`) and collectives that the compiler overlaps do not. What all but
collectives move through HBM is a floor for what they take together. Collectives
that everything waits for come on top of it.
"""

import collections
import dataclasses
import re
from typing import Any

from td_flax.tpu import aot, hlo, kernels, traffic
from td_flax.tpu import collectives as collectives_lib

KINDS = (
  'matmul',
  'attention',
  'elementwise',
  'random',
  'embedding',
  'routing',
  'optimizer',
  'copies',
  'collectives',
  'other',
)
_ROUTING = re.compile(r'\b(routing|table)\b')
SLOW = ('sort', 'scatter', 'gather', 'while')
_EARLY = ('copy-start', 'slice-start')
_ROUNDS = 20  # xors of threefry: one a round
_MOVES = frozenset(
  ('copy', 'bitcast', 'parameter', 'fusion', 'transpose', 'reshape', 'convert')
)
_DENSE = 1e6  # FLOPs from which a fusion with a matmul in it is one


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One step on one device.

  Attributes:
    seconds: of a step.
    by_kind: seconds per kind of operation; they may add up to less where HBM
      is the floor.
    compiler_share: of the seconds that are added up, those that the compiler
      estimated.
    flops: matmuls and attention, as executed.
    hbm_traffic: bytes read and written.
    hbm_seconds: the time that this takes at least.
    collectives: what crosses the links.
    overlapped_seconds: collectives that run beside other operations.
    ops: instructions of the kinds that are slow on a TPU, anywhere.
    origins: what of the traced program those come from.
  """

  seconds: float
  by_kind: dict[str, float]
  compiler_share: float
  flops: int
  hbm_traffic: int
  hbm_seconds: float
  collectives: tuple[collectives_lib.Collective, ...]
  overlapped_seconds: float
  ops: dict[str, int]
  origins: dict[str, list[str]]

  @property
  def sent(self) -> int:
    """Bytes that a device sends to others."""
    return sum(c.sent * c.times for c in self.collectives)

  @property
  def exposed_seconds(self) -> float:
    """Collectives that everything else waits for."""
    return self.by_kind['collectives']


def estimate(program: hlo.Program, slice_: aot.Topology) -> Estimate:
  """What a step takes on a device of the slice."""
  chip = slice_.chip
  by_kind = dict.fromkeys(KINDS, 0.0)
  compiler = flops = moved = 0
  for computation, instruction, times in program.executed():
    if instruction.is_free:
      continue
    inside = [inner for _, inner in program.inside(computation, instruction)]
    if collectives_lib.kind(instruction.opcode):
      continue
    operands = program.operands(computation, instruction)
    kernel = kernels.cost(chip, instruction, operands)
    own_flops = program.flops(computation, instruction)
    own_bytes = traffic.hbm_bytes(program, computation, instruction)
    if kernel:
      own_flops = kernel.flops
    flops += own_flops * times
    moved += own_bytes * times
    if instruction.opcode in _EARLY:
      continue
    if instruction.cycles is not None:
      seconds = instruction.cycles / chip.clock
      compiler += seconds * times
    else:
      seconds = max(own_flops / chip.peak_flops, own_bytes / chip.hbm_bandwidth)
      if kernel:
        seconds = max(seconds, kernel.seconds)
    by_kind[kind(instruction, inside, own_flops)] += seconds * times
  found = tuple(collectives_lib.find(program, len(slice_.devices)))
  exposed, overlapped = (
    sum(c.sent * c.times for c in found if c.overlaps is overlaps)
    / slice_.ring_bandwidth
    for overlaps in (False, True)
  )
  hbm_seconds = moved / chip.hbm_bandwidth
  work = max(sum(by_kind.values()), hbm_seconds, overlapped)
  by_kind['collectives'] = exposed
  return Estimate(
    seconds=work + exposed,
    by_kind=by_kind,
    compiler_share=compiler / max(sum(by_kind.values()), 1e-12),
    flops=flops,
    hbm_traffic=moved,
    hbm_seconds=hbm_seconds,
    collectives=found,
    overlapped_seconds=overlapped,
    ops={
      **{name: len(program.find(name)) for name in SLOW},
      'dynamic_shape': program.count_dynamic(),
    },
    origins={
      name: sorted({found.op_name for found in program.find(name)})
      for name in SLOW
    },
  )


def kind(
  instruction: hlo.Instruction, inside: list[hlo.Instruction], flops: int
) -> str:
  """The kind of an operation, one of `KINDS`.

  Args:
    instruction: the operation.
    inside: it and all that its fusion holds.
    flops: its matmul FLOPs.
  """
  opcodes = collections.Counter(inner.opcode for inner in inside)
  names = ' '.join(inner.op_name for inner in inside)
  # Scopes of the step: choosing, moving and restoring tokens, the table.
  if _ROUTING.search(instruction.op_name):
    return 'routing'
  # Kernels by their names; the products of `attention.plain`.
  if any(word in names for word in ('row_attention', 'splash', 'bhq')):
    return 'attention'
  if flops >= _DENSE:
    return 'matmul'
  if opcodes['gather'] or opcodes['scatter'] or 'sum_by_id' in names:
    return 'embedding'
  if opcodes['rng-bit-generator'] or opcodes['xor'] >= _ROUNDS:
    return 'random'
  if opcodes['copy'] and set(opcodes) <= _MOVES:
    return 'copies'
  if 'jvp(' in names:
    return 'elementwise'
  # What is not differentiated is the update; a name may be lost on the way.
  return 'optimizer' if names.strip() else 'other'


def to_json(figures: Estimate) -> dict[str, Any]:
  """The figures under their names in `--json`."""
  grouped: dict[tuple[str, bool], dict[str, Any]] = {}
  for c in figures.collectives:
    row = grouped.setdefault(
      (c.opcode, c.overlaps),
      {
        'opcode': c.opcode,
        'overlaps': c.overlaps,
        'count': 0,
        'payload_bytes': 0,
        'sent_bytes': 0,
      },
    )
    row['count'] += c.times
    row['payload_bytes'] += c.payload * c.times
    row['sent_bytes'] += c.sent * c.times
  return {
    'flops': figures.flops,
    'estimated_step_ms': 1e3 * figures.seconds,
    'ms_by_kind': {k: 1e3 * v for k, v in figures.by_kind.items()},
    'compiler_estimated_share': figures.compiler_share,
    'hbm_traffic_bytes': figures.hbm_traffic,
    'hbm_floor_ms': 1e3 * figures.hbm_seconds,
    'sent_bytes': figures.sent,
    'collectives': list(grouped.values()),
    'collectives_overlapped_ms': 1e3 * figures.overlapped_seconds,
    'ops': figures.ops,
    'ops_from': figures.origins,
  }
