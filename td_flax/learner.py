"""One update, whatever is learned: pure functions per device, no I/O.

A step computes gradients of a summed loss, part by part; the devices add them
up, then everything is divided once. What the loss is of is a subclass's: masked
language modelling in `step`, a task in `tasks.learner`.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32

from td_flax import optimizer
from td_flax.config import Config
from td_flax.devices import Devices


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that a step reads and writes.

  Attributes:
    step: steps taken, skipped updates included.
    key: data of the key that every step draws from: the run's seed. Here, and
      not in the program, which other seeds then need not compile again.
    params: float32.
    opt_state: optax's.
    importance: the policy's table, one entry per token id; unused by a task.
    skipped: updates skipped so far because loss or gradient was not finite.
    skipped_run: how many of the latest steps in a row were skipped.
  """

  step: Int[Array, '']
  key: UInt32[Array, '2']
  params: nnx.State
  opt_state: optax.OptState
  importance: Float[Array, ' V']
  skipped: Int[Array, '']
  skipped_run: Int[Array, '']


class Sums(NamedTuple):
  """What rows contribute; added up over microbatches and devices."""

  loss: Float[Array, '']
  weight: Float[Array, '']
  correct: Float[Array, '']


class Learner(abc.ABC):
  """The functions of one experiment; what they close over is static.

  Args:
    config: the experiment.
    devices: what the functions are mapped over.
  """

  def __init__(self, config: Config, devices: Devices):
    self.config = config
    self.devices = devices
    self.tx, self.schedule = optimizer.make(
      config.optimizer, config.train.num_steps
    )
    self.graph, _ = nnx.split(nnx.eval_shape(self._model))

  @property
  @abc.abstractmethod
  def batch(self) -> Any:
    """Shapes [B, ...] and dtypes of a global batch."""

  @property
  @abc.abstractmethod
  def row_flops(self) -> int:
    """Matmul FLOPs of a training step on one row."""

  @abc.abstractmethod
  def _model(self) -> nnx.Module:
    """A fresh model."""

  @abc.abstractmethod
  def _loss(
    self,
    params: nnx.State,
    state: TrainState,
    batch: Any,
    rows: Int[Array, ' B'],
  ) -> tuple[Float[Array, ''], tuple[Sums, Any]]:
    """Summed loss of some rows, and what else is summed.

    Args:
      params: of the model, instead of the state's.
      state: before the step.
      batch: some rows of what `train` was given.
      rows: their numbers in the global batch.

    Returns:
      The loss, `Sums`, and what `_learned_table` needs.
    """

  def _learned_table(
    self, table: Float[Array, ' V'], observed: Any
  ) -> Float[Array, ' V']:
    """The table after an update."""
    del observed
    return table

  def init(self, table: Float[np.ndarray, ' V']) -> TrainState:
    """The state before the first step, with this table.

    Not to be compiled as a whole: all random numbers of a BERT-base in one
    program take XLA three minutes on a GPU. By themselves, each shape is
    compiled once.
    """
    params = nnx.split(self._model())[1]
    zero = jnp.zeros((), jnp.int32)
    # On the host: moments beside the parameters would take three times the
    # memory of one device, of a model that is to be split over many.
    moments = jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(self.tx.init, params)
    )
    return TrainState(
      step=zero,
      key=jax.random.key_data(jax.random.key(self.config.train.seed)),
      params=params,
      opt_state=moments,
      importance=jnp.asarray(table),
      skipped=zero,
      skipped_run=zero,
    )

  def train(
    self, state: TrainState, batch: Any
  ) -> tuple[TrainState, dict[str, Array]]:
    """One update from this device's rows of the global batch.

    Args:
      state: the same on every device; so is the result.
      batch: arrays [B, ...], a row each.

    Returns:
      The new state and scalars: `loss_sum`, `weight`, `correct_sum`,
      `grad_norm`, `learning_rate`, `skipped`, `skipped_run`.
    """
    parts = self.config.train.microbatches
    count = len(jax.tree.leaves(batch)[0])
    rows = self.devices.first_row(count) + jnp.arange(count)
    batch, rows = jax.tree.map(self._split, (batch, rows))

    def gradient(part: tuple[Any, Array]) -> Any:
      return jax.grad(self._loss, has_aux=True)(state.params, state, *part)

    first = jax.tree.map(lambda x: x[0], (batch, rows))
    if parts == 1:
      summed = gradient(first)
    else:
      zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, first),
      )
      summed, _ = jax.lax.scan(
        lambda total, part: (
          jax.tree.map(jnp.add, total, gradient(part)),
          None,
        ),
        zeros,
        (batch, rows),
      )
    grads, (sums, observed) = self.devices.sum(summed)
    return self._update(state, grads, sums, observed)

  def _split(self, x: Int[Array, 'B ...']) -> Int[Array, 'M B/M ...']:
    """Cuts rows into microbatches, each with rows of every device."""
    shards, parts = self.devices.shards, self.config.train.microbatches
    chex.assert_is_divisible(x.shape[0], shards * parts)
    x = x.reshape(shards, parts, -1, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(parts, -1, *x.shape[3:])

  def _update(
    self, state: TrainState, grads: nnx.State, sums: Sums, observed: Any
  ) -> tuple[TrainState, dict[str, Array]]:
    """Applies global sums; leaves the state alone where they are not finite."""
    grads = jax.tree.map(lambda g: g / jnp.maximum(sums.weight, 1), grads)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(grad_norm)
    rate = self.schedule(state.step)
    updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    # A rate can be so large that a finite gradient overflows the parameters.
    finite &= jnp.isfinite(optax.tree.norm(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(params, state.params)
    with jax.named_scope('table'):
      table = self._learned_table(state.importance, observed)
    learned = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, opt_state, table),
      (state.params, state.opt_state, state.importance),
    )
    skip = jnp.where(finite, 0, 1)
    params, opt_state, table = learned
    state = TrainState(
      step=state.step + 1,
      key=state.key,
      params=params,
      opt_state=opt_state,
      importance=table,
      skipped=state.skipped + skip,
      skipped_run=(state.skipped_run + skip) * skip,
    )
    metrics = {
      'loss_sum': sums.loss,
      'weight': sums.weight,
      'correct_sum': sums.correct,
      'grad_norm': grad_norm,
      'learning_rate': rate,
      'skipped': state.skipped,
      'skipped_run': state.skipped_run,
    }
    return state, metrics
