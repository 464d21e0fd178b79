import pydoc_data.topics

import numpy as np
import pytest

from td_flax import errors, parallel
from td_flax.config import ParallelConfig
from td_flax.tasks import heldout

TEXTS = sorted(pydoc_data.topics.topics.values())[:3]


@pytest.fixture
def text(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text('\n\n'.join(TEXTS))
  return str(path)


def test_the_loss_is_the_same_on_any_devices(run, text):
  one, eight = (
    heldout.evaluate(
      run.found, parallel.make(ParallelConfig(num_devices=n)), text, 'text'
    )
    for n in (1, 8)
  )
  assert one == pytest.approx(eight, rel=1e-5)
  assert one['rows'] > 10
  assert one['perplexity'] == pytest.approx(np.exp(one['loss']))


def test_a_text_without_words_is_one_line(run, tmp_path):
  (tmp_path / 'empty.txt').write_text('\n \n')
  path = str(tmp_path / 'empty.txt')
  with pytest.raises(errors.DataError, match='holds no text'):
    heldout.evaluate(run.found, parallel.make(ParallelConfig()), path, 'text')
