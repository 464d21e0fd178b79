"""A range of layers, unrolled or as one loop, with or without recomputation."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from td_flax.config import ModelConfig
from td_flax.devices import Devices
from td_flax.model import dense
from td_flax.model.dropout import Seeds

_POLICIES = {
  'dense': jax.checkpoint_policies.save_only_these_names(dense.RESULT),
  'layer': jax.checkpoint_policies.nothing_saveable,
}


def run(
  config: ModelConfig,
  devices: Devices,
  layers: list[nnx.Module],
  y: Float[Array, 'B K D'],
  y_segments: Int[Array, 'B K'],
  context: tuple[Float[Array, 'B M D'], Int[Array, 'B M']],
  cross_attend: int,
  seeds: list[Seeds | None],
) -> Float[Array, 'B K D']:
  """Updates `y` layer by layer.

  Args:
    config: the `model` section: `remat`, `scan_layers`.
    devices: where the rows of `y` are kept.
    layers: of one shape.
    y: states of the tokens that pass through.
    y_segments: their segments.
    context: states and segments that the first layers attend to; the others
      attend to `y` itself.
    cross_attend: how many layers these are.
    seeds: for dropout, of each layer.
  """

  def apply(layer: nnx.Module, y: Array, context: Any, seed: Any) -> Array:
    states, segments = (None, None) if context is None else context
    return devices.by_rows(layer(y, y_segments, states, segments, seed))

  if config.remat != 'none':
    apply = _rematerialised(apply, config.remat)
  n = cross_attend
  y = _through(config, apply, layers[:n], y, context, seeds[:n])
  return _through(config, apply, layers[n:], y, None, seeds[n:])


def _through(
  config: ModelConfig,
  apply: Any,
  layers: list[nnx.Module],
  y: Array,
  context: Any,
  seeds: list[Seeds | None],
) -> Array:
  """Layers that attend to the same, as a loop or one by one."""
  if not config.scan_layers or len(layers) < 2:
    for layer, seed in zip(layers, seeds, strict=True):
      y = apply(layer, y, context, seed)
    return y
  graph = nnx.graphdef(layers[0])
  stacked = jax.tree.map(
    lambda *leaves: jnp.stack(leaves), *(nnx.state(x) for x in layers)
  )
  # Without dropout there are no seeds to stack.
  seed_stack = None if seeds[0] is None else jnp.stack(seeds)
  y, _ = jax.lax.scan(
    lambda y, xs: (apply(nnx.merge(graph, xs[0]), y, context, xs[1]), None),
    y,
    (stacked, seed_stack),
  )
  return y


def _rematerialised(apply: Any, policy: str) -> Any:
  """`apply` whose backward pass recomputes what the policy does not save."""

  def of_arrays(graph: Any, state: Any, *args: Any) -> Array:
    return apply(nnx.merge(graph, state), *args)

  checkpointed = jax.checkpoint(
    of_arrays, policy=_POLICIES[policy], static_argnums=0
  )
  return lambda layer, *args: checkpointed(*nnx.split(layer), *args)
