"""NarrowBERT (Li et al., ACL 2023): late layers see the predicted tokens only.

From `first_layer` on, queries and MLPs are those of the P predicted positions;
keys and values come from all tokens as they entered `first_layer`. The same as
in the paper's variant with sparse queries. What it trains is not plain BERT: a
late layer never attends to the output of another. So its held-out loss is
reported twice, and what it is worth shows in fine-tuning.
"""

from td_flax.config import Config
from td_flax.dropping import plan as plans
from td_flax.dropping.policies import base


class Policy(base.Policy):
  """Computes what the loss reads, from `first_layer` on."""

  own_geometry = True

  @classmethod
  def check(cls, config: Config, require: base.Require) -> None:
    """There is a layer before the narrow ones."""
    last = config.model.num_layers - 1
    require(
      1 <= config.drop.first_layer <= last,
      'drop.first_layer',
      f'from 1 to {last}: the layers before it see every token, the others '
      'the predicted ones',
    )
    base.check_no_choice(config, require)

  @staticmethod
  def note(config: Config) -> str:
    """K is P, whatever `keep` says."""
    return (
      f'drop.policy=narrow: layers from {config.drop.first_layer} on compute '
      f'the P={config.num_predicted} predicted tokens; drop.keep and '
      'drop.last_layer are not read'
    )

  @classmethod
  def plan(cls, config: Config) -> plans.Plan:
    """Full layers, then one span without `restore`."""
    layers, first = config.model.num_layers, config.drop.first_layer
    late = tuple(range(first, layers))
    return (
      plans.Span(tuple(range(first))),
      plans.Span(
        late, config.num_predicted, cross_attend=len(late), restore=False
      ),
    )
