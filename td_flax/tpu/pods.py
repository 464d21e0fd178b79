"""From one compiled slice to others: weak scaling, chip-hours.

Weak scaling keeps the rows per device. What a device computes then stays what
it is; what it sends grows as (n-1)/n with the n devices of a ring, for the
all-reduce of `pmap` as for the gathers and scatters of `sharded`, over as many
links as the slice's shape keeps busy. Nothing is assumed to overlap that the
compiler did not overlap itself.
"""

import math
from typing import Any

from td_flax.tpu import aot, estimate

# Slices that are rented, in chips.
_SHAPES = {
  'v3': ('2x2', '4x4', '4x8', '8x8', '8x16', '16x16'),
  'v4': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8'),
  'v5e': ('2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
}
_SHAPES |= {'v5p': _SHAPES['v4'], 'v6e': _SHAPES['v5e']}


def weak_scaling(
  found: estimate.Estimate, slice_: aot.Topology
) -> list[dict[str, Any]]:
  """The step on other slices of the generation, rows per device unchanged.

  Returns:
    Per slice `topology`, `chips`, `step_ms` and `efficiency`, the share of the
    throughput per chip that is left of that without any collective.
  """
  chip = slice_.chip
  generation = slice_.name.partition(':')[0]
  own = ring_share(len(slice_.devices))
  compute = sum(found.by_kind.values()) - found.exposed_seconds
  compute = max(compute, found.hbm_seconds)
  rows = []
  for text in _SHAPES[generation]:
    shape = [int(n) for n in text.split('x')]
    chips = math.prod(shape)
    links = aot.usable_links(generation, shape)
    bandwidth = chip.link_bandwidth * links / chip.num_links
    scale = ring_share(chips * chip.devices_per_chip) / own
    scale *= slice_.ring_bandwidth / bandwidth
    exposed = found.exposed_seconds * scale
    seconds = max(compute, found.overlapped_seconds * scale) + exposed
    rows.append(
      {
        'topology': f'{generation}:{text}',
        'chips': chips,
        'step_ms': 1e3 * seconds,
        'efficiency': compute / seconds,
      }
    )
  return rows


def ring_share(devices: int) -> float:
  """Of a ring's data, what each device passes on."""
  return (devices - 1) / devices


def chip_hours(
  tokens: float, tokens_per_step: int, seconds: float, slice_: aot.Topology
) -> float:
  """Hours times chips to read `tokens`, [PAD] included."""
  chips = len(slice_.devices) / slice_.chip.devices_per_chip
  return tokens / tokens_per_step * seconds * chips / 3600
