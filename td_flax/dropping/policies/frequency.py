"""The static variant of Hou et al. 2022: frequent tokens are dropped first."""

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from td_flax.dropping.policies import base


class Policy(base.Policy):
  """Importance is minus the log of the id's count in the training rows."""

  has_table = True

  def initial_table(
    self, unigram_counts: Int[np.ndarray, ' V']
  ) -> Float[np.ndarray, ' V']:
    """Minus the log counts; an id never seen counts as seen once."""
    counts = np.maximum(unigram_counts, 1).astype(np.float64)
    return -np.log(counts).astype(np.float32)

  def known(
    self,
    table: Float[np.ndarray, ' V'],
    unigram_counts: Int[np.ndarray, ' V'],
  ) -> Bool[np.ndarray, ' V']:
    """The ids that occur."""
    del table
    return unigram_counts > 0

  def score(self, context: base.Context) -> Float[Array, 'B N']:
    """The table's entry of each id."""
    return context.table[context.ids]
