import dataclasses

import numpy as np
import pytest

from td_flax import errors, parallel
from td_flax.config import ParallelConfig
from td_flax.tasks.scorer import Scorer

SENTENCES = [
  'it is a class',
  'returns',
  'the function returns a new object when it is called with one argument',
  'class a is it',
]


@pytest.fixture
def score(run):
  def scored(sentences, **options):
    engine = parallel.make(ParallelConfig(**options))
    return Scorer(run.found, engine).score(sentences)

  return scored


def expected(run, sentence):
  """One token after the other, each with its own forward pass."""
  special = run.tokenizer.special
  (ids,) = run.tokenizer.encode_batch([sentence])
  row = np.array([special.cls, *ids, special.sep])
  total = 0.0
  for i in range(1, len(row) - 1):
    masked = row.copy()
    masked[i] = special.mask
    logits = run.logits(masked[None])[0, i].astype(np.float64)
    total += logits[row[i]] - np.log(np.exp(logits - logits.max()).sum())
    total -= logits.max()
  return total


def test_every_token_is_masked_once(run, score):
  scores = score(SENTENCES, num_devices=1)
  wanted = [expected(run, sentence) for sentence in SENTENCES]
  np.testing.assert_allclose(scores, wanted, rtol=1e-5)


def test_devices_and_company_change_nothing(score):
  together = score(SENTENCES, num_devices=8)
  alone = [score([x], num_devices=1)[0] for x in SENTENCES]
  np.testing.assert_allclose(together, alone, rtol=1e-5)
  engine = score(SENTENCES, num_devices=2, engine='sharded')
  np.testing.assert_allclose(engine, together, rtol=1e-5)


def test_a_sentence_without_tokens_scores_nothing(score):
  np.testing.assert_array_equal(score(['', ' ']), [0, 0])


def test_a_sentence_that_is_too_long_is_one_line(score):
  with pytest.raises(errors.DataError, match='the model takes 38') as error:
    score(['long ' * 200])
  assert '\n' not in str(error.value)


def test_models_of_another_attention_are_scored(run, score):
  before = score(SENTENCES)
  run.found.model = dataclasses.replace(run.found.model, attention='cudnn')
  np.testing.assert_array_equal(score(SENTENCES), before)


def test_bfloat16_models_are_scored_in_float32(run, score):
  before = score(SENTENCES)
  model = dataclasses.replace(run.found.model, dtype='bfloat16')
  run.found.model = model
  np.testing.assert_array_equal(score(SENTENCES), before)
