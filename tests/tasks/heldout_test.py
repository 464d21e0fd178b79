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


def test_the_loss_is_that_of_pretraining_on_the_same_text(
  tmp_path, make_config, text
):
  from td_flax import pretrained, train  # not at the top: see tests/conftest.py

  (tmp_path / 'train.txt').write_text('\n\n'.join(TEXTS[1:]))

  config = make_config(
    data__files=str(tmp_path / 'train.txt'),
    data__eval_files=text,
    data__vocab_size=340,
    model__dtype='float32',
    train__num_steps=2,
    eval__num_rows=10_000,  # all
    eval__batch_size=64,
    parallel__num_devices=1,
    log__tensorboard=False,
  )
  done = train.train(config, tmp_path / 'run')
  found = pretrained.find(str(tmp_path / 'run'), '--workdir')
  engine = parallel.make(config.parallel)
  measured = heldout.evaluate(found, engine, text, 'text')
  assert measured['rows'] > 10
  assert measured['loss'] == pytest.approx(done['last_eval_loss'], rel=1e-6)


def test_a_text_without_words_is_one_line(run, tmp_path):
  (tmp_path / 'empty.txt').write_text('\n \n')
  path = str(tmp_path / 'empty.txt')
  with pytest.raises(errors.DataError, match='holds no text'):
    heldout.evaluate(run.found, parallel.make(ParallelConfig()), path, 'text')
