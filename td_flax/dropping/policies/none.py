"""Plain BERT: every layer sees every token."""

from td_flax.config import Config
from td_flax.dropping import plan as plans
from td_flax.dropping.policies import base


class Policy(base.Policy):
  """Drops nothing; the compiled step is plain BERT's."""

  @classmethod
  def check(cls, config: Config, require: base.Require) -> None:
    """The other keys of `drop` are not read."""
    del config, require

  @classmethod
  def plan(cls, config: Config) -> plans.Plan:
    """One span over all layers."""
    return plans.full(config.model.num_layers)
