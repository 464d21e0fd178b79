"""How steps are mapped over devices and processes; the only file that knows.

`jax.pmap` with `None` axes: the state is one ordinary replicated array per
leaf (no leading device axis), the batch has one. A process holds the rows of
its own devices only; row i of the global batch lies on the same device
whatever the number of processes, because devices are ordered by process.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from td_flax import errors

_AXIS = 'data'


class PmapEngine:
  """Data parallelism: rows split over devices, everything else replicated."""

  def __init__(self, num_devices: int = 0):
    """Picks the devices.

    Args:
      num_devices: devices per process; 0 takes all.

    Raises:
      errors.ConfigError: a process has fewer devices.
    """
    local = jax.local_devices()
    if num_devices > len(local):
      raise errors.ConfigError(
        f'parallel.num_devices={num_devices}: must be at most {len(local)}, '
        f'the devices of process {jax.process_index()}'
      )
    by_process: dict[int, list[jax.Device]] = {}
    for device in sorted(jax.devices(), key=lambda d: (d.process_index, d.id)):
      by_process.setdefault(device.process_index, []).append(device)
    taken = num_devices or len(local)
    self.devices = [d for ds in by_process.values() for d in ds[:taken]]
    self.num_devices = len(self.devices)
    mesh = jax.sharding.Mesh(np.array(self.devices), (_AXIS,))
    self._replicated = NamedSharding(mesh, PartitionSpec())
    self._split = NamedSharding(mesh, PartitionSpec(_AXIS))
    # Several steps in flight deadlock gloo, the CPU's collectives.
    self._in_step = jax.process_count() > 1 and local[0].platform == 'cpu'

  def local_rows(self, batch_size: int) -> tuple[int, int]:
    """The rows [start, stop) of a global batch that this process reads."""
    per_process = batch_size // jax.process_count()
    start = jax.process_index() * per_process
    return start, start + per_process

  def sum(self, tree: Any) -> Any:
    """Adds a pytree up over all devices; for use inside a step."""
    return jax.lax.psum(tree, _AXIS)

  def first_row(self, rows: int) -> Int[Array, '']:
    """Where this device's rows begin; for use inside a step."""
    return jax.lax.axis_index(_AXIS) * rows

  def lower_train(
    self, step: Callable[..., Any], state: Any, shape: tuple[int, int]
  ) -> jax.stages.Lowered:
    """`step(engine, state, rows)`, mapped over the devices, for the compiler.

    Args:
      step: per device; returns the new state and scalars.
      state: as it will be passed, or its shapes and dtypes.
      shape: rows of the global batch, and N.
    """
    mapped = jax.pmap(
      lambda state, rows: step(self, state, rows),
      axis_name=_AXIS,
      in_axes=(None, 0),
      out_axes=None,
      donate_argnums=0,
      devices=self.devices,
    )
    start, stop = self.local_rows(shape[0])
    # Several processes: pmap takes abstract arrays for host-local ones.
    batch = self.split(np.zeros((stop - start, shape[1]), np.uint16))
    return mapped.lower(state, batch)

  def compile_train(
    self, step: Callable[..., Any], state: Any, shape: tuple[int, int]
  ) -> Callable[..., Any]:
    """Compiles what `lower_train` lowers; arguments as there.

    Returns:
      `(state, rows from split) -> (state, scalars)`; each call consumes the
      state it is given.
    """
    return self._paced(self.lower_train(step, state, shape).compile())

  def map_eval(self, step: Callable[..., Any]) -> Callable[..., Any]:
    """Maps `step(engine, params, rows, first)`."""
    mapped = jax.pmap(
      lambda params, rows, first: step(self, params, rows, first),
      axis_name=_AXIS,
      in_axes=(None, 0, None),
      out_axes=None,
      devices=self.devices,
    )
    return self._paced(mapped)

  def _paced(self, mapped: Callable[..., Any]) -> Callable[..., Any]:
    if not self._in_step:
      return mapped
    return lambda *args: jax.block_until_ready(mapped(*args))

  def replicate(self, tree: Any) -> Any:
    """Host values, the same in every process -> arrays on every device."""
    return jax.tree.map(self._put_replicated, tree)

  def _put_replicated(self, leaf: Any) -> Array:
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(
      leaf.shape, self._replicated, lambda index: leaf[index]
    )

  def split(self, rows: Int[np.ndarray, 'B N']) -> Array:
    """This process' rows of a global batch -> on its devices, in order."""
    local = self.num_devices // jax.process_count()
    rows = rows.reshape(local, -1, *rows.shape[1:])
    return jax.make_array_from_process_local_data(self._split, rows)

  def fetch(self, tree: Any) -> Any:
    """Replicated arrays -> host values; waits for the device."""
    return jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree))
