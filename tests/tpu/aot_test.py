import importlib.util

import pytest

from td_flax import errors
from td_flax.tpu import aot


@pytest.mark.parametrize('name', ['v5e', 'v5e:2', 'v9:2x2', 'v5e:2x4x', '8'])
def test_unknown_names_are_refused(name):
  with pytest.raises(errors.ConfigError, match=f'--topology={name}: must be'):
    aot.topology(name)


def test_a_missing_compiler_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.ConfigError, match=r'td_flax\[tpu\]'):
    aot.topology('v5e:2x4')


@pytest.mark.tpu_compiler
@pytest.mark.parametrize(
  ('name', 'devices', 'chip', 'cores'),
  [
    ('v3-8', 8, 'TPU v3', 1),
    ('v4-8', 4, 'TPU v4', 2),
    ('v5e-8', 8, 'TPU v5e', 1),
    ('v5p-8', 4, 'TPU v5p', 2),
    ('v6e-8', 8, 'TPU v6e', 1),
    ('v5e:16x16', 256, 'TPU v5e', 1),
  ],
)
def test_slices(name, devices, chip, cores):
  pytest.importorskip('libtpu')
  found = aot.topology(name)
  assert len(found.devices) == devices
  assert found.chip.name == chip
  assert {device.num_cores for device in found.devices} == {cores}
  assert found.chip.cores == cores


@pytest.mark.tpu_compiler
def test_a_shape_that_the_generation_does_not_have_is_refused():
  pytest.importorskip('libtpu')
  with pytest.raises(errors.ConfigError, match='v5e:3x77'):
    aot.topology('v5e:3x77')


@pytest.mark.parametrize(
  ('generation', 'shape', 'links'),
  [
    ('v5e', [2, 4], 2),
    ('v5e', [16, 16], 4),
    ('v5e', [8, 16], 2),
    ('v5p', [8, 8, 4], 6),
    ('v4', [2, 2, 1], 2),
  ],
)
def test_links_of_a_slice(generation, shape, links):
  assert aot.usable_links(generation, shape) == links
