"""What a step must know about the devices it is mapped over.

The engines in `parallel.py` are `Devices`; `OneDevice` is enough for a model
on its own, outside any engine.
"""

import abc
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

Kernel = Callable[..., Array]


class Devices(Protocol):
  """Handed to the step and the model when they are made, called inside.

  Attributes:
    platform: `cpu`, `gpu` or `tpu`: the one the step is compiled for.
    kind: of its devices, as `jax.Device.device_kind` has it.
    shards: in how many parts, in order of devices, the rows that a step sees
      lie: 1 where it sees those of one device only.
  """

  platform: str
  kind: str
  shards: int

  @abc.abstractmethod
  def sum(self, tree: Any) -> Any:
    """Adds a pytree of the parameters' structure or of sums over devices."""

  @abc.abstractmethod
  def first_row(self, rows: int) -> Int[Array, '']:
    """The row of the global batch at which this step's `rows` begin."""

  @abc.abstractmethod
  def by_rows(self, x: Array) -> Array:
    """Keeps an activation [B, ...] on the devices that hold its rows."""

  @abc.abstractmethod
  def all_rows(self, x: Array) -> Array:
    """The rows of all devices from those [B, ...] of this one."""

  @abc.abstractmethod
  def wrap_kernel(self, kernel: Kernel) -> Kernel:
    """A function of arrays [B, ...] that XLA cannot partition by itself."""


class OneDevice:
  """Everything is here.

  Args:
    platform: the one that is compiled for; None is the default backend.
    kind: of the device.
  """

  shards = 1

  def __init__(self, platform: str | None = None, kind: str = ''):
    self._platform = platform
    self.kind = kind

  @property
  def platform(self) -> str:
    """The one given, or the default backend's."""
    return self._platform or jax.default_backend()

  def sum(self, tree: Any) -> Any:
    """There is nothing to add up."""
    return tree

  def first_row(self, rows: int) -> Int[Array, '']:
    """The first."""
    del rows
    return jnp.int32(0)

  def by_rows(self, x: Array) -> Array:
    """It is there already."""
    return x

  def all_rows(self, x: Array) -> Array:
    """They are all here."""
    return x

  def wrap_kernel(self, kernel: Kernel) -> Kernel:
    """The kernel itself."""
    return kernel
