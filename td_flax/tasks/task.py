"""What a downstream task is to the code that fine-tunes on it.

Letters: S examples, N tokens, P outputs of an example, C classes.
"""

import abc
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from td_flax import artifacts, leaves
from td_flax.data.vocabulary import SpecialIds
from td_flax.model.task_model import Output

UNLABELED = -1  # where nothing is to be learned


class Encoded(NamedTuple):
  """Examples as a device sees them.

  Attributes:
    ids: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]; then [PAD].
    labels: int32, `UNLABELED` where there is nothing to learn; float32 of a
      regression. Where no label is known all are `UNLABELED`.
  """

  ids: Int[np.ndarray, 'S N']
  labels: Int[np.ndarray, 'S P'] | Float[np.ndarray, 'S 1']


class Task(abc.ABC):
  """One task: its examples, how outputs are scored and written.

  Attributes:
    name: its own.
    output: its head.
    labels: what the C classes are called; of a regression and of spans none.
    metric: the figure that tells which run is best; higher is better.
    train: the examples to learn from, at least one.
    dev: the labeled ones to score, by name; the first one decides.
    test: those to predict, by name; may be empty.
  """

  name: str
  output: Output
  labels: tuple[str, ...] = ()
  metric: str
  train: Encoded
  dev: dict[str, Encoded]
  test: dict[str, Encoded]

  @abc.abstractmethod
  def score(
    self, split: str, logits: Float[np.ndarray, 'S P C']
  ) -> dict[str, float]:
    """Figures of a split of `dev`, by name; `metric` is among them.

    Args:
      split: its name.
      logits: of all its examples, in order; those of [PAD] are the smallest
        number of float32 where tokens compete (SPAN).
    """

  @abc.abstractmethod
  def predictions(
    self, split: str, logits: Float[np.ndarray, 'S P C']
  ) -> dict[str, str]:
    """What is predicted for a split of `dev` or `test`: file name -> text."""

  @abc.abstractmethod
  def details(self) -> Any:
    """What scores and files depend on beside examples and labels, for JSON."""

  def fingerprint(self) -> str:
    """Equal for equal examples, names of labels and details."""
    splits = {'train': self.train, 'dev': self.dev, 'test': self.test}
    digests = leaves.digests(leaves.to_host(splits))
    return artifacts.fingerprint([digests, self.labels, self.details()])


def assemble(
  special: SpecialIds, length: int, *parts: Int[np.ndarray, ' n']
) -> Int[np.ndarray, ' N']:
  """One row: [CLS] part [SEP] part [SEP] [PAD] ...

  Args:
    special: the tokenizer's special ids.
    length: N.
    parts: ids without special ones; they fit.
  """
  row = np.full(length, special.pad, np.uint16)
  row[0], at = special.cls, 1
  for part in parts:
    row[at : at + len(part)] = part
    at += len(part) + 1
    row[at - 1] = special.sep
  return row
