"""Plain BERT: every layer sees every token."""

from td_flax.dropping import plan as plans
from td_flax.dropping.policies import base


class Policy(base.Policy):
  """Drops nothing; the compiled step is plain BERT's."""

  def plan(self) -> plans.Plan:
    """One span over all layers."""
    return plans.full(self.config.model.num_layers)
