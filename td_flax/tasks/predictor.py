"""The outputs of a task's model for any number of examples."""

import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from td_flax import parallel
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
    wanted = config.eval.batch_size or config.train.batch_size
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
    padding = np.full((-len(ids) % size, ids.shape[1]), pad, ids.dtype)
    rows = np.concatenate([ids, padding])
    start, stop = self._engine.local_rows(size)
    first = self._engine.replicate(np.int32(0))
    outputs = []
    for at in range(0, len(rows), size):
      batch = self._engine.split(rows[at + start : at + stop])
      outputs.append(self._step(params, batch, first))
      if len(outputs) > 1:  # one batch in flight: outputs of spans are large
        outputs[-2] = self._engine.fetch(outputs[-2])
    outputs[-1] = self._engine.fetch(outputs[-1])
    return np.concatenate(outputs)[: len(ids)]

  def loss(
    self, examples: Encoded, outputs: Float[np.ndarray, 'S P C']
  ) -> float:
    """The mean loss per label, NaN where nothing is labeled."""
    losses, _, weights = jax.device_get(
      compare(self._learner.output, outputs, examples.labels)
    )
    total, weight = np.sum(losses * weights, dtype=np.float64), np.sum(weights)
    return float(total / weight) if weight else math.nan
