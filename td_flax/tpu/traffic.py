"""How much of a chip's memory an operation reads and writes."""

from td_flax.tpu import hlo

Lines = dict[str, hlo.Instruction]

_UPDATERS = {'dynamic-update-slice': 1, 'scatter': 2}  # operand: the update
_SLICERS = frozenset(('slice', 'dynamic-slice', 'gather'))


def hbm_bytes(
  program: hlo.Program, computation: str, instruction: hlo.Instruction
) -> int:
  """Bytes of HBM that one execution reads and writes.

  Of an operand that is only sliced or gathered from, and of a result that is
  only updated in place, the slice counts.
  """
  if instruction.is_free:
    return 0
  operands = [
    program.computations[computation][name] for name in instruction.operands
  ]
  if instruction.opcode in ('copy-start', 'slice-start'):
    # (result, source, flag) and ((source), result, flag).
    result = instruction.shapes[instruction.opcode == 'slice-start']
    ends = (operands[0].shapes[0].space, result.space)
    return result.bytes * ends.count(0)
  if instruction.opcode == 'fusion':
    lines = program.computations[instruction.called[0]]
    reads = [_read(program, lines, source) for source in _parameters(lines)]
    written = _written(program, lines, instruction)
  else:
    lines = {source.name: source for source in operands}
    lines[instruction.name] = instruction
    reads = [_read(program, lines, source) for source in operands]
    written = _written(program, lines, instruction)
  total = min(written, sum(s.bytes for s in instruction.shapes if s.space == 0))
  for source, read in zip(operands, reads, strict=True):
    total += min(read, sum(s.bytes for s in source.shapes if s.space == 0))
  return total


def _read(program: hlo.Program, lines: Lines, source: hlo.Instruction) -> int:
  """Bytes of `source` that the other `lines` use."""
  total = 0
  for user in lines.values():
    for index, name in enumerate(user.operands):
      if name != source.name:
        continue
      if user.opcode in _SLICERS and index == 0:
        total += user.bytes
      elif user.opcode in _UPDATERS and index == 0:
        # Written in place; an addition reads what it replaces.
        total += _updated(lines, user) * (user.opcode == 'scatter')
      elif user.opcode == 'bitcast':
        total += _read(program, lines, user)
      elif user.opcode == 'fusion':
        inner = program.computations[user.called[0]]
        total += _read(program, inner, _parameters(inner)[index])
      else:
        return source.bytes
  return min(total, source.bytes)


def _updated(lines: Lines, user: hlo.Instruction) -> int:
  return lines[user.operands[_UPDATERS[user.opcode]]].bytes


def _written(program: hlo.Program, lines: Lines, whole: hlo.Instruction) -> int:
  """Bytes that the last of `lines` writes, which is the result of `whole`."""
  root = next((line for line in lines.values() if line.is_root), whole)
  while root.opcode in ('bitcast', 'fusion'):
    if root.opcode == 'fusion':
      lines = program.computations[root.called[0]]
      root = next(line for line in lines.values() if line.is_root)
    else:
      root = lines[root.operands[0]]
  if root.opcode in _UPDATERS:
    return _updated(lines, root)
  return whole.bytes


def _parameters(lines: Lines) -> list[hlo.Instruction]:
  parameters = [line for line in lines.values() if line.opcode == 'parameter']
  return sorted(parameters, key=lambda line: line.number)
