"""An experiment's train step, compiled for TPUs that are not there.

libtpu holds the real compiler; `jax.experimental.topologies` hands out the
devices of a slice without a TPU. The step, the engine and the lowering are
those of training.
"""

import dataclasses
import importlib.util
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp

from td_flax import chips, errors, extras, parallel, step
from td_flax import config as config_lib
from td_flax.data.vocabulary import SpecialIds

# Accelerator types (v4 and v5p count cores in theirs) and their topologies.
ALIASES = {
  'v3-8': 'v3:2x2',
  'v4-8': 'v4:2x2x1',
  'v5e-8': 'v5e:2x4',
  'v5p-8': 'v5p:2x2x1',
  'v6e-8': 'v6e:2x4',
}
_NAME = re.compile(r'(v3|v4|v5e|v5p|v6e):(\d+(?:x\d+){1,2})')
_QUIET = {
  # libtpu would ask the machine which TPU it has, and say at length that it
  # has none; nor is it used, so several processes may load it at once.
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_LOG_DIR': 'disabled',
  'TPU_MIN_LOG_LEVEL': '3',
  'TPU_STDERR_LOG_LEVEL': '3',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
# libtpu's two ways to say how much too large a program is.
_USED = re.compile(
  r'(?:Used |temporaries \()([\d.]+)([KMGT]?)'
  r'(?: of [\d.]+[KMGT]? hbm|\) exceeds)'
)


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice.

  Attributes:
    name: as in `v5e:2x4`.
    chip: what each device can do.
    devices: to compile for.
    ring_bandwidth: bytes/s that a device sends in a collective over all.
  """

  name: str
  chip: chips.Chip
  devices: tuple[Any, ...]
  ring_bandwidth: float


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A train step as the TPU compiler left it.

  Attributes:
    steps: whose step it is.
    text: the program; None where it did not fit.
    hbm_bytes: what it needs on a device, or would.
    seconds: lowering and compiling.
  """

  steps: step.Steps
  text: str | None
  hbm_bytes: int
  seconds: float

  @property
  def fits(self) -> bool:
    """The compiler found room for it."""
    return self.text is not None


def topology(name: str) -> Topology:
  """The slice called `name`.

  Args:
    name: GENERATION:SHAPE in chips, or an accelerator type of `ALIASES`.

  Raises:
    errors.ConfigError: there is none of this name, or libtpu is missing.
  """
  full = ALIASES.get(name, name)
  match = _NAME.fullmatch(full)
  if not match:
    raise errors.ConfigError(
      f'--topology={name}: must be GENERATION:SHAPE in chips, such as v5e:2x4 '
      f'or v5p:8x8x4, of v3, v4, v5e, v5p, v6e, or one of {", ".join(ALIASES)}'
    )
  if importlib.util.find_spec('libtpu') is None:
    raise errors.ConfigError(
      f'--topology={name}: the TPU compiler needs {extras.missing("tpu")}'
    )
  for key, value in _QUIET.items():
    os.environ.setdefault(key, value)
  from jax.experimental import topologies

  # Without it a v4 chip is two devices of one core each, as nobody runs it.
  megacore = {'chip_config_name': 'megacore'} if match[1] == 'v4' else {}
  try:
    found = topologies.get_topology_desc(
      platform='tpu', topology_name=full, **megacore
    )
  except jax.errors.JaxRuntimeError as error:
    reason = errors.one_line(error).removeprefix('INVALID_ARGUMENT: ')
    raise errors.ConfigError(f'--topology={name}: {reason}') from error
  devices = tuple(found.devices)
  chip = chips.chip_of(devices[0].device_kind)
  links = usable_links(match[1], [int(n) for n in match[2].split('x')])
  return Topology(
    full, chip, devices, chip.link_bandwidth * links / chip.num_links
  )


def usable_links(generation: str, shape: list[int]) -> int:
  """Links of a chip that a collective over the whole slice keeps busy.

  A dimension that is closed to a ring gives both its directions: on v5e and v6e
  only the full 16, on v3 the full 32, on v4 and v5p every multiple of 4. Any
  other slice still holds one ring through all its chips.
  """
  full = {'v5e': 16, 'v6e': 16, 'v3': 32}
  closed = sum(
    n % 4 == 0 if generation in ('v4', 'v5p') else n == full[generation]
    for n in shape
  )
  return max(2, 2 * closed)


def compile_step(config: config_lib.Config, slice_: Topology) -> Compiled:
  """Compiles the train step of `config` for a slice.

  Raises:
    errors.ConfigError: the batch cannot be split over the devices.
  """
  begun = time.monotonic()
  engine = parallel.make(config.parallel, devices=slice_.devices)
  engine.check_batch(config.train)
  size = config.data.vocab_size
  steps = step.Steps(config, size, SpecialIds(), engine)
  state = jax.eval_shape(steps.init, jax.ShapeDtypeStruct((size,), jnp.float32))
  lowered = engine.lower_train(steps.train, state, steps.batch)
  text = None
  try:
    compiled = lowered.compile()
    text = compiled.as_text()
    memory = compiled.memory_analysis()
    # Not the sum of its allocations, which counts a loop's buffers twice.
    hbm_bytes = (
      memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    )
  except jax.errors.JaxRuntimeError as error:
    used = _USED.search(str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or not used:
      raise
    hbm_bytes = _bytes(used[1], used[2])
  return Compiled(steps, text, hbm_bytes, time.monotonic() - begun)


def _bytes(number: str, unit: str) -> int:
  return round(float(number) * 1024 ** ' KMGT'.index(unit or ' '))
