"""Tokens that receive little attention are dropped (after FCA-BERT).

Zhao et al. 2022 (arXiv 2203.09055) score a token by the attention it receives
from the others, summed over queries, as a mean over heads; [CLS] always stays,
and one or several cluster tokens, means or score-weighted means, stand for the
rest (`drop.pool`, `drop.clusters`). They do so layer by layer in fine-tuning
and inference; here it decides once, at the entry of the span, from the
attention of its first layer over all tokens (computed for the scores only,
without gradient). Different also: [MASK] stays, dropped tokens come back behind
the span as they entered it, and a cluster belongs to one document of a packed
row.
"""

from jaxtyping import Array, Float

from td_flax.dropping.policies import base


class Policy(base.Policy):
  """Importance is the attention received."""

  scored = True
  has_weights = True

  def score(self, context: base.Context) -> Float[Array, 'B N']:
    """Attention received, from 0 to the number of tokens."""
    return context.received()
