"""What accelerators can do at most, per jax device; by `device_kind`.

A figure of a chip is divided by the jax devices on it: a TPU v3 chip shows its
two cores as two devices, later chips are one device each (v4 and v5p fuse their
two cores, "megacore").

Sources. TPU: https://cloud.google.com/tpu/docs/v3, /v4, /v5e, /v5p, /v6e (peak,
HBM, interconnect: half of the bidirectional figure); Jouppi et al. 2023, "TPU
v4", arXiv 2304.01433, table 4 (clocks and links of v3 and v4). Later clocks are
the peak over the FLOPs of a cycle, 2 x 128 x 128 for each of the four (v5e) or
eight (v5p) matrix units, and for v6e 2^19, of which the compiler's cost model
reaches 91% with a large matmul. Vector memory: jax's own table of TPUs
(`pallas.tpu.get_tpu_info`). NVIDIA: the data sheets of A100, H100 and H200
(dense bf16; NVLink one way, half of the quoted sum of both).
"""

import dataclasses

LANES = 128  # of a TPU's vector registers
_GB = 10**9
_GIB = 2**30
_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Chip:
  """One jax device.

  Attributes:
    name: as people call it.
    peak_flops: bf16 matmul FLOP/s.
    hbm_bytes: memory.
    hbm_bandwidth: bytes/s.
    link_bandwidth: bytes/s, sum of all links to other chips, one way.
    num_links: that `link_bandwidth` is the sum of.
    clock: Hz of a TPU's cores; None for GPUs, whose clock varies.
    cores: TensorCores that work as this one device; 0 for GPUs.
    devices_per_chip: jax devices that share a chip.
    vector_bytes: vector memory of a TPU's core, where kernels can use it; 0
      elsewhere.
  """

  name: str
  peak_flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  link_bandwidth: float
  num_links: int
  clock: float | None = None
  cores: int = 0
  devices_per_chip: int = 1
  vector_bytes: int = 0


def _gpu(
  name: str, teraflops: float, gb: int, gb_per_s: float, links: int
) -> Chip:
  # NVLink 3 and 4: 25 GB/s per link and direction.
  return Chip(
    name, teraflops * 1e12, gb * _GB, gb_per_s * _GB, links * 25 * _GB, links
  )


_V3 = Chip(
  name='TPU v3',
  peak_flops=123e12 / 2,
  hbm_bytes=16 * _GIB,
  hbm_bandwidth=900 * _GB / 2,
  link_bandwidth=4 * 70 * _GB / 2,
  num_links=4,
  clock=0.94e9,
  cores=1,
  devices_per_chip=2,
)
_V4 = Chip(
  name='TPU v4',
  peak_flops=275e12,
  hbm_bytes=32 * _GIB,
  hbm_bandwidth=1200 * _GB,
  link_bandwidth=6 * 50 * _GB,
  num_links=6,
  clock=1.05e9,
  cores=2,
  vector_bytes=16 * _MIB,
)
_V5E = Chip(
  name='TPU v5e',
  peak_flops=197e12,
  hbm_bytes=16 * _GIB,
  hbm_bandwidth=819 * _GB,
  link_bandwidth=4 * 50 * _GB,
  num_links=4,
  clock=1.5e9,
  cores=1,
  vector_bytes=128 * _MIB,
)
_V5P = Chip(
  name='TPU v5p',
  peak_flops=459e12,
  hbm_bytes=95 * _GIB,
  hbm_bandwidth=2765 * _GB,
  link_bandwidth=6 * 100 * _GB,
  num_links=6,
  clock=1.75e9,
  cores=2,
  vector_bytes=64 * _MIB,
)
_V6E = Chip(
  name='TPU v6e',
  peak_flops=918e12,
  hbm_bytes=32 * _GIB,
  hbm_bandwidth=1638 * _GB,
  link_bandwidth=4 * 100 * _GB,
  num_links=4,
  clock=1.75e9,
  cores=1,
  vector_bytes=128 * _MIB,
)

_CHIPS = {
  'TPU v3': _V3,
  'TPU v4': _V4,
  'TPU v5 lite': _V5E,
  'TPU v5e': _V5E,
  'TPU v5': _V5P,
  'TPU v5p': _V5P,
  'TPU v6 lite': _V6E,
  'TPU v6e': _V6E,
  'NVIDIA A100-SXM4-40GB': _gpu('A100 40 GB', 312, 40, 1555, 12),
  'NVIDIA A100-SXM4-80GB': _gpu('A100 80 GB', 312, 80, 2039, 12),
  'NVIDIA A100-PCIE-40GB': _gpu('A100 PCIe 40 GB', 312, 40, 1555, 12),
  'NVIDIA A100 80GB PCIe': _gpu('A100 PCIe 80 GB', 312, 80, 1935, 12),
  'NVIDIA H100 80GB HBM3': _gpu('H100', 989.4, 80, 3350, 18),
  'NVIDIA H100 PCIe': _gpu('H100 PCIe', 756, 80, 2000, 12),
  'NVIDIA H200': _gpu('H200', 989.4, 141, 4800, 18),
}


def chip_of(device_kind: str) -> Chip | None:
  """The chip behind `jax.Device.device_kind`; None for one not listed."""
  return _CHIPS.get(device_kind)
