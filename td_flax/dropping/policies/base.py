"""What a policy decides, and token dropping's answers as the defaults.

A policy is a plan (which layers see how many tokens), a table (importance per
id, held in the train state) and a score. A new one is a module beside this
file with a class `Policy(base.Policy)`; `drop.policy` is the module's name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from td_flax.config import Config
from td_flax.data.vocabulary import SpecialIds
from td_flax.dropping import importance, routing
from td_flax.dropping import plan as plans

# (what must hold, key, what would be valid): raises where it does not hold.
Require = Callable[[bool, str, str], None]


class Context(NamedTuple):
  """What a policy may look at when a span begins.

  Attributes:
    ids: as they enter the model, after masking.
    segments: the document of each token, 0 for [PAD].
    is_predicted: the positions that are predicted.
    table: the policy's importance per id.
    keys: one key per row, a function of (seed, step, row of the global batch).
    received: computes the attention f32[B, N] that each token receives in the
      span's first layer; for plans with `scored` spans.
  """

  ids: Int[Array, 'B N']
  segments: Int[Array, 'B N']
  is_predicted: Bool[Array, 'B N']
  table: Float[Array, ' V']
  keys: Key[Array, ' B']
  received: Callable[[], Float[Array, 'B N']] | None = None


class Policy:
  """Token dropping with every token equally important: ties fall by lot.

  Attributes:
    has_table: the score reads `Context.table`.
    scored: the score calls `Context.received`.
    has_weights: scores are at least 0, so that `drop.pool=weighted` can weigh
      by them.
    own_geometry: what is trained computes something else than plain BERT; its
      held-out loss is also measured as it is trained (`eval/own_loss`).
    all_as_mask: every predicted position is shown as [MASK], rather than 80%.
  """

  has_table = False
  scored = False
  has_weights = False
  own_geometry = False
  all_as_mask = False

  def __init__(self, config: Config, vocab_size: int, special: SpecialIds):
    self.config = config
    self.vocab_size = vocab_size
    self.special = special

  @classmethod
  def check(cls, config: Config, require: Require) -> None:
    """Calls `require` for what a config must fulfil to be dropped like this."""
    drop, n = config.drop, config.data.sequence_length
    check_span(config, require)
    check_keep(config, require)
    p, k = config.num_predicted, config.num_kept
    require(
      k >= p + 2,
      'drop.keep',
      f'at least P+2={p + 2} tokens of {n} (here k={k}): the {p} predicted '
      'positions, [CLS] and [SEP] must have room',
    )
    require(
      drop.pool == 'none' or drop.clusters <= n - k,
      'drop.clusters',
      f'at most N-k={n - k}, the tokens that are dropped',
    )
    require(
      drop.pool != 'weighted' or cls.has_weights,
      'drop.pool',
      f'none or mean: the scores of drop.policy={drop.policy} are no weights',
    )

  @staticmethod
  def note(config: Config) -> str | None:
    """What a person should know at the start of a run, if anything."""
    del config

  @classmethod
  def plan(cls, config: Config) -> plans.Plan:
    """The layers and how many tokens they see."""
    drop = config.drop
    return plans.token_dropping(
      config.model.num_layers,
      drop.first_layer,
      drop.last_layer,
      config.num_kept,
      cross_attend=drop.cross_attend,
      clusters=0 if drop.pool == 'none' else drop.clusters,
      scored=cls.scored,
    )

  def initial_table(
    self, unigram_counts: Int[np.ndarray, ' V']
  ) -> Float[np.ndarray, ' V']:
    """The table before the first step, from the corpus' counts per id."""
    return np.zeros(unigram_counts.shape, np.float32)

  def known(
    self,
    table: Float[np.ndarray, ' V'],
    unigram_counts: Int[np.ndarray, ' V'],
  ) -> Bool[np.ndarray, ' V'] | None:
    """The ids whose entry was learned or counted; None without a table."""
    del table, unigram_counts
    return None

  def score(self, context: Context) -> Float[Array, 'B N']:
    """Importance per position: the larger, the longer it is kept."""
    return jnp.zeros(context.ids.shape, jnp.float32)

  def route(
    self, span: plans.Span, x: Float[Array, 'B N D'], context: Context
  ) -> routing.Route:
    """The tokens that pass through `span`; `x` is what enters it."""
    del x
    score = self.score(context)
    route = importance.select(
      score,
      context.ids,
      context.keys,
      span.keep,
      special=self.special,
      noise=self.config.drop.noise,
    )
    if not span.clusters:
      return route
    weighted = self.config.drop.pool == 'weighted'
    return route._replace(
      clusters=routing.cluster(
        ~route.kept & (context.ids != self.special.pad),
        score if weighted else jnp.ones_like(score),
        context.segments,
        span.clusters,
      )
    )

  def observe(
    self,
    labels: Int[Array, 'B P'],
    losses: Float[Array, 'B P'],
    weights: Float[Array, 'B P'],
  ) -> Any:
    """What the table's update needs from these rows: sums, added up later.

    Args:
      labels: original ids of the predicted positions.
      losses: masked-LM losses there, in nats.
      weights: 0 where a slot holds no prediction.

    Returns:
      A pytree of sums over the rows; the step adds it up over microbatches and
      devices. Here none.
    """
    del labels, losses, weights
    return ()

  def update(self, table: Float[Array, ' V'], observed: Any) -> Array:
    """The table f32[V] after a step; `observed` is summed globally."""
    del observed
    return table


def check_span(config: Config, require: Require) -> None:
  """Layers `first_layer` to `last_layer` are some, and not the last one."""
  drop = config.drop
  check_last_layer(config, require)
  require(
    drop.first_layer <= drop.last_layer,
    'drop.first_layer',
    f'at most drop.last_layer={drop.last_layer}',
  )


def check_last_layer(config: Config, require: Require) -> None:
  """Behind `last_layer` there is a layer that sees every token."""
  layers = config.model.num_layers
  require(
    layers > 1,
    'model.num_layers',
    f'at least 2 with drop.policy={config.drop.policy}',
  )
  require(
    config.drop.last_layer <= layers - 2,
    'drop.last_layer',
    f'at most {layers - 2}: of the layers 0 to {layers - 1} the last one sees '
    'every token',
  )


def check_keep(config: Config, require: Require) -> None:
  """`keep` is a share of N or a number of tokens."""
  keep, n = config.drop.keep, config.data.sequence_length
  require(
    config.num_kept <= n, 'drop.keep', f'at most data.sequence_length={n}'
  )
  require(
    config.num_kept >= 1,
    'drop.keep',
    f'at least one token of {n} (here k={config.num_kept})',
  )
  require(
    keep <= 1 or keep == config.num_kept,
    'drop.keep',
    'a share of N up to 1 or a whole number of tokens above',
  )


def check_no_choice(config: Config, require: Require) -> None:
  """No scores to disturb, and no tokens that stand for others."""
  require(
    config.drop.noise == 0,
    'drop.noise',
    f'0: drop.policy={config.drop.policy} has no scores',
  )
  require(
    config.drop.pool == 'none',
    'drop.pool',
    f'none: drop.policy={config.drop.policy} has no span to pool for',
  )
