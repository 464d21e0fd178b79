"""How steps are mapped over devices and processes; the only file that knows.

An engine is the `Devices` of a step, compiles it, and moves arrays. A process
holds the rows of its own devices only; row i of the global batch lies on the
same device whatever the number of processes, because devices are ordered by
process.

`pmap` (data parallelism): `jax.pmap` with `None` axes. The state is one
ordinary replicated array per leaf, without a leading device axis; the batch has
one. `sharded` (the same, fully sharded): `jax.jit` on global arrays, where
every leaf of the state is split over the devices and XLA gathers what a layer
needs when it needs it.
"""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from td_flax import errors
from td_flax.config import ParallelConfig, TrainConfig
from td_flax.devices import Devices, Kernel

_AXIS = 'data'
# By platform. XLA tries Triton for matmuls on a GPU, and then adds biases in
# a pass of their own, where cuBLAS adds them on the way.
_COMPILER_OPTIONS = {'gpu': {'xla_gpu_enable_triton_gemm': False}}


def make(
  config: ParallelConfig, devices: Sequence[jax.Device] | None = None
) -> 'Engine':
  """The engine that `parallel.engine` names.

  Args:
    config: the `parallel` section.
    devices: to compile for, which need not be attached; None takes the first
      `parallel.num_devices` of every process.

  Raises:
    errors.ConfigError: a process has fewer devices, or another number of them.
  """
  if devices is None:
    devices = _attached(config.num_devices)
  engines = {'pmap': PmapEngine, 'sharded': ShardedEngine}
  return engines[config.engine](devices)


def digests(digest: str) -> list[str]:
  """What the processes have, in their order; all of them call it.

  Args:
    digest: of this one, a sha256 in hexadecimal.
  """
  gathered = multihost_utils.process_allgather(
    np.frombuffer(bytes.fromhex(digest), np.uint8)
  )
  return [x.tobytes().hex() for x in gathered]


def _attached(num_devices: int) -> list[jax.Device]:
  """The first devices of every process; 0 is all."""
  by_process: dict[int, list[jax.Device]] = {}
  try:
    devices = jax.devices()
  except (RuntimeError, AssertionError) as error:  # jax asserts that one starts
    platforms = jax.config.jax_platforms
    raise errors.ConfigError(
      f'JAX_PLATFORMS={platforms or ""}: jax cannot start it'
      + (f' ({errors.one_line(error)})' if str(error) else '')
    ) from error
  for device in sorted(devices, key=lambda d: (d.process_index, d.id)):
    by_process.setdefault(device.process_index, []).append(device)
  counts = {process: len(found) for process, found in by_process.items()}
  fewest, most = min(counts, key=counts.get), max(counts, key=counts.get)
  if num_devices > counts[fewest]:
    raise errors.ConfigError(
      f'parallel.num_devices={num_devices}: must be at most {counts[fewest]}, '
      f'the devices of process {fewest}'
    )
  if not num_devices and counts[fewest] < counts[most]:
    raise errors.ConfigError(
      f'parallel.num_devices=0: process {fewest} has {counts[fewest]} devices, '
      f'process {most} has {counts[most]}; must be the same number everywhere, '
      f'at most {counts[fewest]}'
    )
  taken = num_devices or counts[fewest]
  return [device for all_ in by_process.values() for device in all_[:taken]]


class Engine(Devices, abc.ABC):
  """Maps steps over devices and moves arrays; what both engines share.

  Args:
    devices: in the order of the rows they hold.

  Attributes:
    devices: the same.
    num_devices: how many, over all processes.
    platform: theirs.
    kind: theirs.
  """

  def __init__(self, devices: Sequence[jax.Device]):
    self.devices = list(devices)
    self.num_devices = len(self.devices)
    self.platform = self.devices[0].platform
    self.kind = self.devices[0].device_kind
    self._mesh = jax.sharding.Mesh(np.array(self.devices), (_AXIS,))
    self._replicated = NamedSharding(self._mesh, PartitionSpec())
    self._rows = NamedSharding(self._mesh, PartitionSpec(_AXIS))
    # Several steps in flight deadlock gloo, the CPU's collectives.
    self._in_step = jax.process_count() > 1 and self.platform == 'cpu'

  def check_batch(self, config: TrainConfig) -> None:
    """Refuses a batch that cannot be split.

    Args:
      config: the `train` section.

    Raises:
      errors.ConfigError: names the key.
    """
    devices, parts = self.num_devices, config.microbatches
    if config.batch_size % (devices * parts):
      raise errors.ConfigError(
        f'train.batch_size={config.batch_size}: must be divisible by {devices} '
        f'devices x train.microbatches={parts}'
      )

  def local_rows(self, batch_size: int) -> tuple[int, int]:
    """The rows [start, stop) of a global batch that this process reads."""
    per_process = batch_size // jax.process_count()
    start = jax.process_index() * per_process
    return start, start + per_process

  @abc.abstractmethod
  def lower_train(
    self, step: Callable[..., Any], state: Any, batch: Any
  ) -> jax.stages.Lowered:
    """`step(state, rows)`, mapped over the devices, for the compiler.

    Args:
      step: returns the new state and scalars.
      state: as it will be passed, or its shapes and dtypes.
      batch: shapes [B, ...] and dtypes of the global batch.
    """

  def compile_train(
    self, step: Callable[..., Any], state: Any, batch: Any
  ) -> Callable[..., Any]:
    """Compiles what `lower_train` lowers; arguments as there.

    Returns:
      `(state, rows from split) -> (state, scalars)`; each call consumes the
      state it is given.
    """
    lowered = self.lower_train(step, state, batch)
    options = _COMPILER_OPTIONS.get(self.platform)
    return self._paced(lowered.compile(compiler_options=options))

  def _paced(self, mapped: Callable[..., Any]) -> Callable[..., Any]:
    if not self._in_step:
      return mapped
    return lambda *args: jax.block_until_ready(mapped(*args))

  @abc.abstractmethod
  def map_eval(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """Maps `step(params, rows, first)`; what it returns is replicated."""

  @abc.abstractmethod
  def place(self, state: Any) -> Any:
    """A train state from the host -> where steps want it."""

  @abc.abstractmethod
  def split(self, rows: Any) -> Any:
    """This process' rows [B, ...] of a global batch -> on its devices."""

  @abc.abstractmethod
  def fetch(self, tree: Any) -> Any:
    """Arrays from `place`, `replicate` or a step -> host values; waits."""

  def replicate(self, tree: Any) -> Any:
    """Host values, the same in every process -> arrays on every device."""
    return jax.tree.map(lambda x: _put(x, self._replicated), tree)


class PmapEngine(Engine):
  """Data parallelism: rows split over devices, everything else replicated."""

  shards = 1

  def sum(self, tree: Any) -> Any:
    """Each device has its own summands."""
    return jax.lax.psum(tree, _AXIS)

  def first_row(self, rows: int) -> Int[Array, '']:
    """Those of the devices before come first."""
    return jax.lax.axis_index(_AXIS) * rows

  def by_rows(self, x: Array) -> Array:
    """A device sees nothing but its rows."""
    return x

  def all_rows(self, x: Array) -> Array:
    """Gathers them, in the order of devices."""
    return jax.lax.all_gather(x, _AXIS, tiled=True)

  def wrap_kernel(self, kernel: Kernel) -> Kernel:
    """The kernel itself: it runs on one device."""
    return kernel

  def lower_train(
    self, step: Callable[..., Any], state: Any, batch: Any
  ) -> jax.stages.Lowered:
    """A device takes its rows."""
    mapped = jax.pmap(
      step,
      axis_name=_AXIS,
      in_axes=(None, 0),
      out_axes=None,
      donate_argnums=0,
      devices=self.devices,
    )

    def local(x: jax.ShapeDtypeStruct) -> Any:
      rows, *others = x.shape
      if jax.process_count() == 1:
        shape = self.num_devices, rows // self.num_devices, *others
        return jax.ShapeDtypeStruct(shape, x.dtype)
      # Here pmap takes abstract arrays for host-local ones.
      start, stop = self.local_rows(rows)
      return self.split(np.zeros((stop - start, *others), x.dtype))

    return mapped.lower(state, jax.tree.map(local, batch))

  def map_eval(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """A device takes its rows."""
    mapped = jax.pmap(
      step,
      axis_name=_AXIS,
      in_axes=(None, 0, None),
      out_axes=None,
      devices=self.devices,
    )
    return self._paced(mapped)

  def place(self, state: Any) -> Any:
    """On every device."""
    return self.replicate(state)

  def split(self, rows: Any) -> Any:
    """A dimension of local devices in front of their rows."""
    local = self.num_devices // jax.process_count()

    def place(x: np.ndarray) -> Array:
      x = x.reshape(local, -1, *x.shape[1:])
      return jax.make_array_from_process_local_data(self._rows, x)

    return jax.tree.map(place, rows)

  def fetch(self, tree: Any) -> Any:
    """Any device has them whole."""
    return jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree))


class ShardedEngine(Engine):
  """Rows, parameters and optimizer state split over devices."""

  def __init__(self, devices: Sequence[jax.Device]):
    super().__init__(devices)
    self.shards = self.num_devices
    # One function for all checkpoints: a new one would be compiled anew.
    self._whole = jax.jit(lambda x: x, out_shardings=self._replicated)

  def sum(self, tree: Any) -> Any:
    """Sums over global arrays are whole; they are kept where the state is."""
    return jax.tree.map(
      lambda x: jax.lax.with_sharding_constraint(x, self._sharding(x)), tree
    )

  def first_row(self, rows: int) -> Int[Array, '']:
    """A step sees the whole batch."""
    del rows
    return jnp.int32(0)

  def by_rows(self, x: Array) -> Array:
    """Keeps an activation [B, ...] with its rows, whatever the weights do."""
    return jax.lax.with_sharding_constraint(x, self._rows)

  def all_rows(self, x: Array) -> Array:
    """A step sees all rows."""
    return x

  def wrap_kernel(self, kernel: Kernel) -> Kernel:
    """The kernel on each device's rows."""
    return jax.shard_map(
      kernel,
      mesh=self._mesh,
      in_specs=PartitionSpec(_AXIS),
      out_specs=PartitionSpec(_AXIS),
      check_vma=False,  # a Pallas kernel does not say over what it varies
    )

  def _sharding(self, leaf: Any) -> NamedSharding:
    """Splits the largest dimension that the devices divide; vectors stay."""
    shape = np.shape(leaf)
    divided = [i for i, n in enumerate(shape) if n % self.num_devices == 0]
    if len(shape) < 2 or not divided:
      return self._replicated
    axis = max(divided, key=lambda i: shape[i])
    return NamedSharding(self._mesh, PartitionSpec(*[None] * axis, _AXIS))

  def lower_train(
    self, step: Callable[..., Any], state: Any, batch: Any
  ) -> jax.stages.Lowered:
    """The step takes global arrays."""
    shardings = jax.tree.map(self._sharding, state)
    mapped = jax.jit(
      step,
      in_shardings=(shardings, self._rows),
      out_shardings=(shardings, self._replicated),
      donate_argnums=0,
    )
    return mapped.lower(state, batch)

  def map_eval(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled for where its arguments are."""
    return self._paced(jax.jit(step, out_shardings=self._replicated))

  def place(self, state: Any) -> Any:
    """Split over the devices."""
    return jax.tree.map(lambda x: _put(x, self._sharding(x)), state)

  def split(self, rows: Any) -> Any:
    """Rows of one global array."""
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(self._rows, x), rows
    )

  def fetch(self, tree: Any) -> Any:
    """Leaf by leaf made whole."""

    def whole(x: Array) -> np.ndarray:
      if not (x.is_fully_addressable or x.is_fully_replicated):
        # One leaf at a time: the state as a whole may fit no device.
        x = self._whole(x)
      return np.asarray(x)

    return jax.tree.map(whole, tree)


def _put(leaf: Any, sharding: NamedSharding) -> Array:
  leaf = np.asarray(leaf)
  return jax.make_array_from_callback(
    leaf.shape, sharding, lambda index: leaf[index]
  )
