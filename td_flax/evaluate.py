"""Held-out masked-LM loss: full sequences, fixed 15% mask, always.

Nothing of the training configuration but the model enters: losses compare
across policies, mask rates, batch sizes and numbers of devices.
"""

from typing import Any

import numpy as np
from flax import nnx

from td_flax import parallel, step
from td_flax.config import Config
from td_flax.data.dataset import Rows


def held_out(rows: Rows, num_rows: int) -> np.ndarray:
  """The rows that are evaluated, evenly spaced: u16[R, N], R <= `num_rows`."""
  count = min(num_rows, len(rows))
  return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


class Evaluator:
  """Evaluates parameters on the same rows under the same masks every time."""

  def __init__(
    self,
    config: Config,
    steps: step.Steps,
    engine: parallel.Engine,
    rows: Rows,
    own: step.Steps | None = None,
  ):
    """Reads the rows, `held_out`.

    Args:
      config: the experiment.
      steps: the step whose model it is.
      engine: that maps over devices.
      rows: held-out ones.
      own: a step that trains another geometry than plain BERT's, if one does.
    """
    chosen = held_out(rows, config.eval.num_rows)
    count = len(chosen)
    wanted = config.eval_batch_size
    size = -(-wanted // engine.num_devices) * engine.num_devices
    size = min(size, -(-count // engine.num_devices) * engine.num_devices)
    padding = np.full(
      (-count % size, chosen.shape[1]), steps.special.pad, chosen.dtype
    )
    # Rows of [PAD] predict nothing: the last batch has the others' shape.
    batches = np.concatenate([chosen, padding]).reshape(
      -1, size, len(chosen[0])
    )
    start, stop = engine.local_rows(size)
    self._batches = [
      (engine.split(batch[start:stop]), engine.replicate(np.int32(i * size)))
      for i, batch in enumerate(batches)
    ]
    self._engine = engine
    self._steps = {'eval/loss': engine.map_eval(steps.evaluate)}
    if own:
      self._steps['eval/own_loss'] = engine.map_eval(own.evaluate_own)

  def __call__(self, params: nnx.State) -> dict[str, float]:
    """`eval/loss` in nats per predicted token and `eval/accuracy`.

    Where another geometry is trained, also `eval/own_loss`: the loss at the
    same positions computed as in training.
    """
    figures = {}
    for name, step_ in self._steps.items():
      sums: list[Any] = [step_(params, *batch) for batch in self._batches]
      loss, weight, correct = np.sum(
        np.asarray(self._engine.fetch(sums), np.float64), axis=0
      )
      figures[name] = float(loss / weight)
      figures.setdefault('eval/accuracy', float(correct / weight))
    return figures
