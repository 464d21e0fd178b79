"""Random layerwise token dropping (Yao et al. 2022, arXiv 2211.11586).

Every layer from `first_layer` to `last_layer` draws its own k tokens of each
row; the others skip that one layer. The paper takes all layers but the first
and the last, and lets k grow linearly to N over the run: `drop.stages` does
that in parts of a compiled program each. The same as in the paper: one uniform
draw per layer, row and step, no importance, special tokens dropped like others.
Different: [PAD] is drawn last, since packed rows have it, and nothing crosses a
document's border. The k kept tokens of a layer see each other only.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from td_flax.config import Config
from td_flax.dropping import importance, routing
from td_flax.dropping import plan as plans
from td_flax.dropping.policies import base


class Policy(base.Policy):
  """A fresh random subset in every layer."""

  @classmethod
  def check(cls, config: Config, require: base.Require) -> None:
    """Any k will do: predicted positions are not pinned."""
    base.check_span(config, require)
    base.check_keep(config, require)
    base.check_no_choice(config, require)

  @classmethod
  def plan(cls, config: Config) -> plans.Plan:
    """A span for each layer, between full ones."""
    drop, layers = config.drop, range(config.model.num_layers)
    first, last = drop.first_layer, drop.last_layer
    spans = (
      plans.Span(tuple(layers[:first])),
      *(
        plans.Span((layer,), config.num_kept)
        for layer in layers[first : last + 1]
      ),
      plans.Span(tuple(layers[last + 1 :])),
    )
    return tuple(span for span in spans if span.layers)

  def route(
    self, span: plans.Span, x: Float[Array, 'B N D'], context: base.Context
  ) -> routing.Route:
    """K of the tokens that are not [PAD], by lot."""
    real = (context.ids != self.special.pad).astype(jnp.int32)
    lots = importance.lots(context.keys, x.shape[1])
    return routing.select(routing.rank(real, lots), span.keep)
