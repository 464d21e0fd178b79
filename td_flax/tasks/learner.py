"""What fine-tuning learns: the outputs of a task, on full sequences.

The same update, engines and loop as pretraining; nothing is dropped.
Letters: B rows of one device, N tokens, P outputs of a row, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from td_flax import masking
from td_flax.config import Config
from td_flax.data.vocabulary import SpecialIds
from td_flax.devices import Devices
from td_flax.learner import Learner, Sums, TrainState
from td_flax.model import dropout, flops, loss
from td_flax.model.task_model import FIRST, SPAN, Output, TaskModel, plan
from td_flax.tasks.task import Encoded


class TaskLearner(Learner):
  """The functions of one fine-tuning; what they close over is static.

  Args:
    config: the experiment.
    output: the head of the task.
    vocab_size: ids there are.
    special: the tokenizer's special ids.
    devices: what the functions are mapped over.
  """

  def __init__(
    self,
    config: Config,
    output: Output,
    vocab_size: int,
    special: SpecialIds,
    devices: Devices,
  ):
    self.output = output
    self.vocab_size = vocab_size
    self.special = special
    super().__init__(config, devices)

  @property
  def batch(self) -> Encoded:
    """Shapes and dtypes of a global batch."""
    b, n = self.config.train.batch_size, self.config.data.sequence_length
    p = {FIRST: 1, SPAN: 2}.get(self.output.reads, n)
    kind = jnp.float32 if self.output.is_regression else jnp.int32
    return Encoded(
      jax.ShapeDtypeStruct((b, n), jnp.uint16),
      jax.ShapeDtypeStruct((b, p), kind),
    )

  @property
  def row_flops(self) -> int:
    """Matmul FLOPs of a training step on one row, without the head."""
    return flops.train_flops(
      self.config.model,
      plan(self.config.model, self.output),
      sequence_length=self.config.data.sequence_length,
      num_predicted=0,
      vocab_size=0,
    )

  def _model(self) -> TaskModel:
    return TaskModel(
      self.config.model,
      self.output,
      self.vocab_size,
      self.special,
      nnx.Rngs(self.config.train.seed),
      self.devices,
    )

  def _loss(
    self,
    params: nnx.State,
    state: TrainState,
    batch: Encoded,
    rows: Int[Array, ' B'],
  ) -> tuple[Float[Array, ''], tuple[Sums, Any]]:
    model, seeds = self.config.model, None
    if model.dropout or model.attention_dropout:
      seed = jax.random.wrap_key_data(state.key)
      seeds = dropout.seeds(masking.row_keys(seed, state.step, rows))
    outputs = nnx.merge(self.graph, params)(batch.ids.astype(jnp.int32), seeds)
    losses, correct, weights = compare(self.output, outputs, batch.labels)
    sums = Sums(
      jnp.sum(losses * weights), jnp.sum(weights), jnp.sum(correct * weights)
    )
    return sums.loss, (sums, ())

  def predict(
    self, params: nnx.State, ids: Int[Array, 'B N'], first: Int[Array, '']
  ) -> Float[Array, 'A P C']:
    """The outputs for the rows of all devices, without dropout.

    Args:
      params: of the model.
      ids: this device's rows.
      first: not used: nothing is drawn.
    """
    del first
    outputs = nnx.merge(self.graph, params)(ids.astype(jnp.int32))
    return self.devices.all_rows(outputs)


def compare(
  output: Output,
  outputs: Float[Array, 'B P C'],
  labels: Int[Array, 'B P'] | Float[Array, 'B 1'],
) -> tuple[Float[Array, 'B P'], Array, Float[Array, 'B P']]:
  """Loss, correctness and weight of every output of a row.

  Args:
    output: the head.
    outputs: float32.
    labels: as in `Encoded`.

  Returns:
    The cross entropy in nats, or of a regression the squared error; whether
    the label has the largest output, NaN for a regression; 0 where there is no
    label, else 1.
  """
  if output.is_regression:
    error = outputs[..., 0] - labels
    return error**2, jnp.full_like(error, jnp.nan), jnp.ones_like(error)
  weights = (labels >= 0).astype(jnp.float32)
  losses, correct = loss.cross_entropy(outputs, jnp.maximum(labels, 0))
  return losses, correct, weights
