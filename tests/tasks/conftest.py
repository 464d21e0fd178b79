import dataclasses
import pydoc_data.topics
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import masking, pretrained
from td_flax.data import sentence_piece
from td_flax.dropping import plan as plans
from td_flax.model import bert

TEXTS = sorted(pydoc_data.topics.topics.values())[:30]


@pytest.fixture(scope='session')
def tokenizer():
  return sentence_piece.train(TEXTS, kind='bpe', vocab_size=600, lowercase=True)


@pytest.fixture(scope='session')
def saved(tmp_path_factory, make_config, save_run, tokenizer):
  """The workdir of a run with a checkpoint, and its model."""
  config = make_config()
  model = dataclasses.replace(
    config.model, hidden_dim=32, num_heads=4, max_positions=40
  )
  config = dataclasses.replace(config, model=model)
  net = bert.Bert(model, tokenizer.vocab_size, nnx.Rngs(3))
  params = jax.tree.map(lambda x: 5 * x, nnx.split(net)[1])
  folder = tmp_path_factory.mktemp('tasks') / 'run'
  save_run(folder, config, tokenizer, params)
  nnx.update(net, params)
  return folder, net


@pytest.fixture
def run(saved, tokenizer):
  """It: `path`, not to be changed, `found`, and its model's `logits`."""

  path, net = saved

  def logits(rows):
    ids = jnp.asarray(rows, jnp.int32)
    segments = masking.segment(
      ids, tokenizer.special, attend_across=False, restart_positions=True
    )
    states = net.encode(ids, segments, plans.full(len(net.layers)))
    return np.asarray(net.predict(states))[..., : tokenizer.vocab_size]

  return types.SimpleNamespace(
    path=path,
    found=pretrained.find(str(path), '--workdir'),
    tokenizer=tokenizer,
    logits=logits,
  )
