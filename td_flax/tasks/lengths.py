"""A few lengths for rows: a batch is no longer than its longest row needs.

Nobody sees the [PAD] that is cut off, and which rows a batch holds stays as it
is, so training learns the same but for rounding; only dropout of attention
weights, a draw for every pair of tokens, draws other ones.
"""

import numpy as np
from jaxtyping import Int

from td_flax.config import Config
from td_flax.data.pipeline import Pipeline
from td_flax.model.task_model import TOKENS
from td_flax.tasks.task import Encoded, Task

_EIGHTHS = 1, 2, 3, 4, 6, 8  # of the full length
_MULTIPLE = 16  # what is odd computes no faster
_STEPS_AT_ONCE = 1000


def choices(config: Config) -> tuple[int, ...]:
  """The lengths that there are programs for; the last one is the full one."""
  full = config.data.sequence_length
  if config.model.attention not in ('auto', 'plain'):
    return (full,)  # a kernel that was asked for may take no other
  parts = [full * x // 8 for x in _EIGHTHS if full * x % (8 * _MULTIPLE) == 0]
  return tuple(dict.fromkeys([*parts, full]))


def needed(ids: Int[np.ndarray, 'S N'], pad: int) -> Int[np.ndarray, ' S']:
  """How many ids of each row come before its padding."""
  return ids.shape[1] - np.argmax(ids[:, ::-1] != pad, axis=1)


def fitting(
  lengths: Int[np.ndarray, ' S'], choices: tuple[int, ...]
) -> Int[np.ndarray, ' S']:
  """The shortest of the choices for each length."""
  return np.array(choices)[np.searchsorted(choices, lengths)]


class Batches(Pipeline):
  """The training examples of a task, in batches of a few lengths.

  Args:
    task: the task.
    config: of the run.
    pad: the id of [PAD].

  Attributes:
    lengths: of every step of the run.
  """

  def __init__(self, task: Task, config: Config, pad: int):
    size, num_steps = config.train.batch_size, config.train.num_steps
    super().__init__(_Rows(task.train), seed=config.train.seed, batch_size=size)
    self._labels_tokens = task.output.reads == TOKENS
    lengths = needed(task.train.ids, pad)
    longest = []
    for first in range(0, num_steps, _STEPS_AT_ONCE):
      count = min(_STEPS_AT_ONCE, num_steps - first)
      rows = self.indices(first, 0, count * size).reshape(count, size)
      longest.append(lengths[rows].max(axis=1))
    self.lengths = fitting(np.concatenate(longest), choices(config))

  def batch(
    self, step: int, start: int = 0, stop: int | None = None
  ) -> Encoded:
    """The rows of a step; arguments as in `Pipeline`."""
    ids, labels = super().batch(step, start, stop)
    length = self.lengths[step]
    if self._labels_tokens:
      labels = labels[:, :length]
    return Encoded(ids[:, :length], labels)


class _Rows:
  """Training examples, as a pipeline reads them."""

  weights = (None,)

  def __init__(self, examples: Encoded):
    self._examples = examples
    self.ranges = (range(len(self)),)

  def __len__(self) -> int:
    return len(self._examples.ids)

  def __getitem__(self, indices: Int[np.ndarray, ' B']) -> Encoded:
    return Encoded(*(array[indices] for array in self._examples))
