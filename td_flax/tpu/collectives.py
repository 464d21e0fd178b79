"""What crosses the links between chips."""

import dataclasses
import math
import re
from collections.abc import Iterator

from td_flax.tpu import hlo

OPCODES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'collective-permute',
  'all-to-all',
  'ragged-all-to-all',
  'collective-broadcast',
)
_LIST = re.compile(r'replica_groups=\{\{([\d,]+)\}')
_IOTA = re.compile(r'replica_groups=\[\d+,(\d+)\]')
_MESH = re.compile(r'replica_groups=mesh\[([^]]*)\] \{([^}]*)\}')
_CHANNEL = re.compile(r'channel_id=(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of a step.

  Attributes:
    opcode: what it does.
    payload: bytes of a device's operands.
    sent: bytes that a device sends, around a ring.
    times: how often a step runs it.
    overlaps: the compiler runs it beside other operations.
  """

  opcode: str
  payload: int
  sent: int
  times: int
  overlaps: bool


def kind(opcode: str) -> str | None:
  """The collective that an instruction is or starts; None for others."""
  name = opcode.removesuffix('-start')
  return name if name in OPCODES else None


def find(program: hlo.Program, num_devices: int) -> Iterator[Collective]:
  """Every collective once, however many instructions it is spread over.

  The compiler splits one into a start and a done, or weaves parts of it into
  several fusions; those parts share a channel.
  """
  woven = set()
  asynchronous = {
    name for start in program.find('async-start') for name in start.called
  }
  for computation, outer, times in program.executed():
    for where, instruction in program.inside(computation, outer):
      opcode = kind(instruction.opcode)
      if opcode is None:
        continue
      if outer.opcode == 'fusion':
        channel = _CHANNEL.search(instruction.attributes)
        if channel and channel[1] in woven:
          continue
        woven.add(channel and channel[1])
      payload = sum(s.bytes for s in program.operands(where, instruction))
      yield Collective(
        opcode,
        payload,
        sent(opcode, payload, group_size(instruction, num_devices)),
        times,
        overlaps=instruction.opcode.endswith('-start')
        or outer.opcode == 'fusion'
        or computation in asynchronous
        or 'async_collective_name' in instruction.attributes,
      )


def group_size(instruction: hlo.Instruction, num_devices: int) -> int:
  """Devices that take part together; no groups are one of all."""
  text = instruction.attributes
  if match := _LIST.search(text):
    return match[1].count(',') + 1
  if match := _IOTA.search(text):
    return int(match[1])
  if match := _MESH.search(text):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    axes = re.findall(r"'(\w+)'", match[2])
    return math.prod(int(sizes[axis]) for axis in axes)
  return num_devices


def sent(opcode: str, payload: int, devices: int) -> int:
  """Bytes that a device sends for its `payload`, around a ring.

  Each of n devices passes on n-1 parts; an all-reduce is a reduce-scatter and
  an all-gather.
  """
  others = devices - 1
  if opcode == 'all-reduce':
    return 2 * payload * others // devices
  if opcode == 'all-gather':
    return payload * others
  if opcode in ('reduce-scatter', 'all-to-all', 'ragged-all-to-all'):
    return payload * others // devices
  return payload
