"""The files of a folder's weights, as they are and as they should not be."""

import json

import numpy as np
import pytest

from td_flax import errors
from td_flax.hub import weights

pytestmark = pytest.mark.hf
pytest.importorskip('safetensors', reason='needs the extra `hf`')


def test_the_fingerprint_is_that_of_the_tensors_not_of_the_folder(tmp_path):
  prints = []
  for name, values in (('a', [0, 1]), ('b', [0, 1]), ('c', [0, 2])):
    folder = tmp_path / name
    folder.mkdir()
    weights.write(folder / weights.SAFE, {'x': np.array(values, np.float32)})
    prints.append(weights.fingerprint(folder))
  assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize('use', [weights.read, weights.fingerprint])
def test_a_part_that_is_missing_is_named(tmp_path, use):
  index = {'weight_map': {'x': 'one.safetensors', 'y': 'two.safetensors'}}
  (tmp_path / f'{weights.SAFE}.index.json').write_text(json.dumps(index))
  weights.write(tmp_path / 'one.safetensors', {'x': np.zeros(1, np.float32)})
  with pytest.raises(errors.CheckpointError) as error:
    use(tmp_path)
  assert str(error.value) == (
    f'{tmp_path}/two.safetensors: missing; the folder is half-copied'
  )


@pytest.mark.parametrize('content', [b'', b'version https://git-lfs', b'\x80'])
def test_weights_of_pytorch_that_are_cut_off_are_one_line(tmp_path, content):
  pytest.importorskip('torch', reason='needs the extra `reference`')
  path = tmp_path / 'pytorch_model.bin'
  path.write_bytes(content)
  with pytest.raises(errors.CheckpointError) as error:
    weights.read(tmp_path)
  assert str(error.value).startswith(f'{path}: cannot be read: ')
  assert '\n' not in str(error.value)
