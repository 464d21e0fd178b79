import dataclasses
import pydoc_data.topics

import numpy as np
import pytest

from td_flax import errors, parallel, pretrained, train
from td_flax.config import ParallelConfig
from td_flax.tasks import heldout

TEXTS = sorted(pydoc_data.topics.topics.values())[:3]


@pytest.fixture
def text(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text('\n\n'.join(TEXTS))
  return str(path)


def measure(found, text, engine):
  return heldout.evaluate(found, engine, heldout.rows_of(found, text, 'text'))


def test_a_model_of_another_attention_has_the_same_loss(run, text):
  engine = parallel.make(ParallelConfig(num_devices=1))
  before = measure(run.found, text, engine)
  run.found.model = dataclasses.replace(run.found.model, attention='cudnn')
  assert measure(run.found, text, engine) == before


def test_the_loss_is_the_same_on_any_devices(run, text):
  one, eight = (
    measure(run.found, text, parallel.make(ParallelConfig(num_devices=n)))
    for n in (1, 8)
  )
  prints = {x.pop('tokenizer') for x in (one, eight)}
  assert prints == {run.tokenizer.fingerprint}
  assert one == pytest.approx(eight, rel=1e-5)
  assert one['rows'] > 10
  assert one['row_length'] == 40
  assert one['perplexity'] == pytest.approx(np.exp(one['loss']))


def test_the_loss_is_that_of_pretraining_on_the_same_text(
  tmp_path, make_config, text
):
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
  measured = measure(found, text, engine)
  assert measured['rows'] > 10
  assert measured['loss'] == pytest.approx(done['last_eval_loss'], rel=1e-6)


def test_a_text_without_words_is_one_line(run, tmp_path):
  (tmp_path / 'empty.txt').write_text('\n \n')
  path = str(tmp_path / 'empty.txt')
  with pytest.raises(errors.DataError, match='holds no text'):
    heldout.rows_of(run.found, path, 'text')
