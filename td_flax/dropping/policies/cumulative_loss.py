"""The dynamic policy of Hou et al. 2022: tokens with a small loss go first.

The table is an exponential moving average of each id's masked-LM loss.
"""

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from td_flax.dropping import importance
from td_flax.dropping.policies import base


class Policy(base.Policy):
  """Importance is the cumulative loss of the id."""

  has_table = True
  has_weights = True

  def initial_table(
    self, unigram_counts: Int[np.ndarray, ' V']
  ) -> Float[np.ndarray, ' V']:
    """`drop.initial_loss` everywhere: ids not seen yet count as hard."""
    return np.full(
      unigram_counts.shape, self.config.drop.initial_loss, np.float32
    )

  def known(
    self,
    table: Float[np.ndarray, ' V'],
    unigram_counts: Int[np.ndarray, ' V'],
  ) -> Bool[np.ndarray, ' V']:
    """The ids that were updated."""
    del unigram_counts
    return table != np.float32(self.config.drop.initial_loss)

  def score(self, context: base.Context) -> Float[Array, 'B N']:
    """The table's entry of each id."""
    return context.table[context.ids]

  def observe(
    self,
    labels: Int[Array, 'B P'],
    losses: Float[Array, 'B P'],
    weights: Float[Array, 'B P'],
  ) -> importance.IdSums:
    """Loss and weight per id."""
    return importance.id_sums(labels, losses, weights, self.vocab_size)

  def update(
    self, table: Float[Array, ' V'], observed: importance.IdSums
  ) -> Float[Array, ' V']:
    """The EMA with decay `drop.beta`."""
    return importance.update(table, observed, self.config.drop.beta)
