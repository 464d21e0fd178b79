"""Matmul FLOPs of a training step, counted from the plan.

Letters: N tokens, K queries, M keys, P predicted positions, D width, F width of
the MLP, V vocabulary. A multiply-add is 2 FLOPs; a backward pass costs twice
its forward pass; embeddings, norms and routing are not counted.
"""

from td_flax.config import ModelConfig
from td_flax.dropping import plan as plans


def layer_flops(config: ModelConfig, queries: int, keys: int) -> int:
  """Forward FLOPs of one layer on one row."""
  d, f = config.hidden_dim, config.mlp_dim
  projections = 4 * queries * d * d + 4 * keys * d * d  # QO, KV
  attention = 4 * queries * keys * d
  mlp = 4 * queries * d * f
  return projections + attention + mlp


def scoring_flops(config: ModelConfig, sequence_length: int) -> int:
  """FLOPs of a row's attention scores in one layer, with queries and keys."""
  n, d = sequence_length, config.hidden_dim
  return 4 * n * d * d + 2 * n * n * d


def train_flops(
  config: ModelConfig,
  plan: plans.Plan,
  *,
  sequence_length: int,
  num_predicted: int,
  vocab_size: int,
) -> int:
  """FLOPs of forward and backward pass on one row.

  Args:
    config: the `model` section.
    plan: the layers and how many tokens they see.
    sequence_length: N.
    num_predicted: P; the head runs on these positions only.
    vocab_size: V.

  Returns:
    FLOPs per row: 300.9e9 for BERT-base with N=512, P=76, V=30,522.
  """
  forward = sum(
    layer_flops(config, queries, keys)
    for queries, keys in plans.shapes(plan, sequence_length)
  )
  d = config.hidden_dim
  forward += num_predicted * (2 * d * d + 2 * d * vocab_size)
  # Scores have no backward pass.
  scored = sum(span.scored for span in plan)
  return 3 * forward + scored * scoring_flops(config, sequence_length)
