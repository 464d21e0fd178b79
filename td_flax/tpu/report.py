"""A config's step beside the same without dropping, compiled for a slice."""

import dataclasses
import pathlib
from typing import Any

from td_flax import config as config_lib
from td_flax.tpu import aot, estimate, hlo, pods

ARMS = ('dropped', 'plain')
_GIB = 2**30


def compare(
  config: config_lib.Config,
  topology: str,
  *,
  dump: pathlib.Path | None = None,
  largest_batch: bool = False,
  tokens: float | None = None,
) -> dict[str, Any]:
  """Compiles `config` as `dropped` and with `drop.policy=none` as `plain`.

  Args:
    config: its `train.batch_size` is split over the slice's devices.
    topology: a name for `aot.topology`.
    dump: a folder for the compiled programs, `dropped.hlo` and `plain.hlo`.
    largest_batch: also search for the most rows per device that fit.
    tokens: also predict the chip-hours for so many.

  Returns:
    What `--json` writes: `ratio`, the estimated step of `dropped` over that of
    `plain` (None where one does not fit), the setting, and both arms.

  Raises:
    errors.ConfigError: the slice or the batch cannot be used.
  """
  slice_ = aot.topology(topology)
  arms = {'dropped': config, 'plain': without_dropping(config)}
  result: dict[str, Any] = {
    'config': config.name,
    'policy': config.drop.policy,
    'engine': config.parallel.engine,
    'topology': slice_.name,
    'chip': slice_.chip.name,
    'devices': len(slice_.devices),
    'rows_per_device': config.train.batch_size // len(slice_.devices),
    'microbatches': config.train.microbatches,
    'sequence_length': config.data.sequence_length,
    'ratio': None,
    'flops_ratio': None,
  }
  for name, arm in arms.items():
    if name == 'plain' and arm == config:
      result['plain'] = result['dropped']
      continue
    compiled = aot.compile_step(arm, slice_)
    result[name] = _arm(compiled, slice_, tokens)
    if dump and compiled.text:
      dump.mkdir(parents=True, exist_ok=True)
      (dump / f'{name}.hlo').write_text(compiled.text)
    if largest_batch:
      most = _largest(arm, slice_, compiled) * arm.train.microbatches
      result[name]['largest_rows_per_device'] = most
  dropped, plain = result['dropped'], result['plain']
  result['flops_ratio'] = dropped['model_flops'] / plain['model_flops']
  if dropped['fits'] and plain['fits']:
    result['ratio'] = dropped['estimated_step_ms'] / plain['estimated_step_ms']
  return result


def without_dropping(config: config_lib.Config) -> config_lib.Config:
  """The same experiment with `drop.policy=none`."""
  return config_lib.with_changes(config, {'drop.policy': 'none'})


def _arm(
  compiled: aot.Compiled, slice_: aot.Topology, tokens: float | None
) -> dict[str, Any]:
  steps = compiled.steps
  rows = steps.config.train.batch_size // len(slice_.devices)
  model_flops = rows * steps.row_flops
  figures: dict[str, Any] = {
    'fits': compiled.fits,
    'hbm_bytes': compiled.hbm_bytes,
    'flops': None,
    'model_flops': model_flops,
    'estimated_step_ms': None,
    'estimated_mfu': None,
    'ops': None,
    'compile_seconds': compiled.seconds,
  }
  if compiled.text is None:
    return figures
  found = estimate.estimate(hlo.Program(compiled.text), slice_)
  figures |= estimate.to_json(found)
  figures['estimated_mfu'] = model_flops / (
    found.seconds * slice_.chip.peak_flops
  )
  figures['scaling'] = pods.weak_scaling(found, slice_)
  if tokens:
    per_step = steps.config.train.batch_size * (
      steps.config.data.sequence_length
    )
    figures['chip_hours'] = pods.chip_hours(
      tokens, per_step, found.seconds, slice_
    )
  return figures


def _largest(
  config: config_lib.Config, slice_: aot.Topology, compiled: aot.Compiled
) -> int:
  """Rows per device and microbatch that fit, an eighth from the most.

  Memory grows by the row until the compiler begins to recompute in order to
  stay inside; so the line through two compilations is a first guess, and
  compilations around it decide.
  """
  parts = len(slice_.devices) * config.train.microbatches
  known: dict[int, aot.Compiled] = {config.train.batch_size // parts: compiled}

  def fits(rows: int) -> bool:
    if rows not in known:
      train = dataclasses.replace(config.train, batch_size=rows * parts)
      known[rows] = aot.compile_step(
        dataclasses.replace(config, train=train), slice_
      )
    return known[rows].fits

  first = next(iter(known))
  second = max(8, first // 2 // 8 * 8)
  if second == first:
    second = 16
  fits(second)
  (r1, m1), (r2, m2) = sorted((r, c.hbm_bytes) for r, c in known.items())
  per_row = (m2 - m1) / (r2 - r1)
  rows = max(8, int((slice_.chip.hbm_bytes - m1) / per_row + r1) // 8 * 8)
  low = max((r for r, c in known.items() if c.fits), default=0)
  high = min((r for r, c in known.items() if not c.fits), default=None)
  while high is None or high - low > max(8, low // 8):
    if rows <= low and high is None:
      rows = low + max(8, low // 64 * 8)
    elif high is not None and not low < rows < high:
      rows = max(low // 8 * 8 + 8, (low + high) // 16 * 8)
    low, high = (rows, high) if fits(rows) else (low, rows)
  return low


def table(result: dict[str, Any]) -> str:
  """The figures of `compare` for people."""
  lines = [
    f'{result["config"]}, {result["policy"]} against none, on '
    f'{result["topology"]} ({result["devices"]} x {result["chip"]}), '
    f'{result["rows_per_device"]} rows of {result["sequence_length"]} per '
    f'device in {result["microbatches"]} parts, engine {result["engine"]}',
    '',
    f'{"":<30}{"dropped":>16}{"plain":>16}{"ratio":>9}',
  ]

  def row(label: str, get: Any, form: str) -> None:
    values = []
    for name in ARMS:
      try:
        values.append(get(result[name]))
      except (KeyError, TypeError):
        values.append(None)  # the arm does not fit
    texts = ['-' if v is None else format(v, form) for v in values]
    line = f'{label:<30}{texts[0]:>16}{texts[1]:>16}'
    numbers = all(isinstance(v, float) for v in values)
    if numbers and values[1]:
      line += f'{values[0] / values[1]:9.3f}'
    lines.append(line)

  row('fits', lambda a: 'yes' if a['fits'] else 'NO', '')
  row('HBM per device, GiB', lambda a: a['hbm_bytes'] / _GIB, '.2f')
  row('model FLOPs per device, T', lambda a: a['model_flops'] / 1e12, '.3f')
  row('executed FLOPs per device, T', lambda a: a['flops'] / 1e12, '.3f')
  row('estimated step, ms', lambda a: a['estimated_step_ms'], '.2f')
  for kind in estimate.KINDS:
    row(f'  {kind}', lambda a, kind=kind: a['ms_by_kind'][kind], '.2f')
  row(
    '  overlapped collectives',
    lambda a: a['collectives_overlapped_ms'],
    '.2f',
  )
  row('  HBM floor', lambda a: a['hbm_floor_ms'], '.2f')
  row(
    "compiler's own estimates, %",
    lambda a: 100 * a['compiler_estimated_share'],
    '.1f',
  )
  row('estimated MFU, %', lambda a: 100 * a['estimated_mfu'], '.1f')
  row('sent per device, MB', lambda a: a['sent_bytes'] / 1e6, '.1f')
  for name in (*estimate.SLOW, 'dynamic_shape'):
    row(f'{name} instructions', lambda a, name=name: a['ops'][name], 'd')
  row('largest rows per device', lambda a: a['largest_rows_per_device'], 'd')
  slices = next((result[x]['scaling'] for x in ARMS if result[x]['fits']), [])
  for i, point in enumerate(slices):  # weak scaling: the same rows per device
    label = f'estimated on {point["topology"]}, ms'
    row(label, lambda a, i=i: a['scaling'][i]['step_ms'], '.2f')
  row('chip-hours', lambda a: a['chip_hours'], ',.0f')
  row('compiling, s', lambda a: a['compile_seconds'], '.0f')
  if result['ratio']:
    lines += [
      '',
      f'estimated step ratio {result["ratio"]:.3f}, model FLOP ratio '
      f'{result["flops_ratio"]:.3f}',
    ]
  return '\n'.join(lines)


MARKDOWN_HEAD = (
  '| config | slice | rows per device x parts | HBM GiB, dropped / plain '
  '| step ms, dropped / plain | ratio | MFU %, dropped / plain '
  '| sort, scatter, gather, while | compiled in s |\n'
  '|---|---|---|---|---|---|---|---|---|'
)


def markdown(result: dict[str, Any]) -> str:
  """A row under `MARKDOWN_HEAD`."""
  arms = [result[name] for name in ARMS]

  def both(form: str, get: Any) -> str:
    return ' / '.join(
      format(get(arm), form) if arm['fits'] else 'does not fit' for arm in arms
    )

  parts = result['microbatches']
  cells = [
    result['config'],
    result['topology'],
    f'{result["rows_per_device"]} x {parts}',
    both('.1f', lambda arm: arm['hbm_bytes'] / _GIB),
    both('.1f', lambda arm: arm['estimated_step_ms']),
    f'{result["ratio"]:.3f}' if result['ratio'] else '-',
    both('.1f', lambda arm: 100 * arm['estimated_mfu']),
    ' / '.join(
      ', '.join(str(arm['ops'][name]) for name in estimate.SLOW)
      for arm in arms
      if arm['fits']
    ),
    ' / '.join(f'{arm["compile_seconds"]:.0f}' for arm in arms),
  ]
  return f'| {" | ".join(cells)} |'


def compare_until_it_fits(
  config: config_lib.Config, topology: str
) -> dict[str, Any]:
  """`compare`, in twice as many microbatches until both arms fit."""
  rows = config.train.batch_size // len(aot.topology(topology).devices)
  while True:
    result = compare(config, topology)
    parts = 2 * config.train.microbatches
    if all(result[name]['fits'] for name in ARMS) or rows % parts:
      return result
    train = dataclasses.replace(config.train, microbatches=parts)
    config = dataclasses.replace(config, train=train)
