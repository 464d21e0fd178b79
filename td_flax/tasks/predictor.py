"""The outputs of a task's model for any number of examples."""

import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from td_flax import parallel
from td_flax.model.task_model import SPAN, TOKENS
from td_flax.tasks import lengths
from td_flax.tasks.learner import TaskLearner, compare
from td_flax.tasks.task import Encoded


class Predictor:
  """Maps examples over devices, a batch at once.

  Args:
    learner: the task's.
    engine: its devices.
  """

  def __init__(self, learner: TaskLearner, engine: parallel.Engine):
    config = learner.config
    wanted = config.eval_batch_size
    self._size = -(-wanted // engine.num_devices) * engine.num_devices
    self._learner = learner
    self._engine = engine
    self._step = engine.map_eval(learner.predict)

  def __call__(
    self, params: Any, examples: Encoded
  ) -> Float[np.ndarray, 'S P C']:
    """The outputs of every example.

    Args:
      params: of the model, on the devices.
      examples: any number of them; labels are not looked at.
    """
    ids, size = examples.ids, self._size
    pad = self._learner.special.pad
    needed = lengths.needed(ids, pad)
    order = np.argsort(-needed, kind='stable')  # rows of a length together
    fitting = lengths.fitting(
      needed[order[::size]], lengths.choices(self._learner.config)
    )
    padding = np.full((-len(ids) % size, ids.shape[1]), pad, ids.dtype)
    rows = np.concatenate([ids[order], padding])
    start, stop = self._engine.local_rows(size)
    first = self._engine.replicate(np.int32(0))
    outputs = []
    for at, length in zip(range(0, len(rows), size), fitting, strict=True):
      batch = self._engine.split(rows[at + start : at + stop, :length])
      outputs.append(self._step(params, batch, first))
      if len(outputs) > 1:  # one batch in flight: outputs of spans are large
        outputs[-2] = self._whole(outputs[-2])
    outputs[-1] = self._whole(outputs[-1])
    return np.concatenate(outputs)[np.argsort(order)]

  def _whole(self, outputs: Any) -> Float[np.ndarray, 'B P C']:
    """A batch on the host, as if nothing had been cut off its rows."""
    outputs, reads = self._engine.fetch(outputs), self._learner.output.reads
    full = self._learner.config.data.sequence_length
    if reads == TOKENS:
      return np.pad(outputs, ((0, 0), (0, full - outputs.shape[1]), (0, 0)))
    if reads == SPAN:
      lacking = (0, 0), (0, 0), (0, full - outputs.shape[2])
      least = np.finfo(np.float32).min
      return np.pad(outputs, lacking, constant_values=least)
    return outputs

  def loss(
    self, examples: Encoded, outputs: Float[np.ndarray, 'S P C']
  ) -> float:
    """The mean loss per label, NaN where nothing is labeled."""
    losses, _, weights = jax.device_get(
      compare(self._learner.output, outputs, examples.labels)
    )
    total, weight = np.sum(losses * weights, dtype=np.float64), np.sum(weights)
    return float(total / weight) if weight else math.nan
