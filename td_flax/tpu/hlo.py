"""A compiled TPU program as text (`compiled.as_text()`) -> its operations.

The text is that of https://openxla.org/xla/hlo: computations of one instruction
per line, `%name = type opcode(operands), attributes, backend_config={json}`. A
layout that ends in S(0), or in no S, lies in HBM, S(1) in the core's vector
memory, higher numbers in registers and scalar memory.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_COMMENT = re.compile(r'/\*.*?\*/')
_BITS = re.compile(r'(?:bf|[fsuc])(\d+)')
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_HEAD = re.compile(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$')
# Of a computation; what another core runs names its thread.
_END = re.compile(r'\}(, execution_thread="\w+")?')
_LINE = re.compile(r'\s+(?:ROOT )?%?([\w.-]+) = (.*)$')
_OPCODE = re.compile(r'\s*([a-z][\w-]*)\(')
_CALLED = re.compile(
  r'(?:calls|body|condition|to_apply|branch_computations|'
  r'called_computations|true_computation|false_computation)='
  r'(\{[^}]*\}|%?[\w.-]+)'
)
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_WINDOW = re.compile(r'window=\{([^}]*)\}')

# Names for what is there already: they move nothing.
VIEWS = frozenset(
  (
    *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
    *('after-all', 'partition-id', 'replica-id', 'opt-barrier'),
    'async-update',
  )
)
# Custom calls that only tell the compiler something.
_NOTES = frozenset(
  (
    *('ConcatBitcast', 'X64Combine', 'X64SplitLow', 'X64SplitHigh'),
    *('AssumeGatherIndicesInBound', 'Sharding', 'AllocateBuffer'),
  )
)


@dataclasses.dataclass(frozen=True)
class Shape:
  """One array of an instruction's result.

  Attributes:
    dtype: as HLO writes it: f32, bf16, s32, pred.
    dims: its shape.
    space: memory space of its layout; 0 is HBM.
    is_dynamic: a dimension is only bounded (`<=`).
  """

  dtype: str
  dims: tuple[int, ...]
  space: int = 0
  is_dynamic: bool = False

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    """Without the padding of its tiles."""
    bits = _BITS.fullmatch(self.dtype)
    if self.dtype in ('token', 'opaque'):
      return 0
    return self.size * (int(bits[1]) if bits else 8) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique within its computation.
    opcode: such as `fusion`.
    shapes: its result, flat where it is a tuple.
    operands: names of the instructions it reads.
    attributes: the rest of the line.
    number: of a `parameter`, or the value of an integer `constant`.
    is_root: its result is the computation's.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  attributes: str
  number: int | None
  is_root: bool

  @functools.cached_property
  def called(self) -> tuple[str, ...]:
    """The computations it runs, in order of mention."""
    names = []
    for group in _CALLED.findall(self.attributes):
      names += re.findall(r'[\w.-]+', group)
    return tuple(names)

  @property
  def cycles(self) -> int | None:
    """The compiler's estimate for one execution, where it gives one."""
    match = _CYCLES.search(self.attributes)
    return int(match[1]) if match else None

  @property
  def op_name(self) -> str:
    """What of the traced program it comes from."""
    match = _OP_NAME.search(self.attributes)
    return match[1] if match else ''

  @property
  def target(self) -> str:
    """`custom_call_target` of a custom call."""
    match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
    return match[1] if match else ''

  @property
  def is_free(self) -> bool:
    """It only names or describes what is there."""
    is_end = self.opcode.endswith('-done')  # of what was started
    return is_end or self.opcode in VIEWS or self.target in _NOTES

  @property
  def bytes(self) -> int:
    """Of its result."""
    return sum(shape.bytes for shape in self.shapes)

  def attribute(self, name: str) -> str:
    """The bare value of `name=value`; '' where there is none."""
    match = re.search(rf'\b{name}=%?([\w.<>-]+)', self.attributes)
    return match[1] if match else ''


# An instruction and the computation that it stands in.
Placed = tuple[str, Instruction]


class Program:
  """The operations of a compiled program.

  Args:
    text: `compiled.as_text()`.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry = ''
    lines: dict[str, Instruction] | None = None
    for line in _joined(text):
      if _END.fullmatch(line):
        lines = None
      elif lines is None:
        head = _HEAD.match(line)
        if head:
          lines = self.computations.setdefault(head[1], {})
          if line.startswith('ENTRY'):
            self.entry = head[1]
      else:
        instruction = _instruction(line)
        lines[instruction.name] = instruction
    if not self.entry:
      raise ValueError('no ENTRY computation: is this the text of a program?')

  def executed(self) -> Iterator[tuple[str, Instruction, int]]:
    """What one execution runs: (computation, instruction, times).

    Fusions are yielded whole, and so is what another core is given to run
    (`call-start`), of whose cycles the compiler says nothing; a loop's body as
    often as it turns; of a conditional every branch, for its choice is not
    known.
    """
    return self._walk(self.entry, 1)

  def _walk(
    self, computation: str, times: int
  ) -> Iterator[tuple[str, Instruction, int]]:
    for instruction in self.computations[computation].values():
      if instruction.opcode == 'while':
        times_inside = times * self.trips(instruction)
        for name in instruction.called:
          yield from self._walk(name, times_inside)
      elif instruction.opcode in ('call', 'conditional', 'async-start'):
        for name in instruction.called:
          yield from self._walk(name, times)
      else:
        yield computation, instruction, times

  def trips(self, loop: Instruction) -> int:
    """How often a `while` turns: 1 where neither it nor its condition tells."""
    known = _TRIPS.search(loop.attributes)
    if known:
      return int(known[1])
    condition = self.computations[loop.attribute('condition')].values()
    for instruction in condition:
      if instruction.opcode == 'compare' and 'LT' in instruction.attributes:
        limits = [
          i.number
          for i in condition
          if i.name in instruction.operands and i.number is not None
          if i.opcode == 'constant'
        ]
        if limits:
          return limits[0]
    return 1

  def inside(self, computation: str, instruction: Instruction) -> list[Placed]:
    """The instruction and all that its fusion holds, outermost first."""
    found = [(computation, instruction)]
    if instruction.opcode == 'fusion':
      for name in instruction.called:
        for inner in self.computations[name].values():
          found += self.inside(name, inner)
    return found

  def operands(self, computation: str, instruction: Instruction) -> list[Shape]:
    """The arrays that an instruction reads."""
    shapes = []
    for name in instruction.operands:
      shapes += self.computations[computation][name].shapes
    return shapes

  def find(self, *opcodes: str) -> list[Instruction]:
    """The instructions of these kinds, anywhere, once each."""
    return [
      instruction
      for lines in self.computations.values()
      for instruction in lines.values()
      if instruction.opcode in opcodes
    ]

  def count_dynamic(self) -> int:
    """Instructions whose shape is only known when they run."""
    return sum(
      any(shape.is_dynamic for shape in instruction.shapes)
      for lines in self.computations.values()
      for instruction in lines.values()
    )

  def flops(self, computation: str, instruction: Instruction) -> int:
    """Matmul FLOPs of one execution, also of what a fusion holds."""
    return sum(
      self._matmul_flops(*inner)
      for inner in self.inside(computation, instruction)
      if inner[1].opcode in ('convolution', 'dot')
    )

  def _matmul_flops(self, computation: str, matmul: Instruction) -> int:
    left, right = self.operands(computation, matmul)[:2]
    out = matmul.shapes[0]
    if matmul.opcode == 'dot':
      dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', matmul.attributes)
      axes = [int(i) for i in dims[1].split(',') if i] if dims else []
      return 2 * out.size * math.prod(left.dims[i] for i in axes)
    # Batched matmuls are written as convolutions over dilated dimensions, of
    # which most positions fall between the elements: count those that do not.
    lhs, rest = matmul.attribute('dim_labels').split('_')
    rhs, result = rest.split('->')
    window = _window(matmul.attributes)
    pairs = 1
    for axis in range(sum(label.isdigit() for label in result)):
      pairs *= _valid_pairs(
        left.dims[lhs.index(str(axis))],
        right.dims[rhs.index(str(axis))],
        out.dims[result.index(str(axis))],
        {name: values[axis] for name, values in window.items()},
      )
    batch, feature = (out.dims[result.index(label)] for label in 'bf')
    return 2 * batch * feature * right.dims[rhs.index('i')] * pairs


def _joined(text: str) -> Iterator[str]:
  """Lines; those of an instruction that goes on over several are joined."""
  parts: list[str] = []
  for line in text.splitlines():
    if parts and (_END.fullmatch(line) or _LINE.match(line)):
      yield ' '.join(parts)
      parts = []
    if parts or _LINE.match(line):
      parts.append(line)
    else:
      yield line


def _instruction(line: str) -> Instruction:
  name, rest = _LINE.match(_COMMENT.sub('', line)).groups()
  end = _closing(rest) if rest.startswith('(') else rest.index(' ')
  opcode = _OPCODE.match(rest, end)
  closing = _closing(rest, opcode.end() - 1)
  inside = rest[opcode.end() : closing - 1]
  return Instruction(
    name=name,
    opcode=opcode[1],
    shapes=tuple(_shape(array) for array in _ARRAY.finditer(rest, 0, end)),
    operands=tuple(re.findall(r'%([\w.-]+)', inside)),
    attributes=rest[closing:],
    number=int(inside) if inside.isdigit() else None,
    is_root=line.lstrip().startswith('ROOT '),
  )


def _closing(text: str, start: int = 0) -> int:
  """The index behind the bracket that closes the one at `start`."""
  depth = 0
  for match in re.finditer(r'[()]', text[start:]):
    depth += 1 if match[0] == '(' else -1
    if not depth:
      return start + match.end()
  raise ValueError(f'unbalanced brackets: {text[:80]}')


def _shape(array: re.Match[str]) -> Shape:
  dtype, dims, layout = array.groups()
  space = re.search(r'S\((\d+)\)', layout or '')
  return Shape(
    dtype,
    tuple(int(size.lstrip('<=')) for size in dims.split(',') if size),
    int(space[1]) if space else 0,
    '<' in dims,
  )


def _window(attributes: str) -> dict[str, list[tuple[int, ...]]]:
  """`{'size': [(8,), (12,)], 'pad': [(0, 3), ...]}`."""
  match = _WINDOW.search(attributes)
  fields = (field.split('=') for field in match[1].split()) if match else ()
  return {
    name: [
      tuple(int(number) for number in value.split('_'))
      for value in values.split('x')
    ]
    for name, values in fields
    if name != 'rhs_reversal'
  }


def _valid_pairs(
  left: int, right: int, out: int, window: dict[str, tuple[int, ...]]
) -> int:
  """(output, kernel) positions of one dimension that meet an input element."""
  stride, spread, dilate = (
    window.get(name, (1,))[0] for name in ('stride', 'lhs_dilate', 'rhs_dilate')
  )
  pad = window.get('pad', (0, 0))[0]
  pairs = 0
  for position in range(out):
    for kernel in range(right):
      place = position * stride + kernel * dilate - pad
      pairs += place % spread == 0 and 0 <= place // spread < left
  return pairs
