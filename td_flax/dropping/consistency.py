"""Semantic-consistent token dropping (Zhong et al., ACL 2023).

arXiv 2305.15273. Every F-th step the same batch also passes through the model
undropped, and the two passes are held together:

    1/2 CE(dropped) + 1/2 CE(full) + 0.05 KL(layer L-2) + 0.05 KL(layer L-1)

KL is between softmaxed hidden states of the first token of a row, from the
full pass to the dropped one. As the paper has it, and unlike its released code:
the full pass is a reference (no gradient flows into its side of the KL), and
CE(full) is the cross entropy of the full pass. The states of layer L-2 are
those that enter the last layer. The paper has `drop.beta` 0.95 and F = 10.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

CROSS_ENTROPY, DIVERGENCE = 0.5, 0.05  # section 3.2


def divergence(
  dropped: Float[Array, 'B D'], full: Float[Array, 'B D']
) -> Float[Array, ' B']:
  """KL(softmax(full) || softmax(dropped)) in nats; `full` is a constant."""
  full = jax.lax.stop_gradient(full)
  reference, found = (
    jax.nn.log_softmax(x.astype(jnp.float32)) for x in (full, dropped)
  )
  return jnp.sum(jnp.exp(reference) * (reference - found), axis=-1)
