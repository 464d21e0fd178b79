"""Compiles a config's train step for a TPU slice and prints what it costs.

    python -m td_flax.tools.compile_tpu --config=configs/bert_base_td.py \
        --topology=v5e:2x4 [--json[=FILE]] [--dump=DIR] [--largest_batch] \
        [--config.KEY=VALUE ...]

Needs no TPU and no data, but libtpu (the extra `tpu`). Beside the config it
compiles the same with `drop.policy=none`. Every base and large config for
slices of four generations, as rows of Markdown as they are ready;
with FILE an interrupted table goes on where it was:

    python -m td_flax.tools.compile_tpu --all [--json=FILE]

Whole pods, with what crosses the interconnect and the chip-hours for a number
of tokens (`docs/scaling.md`):

    python -m td_flax.tools.compile_tpu --config=configs/bert_base_td.py \
        --topology=v5e:16x16 --tokens=1e12
"""

import concurrent.futures
import importlib.util
import json
import math
import multiprocessing
import os
import pathlib
import sys
from typing import Any

from absl import flags as absl_flags

from td_flax import artifacts, errors, flags
from td_flax import config as config_lib
from td_flax.compare import machine

# Each beside itself without dropping, which is bert_base and bert_large.
_SHIPPED = ('bert_base_td', 'bert_large_td')
_SLICES = ('v4-8', 'v5e-8', 'v5p-8', 'v6e-8')
_STDOUT = '-'


def define_flags() -> None:
  """The flags of this command."""
  flags.config_flag()
  absl_flags.DEFINE_string(
    'topology', 'v5e:2x4', 'GENERATION:SHAPE in chips, or a type such as v5e-8.'
  )
  absl_flags.DEFINE_string(
    'json', None, 'Write the figures to this file; - is stdout, alone.'
  )
  absl_flags.DEFINE_string('dump', None, 'Write the compiled programs here.')
  absl_flags.DEFINE_bool(
    'largest_batch', False, 'Also find the most rows per device that fit.'
  )
  absl_flags.DEFINE_float(
    'tokens', None, 'Predict the chip-hours for this many.', lower_bound=1
  )
  absl_flags.DEFINE_bool('all', False, 'Every base and large config.')


def main() -> None:
  """Does what the flags say.

  Raises:
    errors.UserError: the flags or the config cannot be used.
  """
  # The host's platform only runs what computes constants.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  values = absl_flags.FLAGS
  if values.json not in (None, _STDOUT):
    artifacts.require_writable('--json', pathlib.Path(values.json).parent)
  if values.dump:
    artifacts.require_writable('--dump', values.dump)
  if values.tokens and not math.isfinite(values.tokens):
    raise errors.ConfigError(f'--tokens={values.tokens}: must be finite')
  if values.all:
    for name in ('config', 'topology', 'dump', 'largest_batch', 'tokens'):
      if values[name].present:
        raise errors.ConfigError(f'--{name}: does not go with --all')
    if values.json == _STDOUT:
      raise errors.ConfigError('--json: must name a file with --all')
    _all(values.json and pathlib.Path(values.json))
    return
  from td_flax.tpu import report

  config = flags.load_step()
  if config.parallel.num_devices:
    raise errors.ConfigError(
      f'parallel.num_devices={config.parallel.num_devices}: must be 0: all '
      'devices of --topology take part'
    )
  result = report.compare(
    config,
    values.topology,
    dump=values.dump and pathlib.Path(values.dump),
    largest_batch=values.largest_batch,
    tokens=values.tokens,
  )
  text = json.dumps(result | _circumstances(), indent=2) + '\n'
  if values.json == _STDOUT:
    print(text, end='')
    return
  print(report.table(result))
  if values.json:
    pathlib.Path(values.json).write_text(text)


def _circumstances() -> dict[str, Any]:
  command = ['python', '-m', 'td_flax.tools.compile_tpu', *sys.argv[1:]]
  return machine.facts(command, 'jaxlib', 'libtpu', 'flax')


def _all(file: pathlib.Path | None) -> None:
  """Prints a row of Markdown per config and slice.

  Args:
    file: where the figures are kept; rows that it holds are not compiled again.
  """
  from td_flax.tpu import report

  kept = _kept(file) if file and file.exists() else {}
  # A process for each: the compiler holds on to gigabytes of every program.
  pool = concurrent.futures.ProcessPoolExecutor(
    1, multiprocessing.get_context('spawn'), max_tasks_per_child=1
  )
  print(report.MARKDOWN_HEAD, flush=True)
  for name in _SHIPPED:
    config = _shipped(name)
    for topology in _SLICES:
      key = f'{name} {topology}'
      if key not in kept:
        kept[key] = pool.submit(
          report.compare_until_it_fits, config, topology
        ).result()
        kept[key] |= _circumstances()
        if file:
          artifacts.write_json(file, kept)
      print(report.markdown(kept[key]), flush=True)


def _kept(file: pathlib.Path) -> dict[str, Any]:
  try:
    rows = json.loads(file.read_bytes())
    if all('dropped' in row for row in rows.values()):
      return rows
  except (OSError, ValueError, AttributeError, TypeError):
    pass
  raise errors.ConfigError(
    f'--json={file}: is there already and no table of --all; name another file'
  )


def _shipped(name: str) -> config_lib.Config:
  path = pathlib.Path(__file__).parents[2] / 'configs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  if not path.exists():
    raise errors.ConfigError(f'--all: {path} is missing: run it in a checkout')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return config_lib.load(module.get_config())


if __name__ == '__main__':
  define_flags()
  # A flag of text wants a value: a bare --json is --json=-.
  sys.argv = [f'--json={_STDOUT}' if a == '--json' else a for a in sys.argv]
  flags.run(main)
