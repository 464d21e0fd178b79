import dataclasses
import pydoc_data.topics
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import checkpoint, pretrained, workdir
from td_flax.data import masking, sentence_piece
from td_flax.dropping import plan as plans
from td_flax.model import bert

TEXTS = sorted(pydoc_data.topics.topics.values())[:30]


@pytest.fixture(scope='session')
def tokenizer():
  return sentence_piece.train(TEXTS, kind='bpe', vocab_size=600, lowercase=True)


@pytest.fixture
def run(tmp_path, make_config, tokenizer):
  """A run with a checkpoint: `path`, `found`, and its model's `logits`."""
  config = make_config()
  model = dataclasses.replace(
    config.model, hidden_dim=32, num_heads=4, max_positions=40
  )
  config = dataclasses.replace(config, model=model)
  made = workdir.Workdir(tmp_path / 'run')
  prints = {'tokenizer': tokenizer.fingerprint, 'dataset': 'x'}
  made.claim(config, prints, tokenizer)
  net = bert.Bert(model, tokenizer.vocab_size, nnx.Rngs(3))
  params = jax.tree.map(lambda x: 5 * x, nnx.split(net)[1])
  saved = checkpoint.Checkpoints(made.checkpoints, keep=1, keep_best=False)
  saved.save(10, {'params': params}, {}, eval_loss=None, wait=True)
  saved.close()
  nnx.update(net, params)

  def logits(rows):
    ids = jnp.asarray(rows, jnp.int32)
    segments = masking.segment(
      ids, tokenizer.special, attend_across=False, restart_positions=True
    )
    states = net.encode(ids, segments, plans.full(model.num_layers))
    return np.asarray(net.predict(states))[..., : tokenizer.vocab_size]

  return types.SimpleNamespace(
    path=made.path,
    found=pretrained.find(str(made.path), '--workdir'),
    tokenizer=tokenizer,
    logits=logits,
  )
