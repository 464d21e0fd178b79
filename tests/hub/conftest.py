import dataclasses

import pytest
from hub_models import TEXTS

from td_flax.data import sentence_piece


@pytest.fixture(scope='session')
def bpe():
  return sentence_piece.train(TEXTS, kind='bpe', vocab_size=600, lowercase=True)


@pytest.fixture(scope='session')
def unigram():
  return sentence_piece.train(
    TEXTS, kind='unigram', vocab_size=600, lowercase=True
  )


@pytest.fixture(scope='session')
def small(make_config):
  """A config with every number of its own, so that none is mistaken."""

  def make(**changes):
    config = make_config()
    model = dataclasses.replace(
      config.model,
      hidden_dim=32,
      num_heads=4,
      mlp_dim=48,
      num_layers=3,
      max_positions=40,
      type_vocab_size=3,
      dropout=0.1,
      attention_dropout=0.2,
      norm_eps=1e-3,
      **changes,
    )
    return dataclasses.replace(config, model=model)

  return make
