import pytest

from td_flax import chips


@pytest.mark.parametrize(
  'kind',
  ['TPU v3', 'TPU v4', 'TPU v5 lite', 'TPU v5', 'TPU v6 lite', 'NVIDIA H200'],
)
def test_known_devices(kind):
  chip = chips.chip_of(kind)
  assert chip.peak_flops > 1e13
  assert chip.hbm_bytes > 1e10
  assert 1e11 < chip.hbm_bandwidth < 1e13
  assert 0 < chip.link_bandwidth < chip.hbm_bandwidth


@pytest.mark.parametrize(
  ('kind', 'units'), [('TPU v4', 8), ('TPU v5 lite', 4), ('TPU v5', 8)]
)
def test_the_clock_explains_the_peak(kind, units):
  chip = chips.chip_of(kind)
  flops_per_cycle = units * 2 * 128 * 128
  assert chip.clock * flops_per_cycle == pytest.approx(
    chip.peak_flops, rel=0.01
  )


def test_unknown_devices_have_no_figures():
  assert chips.chip_of('cpu') is None
