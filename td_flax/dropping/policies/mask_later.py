"""Mask more and mask later, 3ML (Liao et al., EMNLP 2022, arXiv 2211.04898).

The layers up to `last_layer` see the N - P tokens that are not predicted; the
predicted ones, all shown as [MASK], join behind it as their embeddings. The
paper masks 50% (`train.mask_rate`). The same: nothing but [MASK] is predicted.
Different: in rows that predict fewer than P, [PAD] stays out before any real
token does. Early layers never see a [MASK], so what it trains is not quite
plain BERT: its held-out loss is reported twice.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from td_flax.config import Config
from td_flax.dropping import importance, routing
from td_flax.dropping import plan as plans
from td_flax.dropping.policies import base


class Policy(base.Policy):
  """What is predicted skips the early layers."""

  own_geometry = True
  all_as_mask = True

  @classmethod
  def check(cls, config: Config, require: base.Require) -> None:
    """The last layer sees every token."""
    base.check_last_layer(config, require)
    base.check_no_choice(config, require)

  @staticmethod
  def note(config: Config) -> str:
    """K is N - P, whatever `keep` says."""
    kept = config.data.sequence_length - config.num_predicted
    return (
      f'drop.policy=mask_later: layers 0 to {config.drop.last_layer} compute '
      f'the N-P={kept} tokens that are not predicted; drop.keep and '
      'drop.first_layer are not read'
    )

  @classmethod
  def plan(cls, config: Config) -> plans.Plan:
    """One span from layer 0, then full layers."""
    layers, last = config.model.num_layers, config.drop.last_layer
    kept = config.data.sequence_length - config.num_predicted
    return (
      plans.Span(tuple(range(last + 1)), kept),
      plans.Span(tuple(range(last + 1, layers))),
    )

  def route(
    self, span: plans.Span, x: Float[Array, 'B N D'], context: base.Context
  ) -> routing.Route:
    """All but the predicted tokens, and where these are fewer, [PAD]."""
    real = (context.ids != self.special.pad).astype(jnp.int32)
    seen = (~context.is_predicted).astype(jnp.int32)
    lots = importance.lots(context.keys, x.shape[1])
    return routing.select(routing.rank(seen, real, lots), span.keep)
