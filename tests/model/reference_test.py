"""Against an independent BERT: transformers' PyTorch BertForMaskedLM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import masking
from td_flax.dropping import plan as plans
from td_flax.model import bert

torch = pytest.importorskip('torch', reason='needs the extra `reference`')
transformers = pytest.importorskip(
  'transformers', reason='needs the extra `reference`'
)

pytestmark = pytest.mark.hf
VOCAB = 300


def ours(make_config):
  """A model whose every parameter is random, norms and biases too."""
  config = dataclasses.replace(
    make_config().model, hidden_dim=32, num_heads=4, mlp_dim=64, num_layers=4
  )
  model = bert.Bert(config, VOCAB, nnx.Rngs(0))
  graph, params = nnx.split(model)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  leaves = [
    leaf + 0.1 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  return nnx.merge(graph, jax.tree.unflatten(tree, leaves))


def theirs(model):
  """The same parameters in transformers' model."""
  config = model.config
  reference = transformers.BertForMaskedLM(
    transformers.BertConfig(
      vocab_size=VOCAB,
      hidden_size=config.hidden_dim,
      num_hidden_layers=config.num_layers,
      num_attention_heads=config.num_heads,
      intermediate_size=config.mlp_dim,
      max_position_embeddings=config.max_positions,
      hidden_act='gelu_pytorch_tanh',
      layer_norm_eps=config.norm_eps,
      attn_implementation='eager',
    )
  ).eval()

  def copy(parameter, value):
    value = np.asarray(value)
    assert tuple(parameter.shape) == value.shape
    with torch.no_grad():
      parameter.copy_(torch.tensor(value))

  def dense(target, source):
    copy(target.weight, source.kernel[...].T)
    copy(target.bias, source.bias[...])

  def norm(target, source):
    copy(target.weight, source.scale[...])
    copy(target.bias, source.bias[...])

  embeddings = reference.bert.embeddings
  word = model.embeddings.word.embedding[...][:VOCAB]
  copy(embeddings.word_embeddings.weight, word)
  copy(
    embeddings.position_embeddings.weight,
    model.embeddings.position.embedding[...],
  )
  copy(
    embeddings.token_type_embeddings.weight,
    model.embeddings.type.embedding[...],
  )
  norm(embeddings.LayerNorm, model.embeddings.norm)
  for target, source in zip(
    reference.bert.encoder.layer, model.layers, strict=True
  ):
    attention = target.attention
    dense(attention.self.query, source.attention.query)
    dense(attention.self.key, source.attention.key)
    dense(attention.self.value, source.attention.value)
    dense(attention.output.dense, source.attention.output)
    norm(attention.output.LayerNorm, source.attention_norm)
    dense(target.intermediate.dense, source.mlp.inner)
    dense(target.output.dense, source.mlp.outer)
    norm(target.output.LayerNorm, source.mlp_norm)
  head = reference.cls.predictions
  dense(head.transform.dense, model.head.dense)
  norm(head.transform.LayerNorm, model.head.norm)
  copy(head.bias, model.head.bias[...][:VOCAB])
  assert head.decoder.weight is embeddings.word_embeddings.weight
  return reference


def logits_of_all_positions(model, ids, special):
  segments = masking.segment(
    jnp.asarray(ids, jnp.int32),
    special,
    attend_across=False,
    restart_positions=True,
  )
  states = model.encode(
    jnp.asarray(ids, jnp.int32), segments, plans.full(len(model.layers))
  )
  logits = model.predict(states)
  assert (logits[..., VOCAB:] < -1e30).all()
  return np.asarray(logits[..., :VOCAB]), segments


@pytest.fixture
def models(make_config):
  model = ours(make_config)
  return model, theirs(model)


def test_full_and_padded_rows_give_the_same_logits(models, special):
  model, reference = models
  ids = np.random.default_rng(0).integers(5, VOCAB, (4, 32))
  ids[:, 0] = special.cls
  for row, length in enumerate((32, 20, 7, 2)):
    ids[row, length - 1] = special.sep
    ids[row, length:] = special.pad
  logits, _ = logits_of_all_positions(model, ids, special)
  with torch.no_grad():
    expected = reference(
      input_ids=torch.tensor(ids),
      attention_mask=torch.tensor((ids != special.pad).astype(int)),
    ).logits.numpy()
  real = ids != special.pad
  np.testing.assert_allclose(logits[real], expected[real], atol=1e-4)


def test_packed_documents_give_the_logits_of_each_alone(
  models, special, make_rows
):
  model, reference = models
  ids = make_rows(4, vocab_size=VOCAB).astype(np.int64)
  logits, _ = logits_of_all_positions(model, ids, special)
  for document in (slice(0, 17), slice(17, 32)):
    with torch.no_grad():
      expected = reference(input_ids=torch.tensor(ids[:, document])).logits
    np.testing.assert_allclose(logits[:, document], expected.numpy(), atol=1e-4)
