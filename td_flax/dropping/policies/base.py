"""What a policy decides, and token dropping's answers as the defaults.

A policy is a plan (which layers see how many tokens), a table (importance per
id, held in the train state) and a score. A new one is a module beside this
file with a class `Policy(base.Policy)`; `drop.policy` is the module's name.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from td_flax.config import Config
from td_flax.data.vocabulary import SpecialIds
from td_flax.dropping import importance, routing
from td_flax.dropping import plan as plans


class Context(NamedTuple):
  """What a policy may look at when a span begins.

  Attributes:
    ids: as they enter the model, after masking.
    table: the policy's importance per id.
    keys: one key per row, a function of (seed, step, row of the global batch).
  """

  ids: Int[Array, 'B N']
  table: Float[Array, ' V']
  keys: Key[Array, ' B']


class Policy:
  """Token dropping with every token equally important: ties fall by lot.

  Attributes:
    has_table: the score reads `Context.table`.
  """

  has_table = False

  def __init__(self, config: Config, vocab_size: int, special: SpecialIds):
    self.config = config
    self.vocab_size = vocab_size
    self.special = special

  @staticmethod
  def plan(config: Config) -> plans.Plan:
    """The layers and how many tokens they see."""
    drop = config.drop
    return plans.token_dropping(
      config.model.num_layers,
      drop.first_layer,
      drop.last_layer,
      config.num_kept,
      cross_attend=drop.cross_attend,
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
    return importance.select(
      self.score(context),
      context.ids,
      context.keys,
      span.keep,
      special=self.special,
      noise=self.config.drop.noise,
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
