"""The masked-LM loss without a gather and without a scatter back."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.custom_vjp
def cross_entropy(
  logits: Float[Array, 'B P V'], labels: Int[Array, 'B P']
) -> tuple[Float[Array, 'B P'], Bool[Array, 'B P']]:
  """Loss per position, and whether the label has the largest logit.

  Args:
    logits: float32.
    labels: from 0 to below V.

  Returns:
    The cross entropy in nats; correct predictions (ties count as correct).
  """
  return _forward(logits, labels)[0]


def _forward(logits: Array, labels: Array) -> tuple[tuple, tuple]:
  # Three passes over the logits; autodiff of a logsumexp and an argmax is five.
  largest = jnp.max(logits, axis=-1)
  chosen = jnp.max(
    jnp.where(_is_label(logits, labels), logits, -jnp.inf), axis=-1
  )
  total = jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1)
  normaliser = jnp.log(total) + largest
  result = normaliser - chosen, chosen >= largest
  return result, (logits, labels, normaliser)


def _backward(saved: tuple, cotangents: tuple) -> tuple[Array, None]:
  logits, labels, normaliser = saved
  probabilities = jnp.exp(logits - normaliser[..., None])
  slope = probabilities - _is_label(logits, labels)
  return slope * cotangents[0][..., None], None


def _is_label(logits: Array, labels: Array) -> Bool[Array, 'B P V']:
  return labels[..., None] == jnp.arange(logits.shape[-1])[None, None]


cross_entropy.defvjp(_forward, _backward)
