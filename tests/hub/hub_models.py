"""Models, rows and runs that the tests of the hub share."""

import pydoc_data.topics

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from td_flax import checkpoint, masking, workdir
from td_flax.dropping import plan as plans
from td_flax.model import bert

TEXTS = sorted(pydoc_data.topics.topics.values())[:30]


def randomized(config, vocab_size):
  """A model whose every parameter is random, norms and biases too."""
  return randomize(bert.Bert(config, vocab_size, nnx.Rngs(0)), vocab_size)


def randomize(model, vocab_size):
  """`model` with other parameters."""
  graph, params = nnx.split(model)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [
    leaf + 0.1 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  model = nnx.merge(graph, jax.tree.unflatten(tree, noisy))
  # As in training, padding of the vocabulary has no gradient: it stays zero.
  real = jnp.arange(bert.padded_vocab(vocab_size)) < vocab_size
  word = model.embeddings.word.embedding
  word[...] = jnp.where(real[:, None], word[...], 0)
  if isinstance(model, bert.Bert):
    bias = model.head.bias
    bias[...] = jnp.where(real, bias[...], 0)
  return model


def logits(model, tokenizer, rows):
  """Of every position, by our encoder."""
  ids = jnp.asarray(rows, jnp.int32)
  segments = masking.segment(
    ids, tokenizer.special, attend_across=False, restart_positions=True
  )
  states = model.encode(ids, segments, plans.full(len(model.layers)))
  return np.asarray(model.predict(states))[..., : tokenizer.vocab_size]


def rows_of(tokenizer, texts, length):
  """[CLS] text [SEP] [PAD] ..., one text a row."""
  special = tokenizer.special
  rows = np.full((len(texts), length), special.pad)
  for row, ids in zip(rows, tokenizer.encode_batch(texts), strict=True):
    ids = ids[: length - 2]
    row[: len(ids) + 2] = [special.cls, *ids, special.sep]
  return rows


def make_run(path, config, tokenizer):
  """A workdir with two checkpoints, the first the better one; its model."""
  run = workdir.Workdir(path)
  prints = {'tokenizer': tokenizer.fingerprint, 'dataset': 'x'}
  run.claim(config, prints, tokenizer)
  model = randomized(config.model, tokenizer.vocab_size)
  params = nnx.split(model)[1]
  saved = checkpoint.Checkpoints(run.checkpoints, keep=2, keep_best=True)
  worse = jax.tree.map(lambda x: x + 1, params)
  for step, content, loss in ((10, params, 1.5), (20, worse, 2.5)):
    saved.save(step, {'params': content}, {}, eval_loss=loss, wait=True)
  saved.close()
  return run, model
