"""Initial weights with which heads attend to neighbours.

A BERT that starts from noise predicts little more than frequencies until its
heads have found the words beside them, which takes a small budget most of its
time (Chen et al. 2024, "Sudden Drops in the Loss", watch BERT-base leave that
plateau). These heads look there from the first step, like those that ConViT
(d'Ascoli et al. 2021) starts as convolutions; what is learned is an ordinary
BERT.

The first E coordinates of position p are sines and cosines (Vaswani et al.
2017, section 3.5), s(p). Moving by d rotates them, s(p + d) = s(p) R_d,
so a head whose query is s R_d and whose key is s looks d positions away.
"""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

if TYPE_CHECKING:
  from td_flax.model.bert import Encoder

# Root mean square of the sinusoids, in deviations of a word's coordinates.
_LOUDNESS = 2.0
# What a head gives to the position it looks for; to one far away, about 0.
_LOGIT = 11.0


def apply(encoder: 'Encoder') -> None:
  """Makes the heads of an encoder with random weights look at neighbours.

  Head h of layer i looks h // 2 + i + 1 positions ahead; if h is even, back.
  What leaves attention and MLP starts at zero: noise that layers add would hide
  the positions from those above.

  Args:
    encoder: heads of an even width E; changed in place.
  """
  config = encoder.config
  num_heads = config.num_heads
  width = config.hidden_dim // num_heads
  frequencies = np.pi * ((np.arange(width // 2) + 0.5) / (width // 2)) ** 2

  table = encoder.embeddings.position
  angles = np.arange(config.max_positions)[:, None] * frequencies
  waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
  waves = waves * (_LOUDNESS * 2**0.5 * config.init_stddev)
  table.embedding[...] = table.embedding[...].at[:, :width].set(waves)

  # Their mean square once a LayerNorm has seen all coordinates.
  power = _LOUDNESS**2 / (_LOUDNESS**2 / num_heads + 1)
  gain = (_LOGIT / (power * width**0.5)) ** 0.5
  for i, layer in enumerate(encoder.layers):
    offsets = [(h // 2 + i + 1) * (-1) ** (h + 1) for h in range(num_heads)]
    attention = layer.attention
    _set_heads(attention.query, [gain * _turn(frequencies, d) for d in offsets])
    _set_heads(attention.key, [gain * np.eye(width)] * num_heads)
    for kernel in attention.output.kernel, layer.mlp.outer.kernel:
      kernel[...] = jnp.zeros_like(kernel[...])


def _turn(
  frequencies: Float[np.ndarray, ' F'], offset: int
) -> Float[np.ndarray, 'E E']:
  """R_d."""
  cos, sin = (np.diag(f(frequencies * offset)) for f in (np.cos, np.sin))
  return np.block([[cos, sin], [-sin, cos]])


def _set_heads(
  dense: nnx.Linear, blocks: list[Float[np.ndarray, 'E E']]
) -> None:
  """Each head reads the first E coordinates through its block, no others."""
  kernel = np.zeros(dense.kernel.shape, np.float32)
  kernel[: len(blocks[0])] = np.concatenate(blocks, axis=1)
  dense.kernel[...] = jnp.asarray(kernel)
