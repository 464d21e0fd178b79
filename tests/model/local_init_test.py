import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import errors, masking
from td_flax.dropping import plan as plans
from td_flax.model import bert

VOCAB = 300
WIDTHS = {'hidden_dim': 128, 'num_heads': 4, 'mlp_dim': 256, 'num_layers': 3}


def make(config, **changes):
  changes = WIDTHS | {'init': 'local', 'max_positions': 128} | changes
  model_config = dataclasses.replace(config.model, **changes)
  return bert.Bert(model_config, VOCAB, nnx.Rngs(0))


def attended(model, ids, special):
  """Where every head of every layer looks most: [layers][B, N, H]."""
  found = []
  segments = masking.segment(
    ids, special, attend_across=False, restart_positions=True
  )
  states = model.states(ids, segments, plans.full(len(model.layers)))
  heads = model.config.num_heads
  for x, layer in zip(states, model.layers, strict=False):
    if model.config.norm == 'pre':
      x = layer.attention_norm(x)
    query, key = (
      dense(x).reshape(*x.shape[:2], heads, -1)
      for dense in (layer.attention.query, layer.attention.key)
    )
    scores = jnp.einsum('bqhe,bkhe->bqkh', query, key)
    found.append(np.asarray(scores.argmax(2)))
  return found


@pytest.fixture
def ids(special):
  words = np.random.default_rng(0).integers(10, VOCAB, (4, 128))
  words[:, 0], words[:, -1] = special.cls, special.sep
  return jnp.asarray(words, jnp.int32)


@pytest.mark.parametrize('norm', ['post', 'pre'])
@pytest.mark.parametrize('shape', [(128, 4), (256, 4), (384, 12)])
def test_heads_look_at_their_neighbours(make_config, special, ids, norm, shape):
  width, heads = shape
  model = make(make_config(), norm=norm, hidden_dim=width, num_heads=heads)
  for i, where in enumerate(attended(model, ids, special)):
    for head in range(heads):
      offset = (head // 2 + i + 1) * (1 if head % 2 else -1)
      inside = slice(max(0, -offset), 128 - max(0, offset))
      hits = where[:, inside, head] == (np.arange(128) + offset)[inside]
      assert hits.mean() > 0.9


def test_random_heads_do_not(make_config, special, ids):
  model = make(make_config(), init='random')
  (where, *_) = attended(model, ids, special)
  assert (where[:, 1:, 0] == np.arange(127)).mean() < 0.1


def test_layers_add_nothing_yet_and_words_are_as_drawn(
  make_config, special, ids
):
  local = make(make_config())
  random = make(make_config(), init='random')
  segments = masking.segment(
    ids, special, attend_across=False, restart_positions=True
  )
  first, *others = local.states(ids, segments, plans.full(3))
  for x in others[:-1]:
    np.testing.assert_allclose(x, first, atol=1e-5)
  np.testing.assert_array_equal(
    local.embeddings.word.embedding[...], random.embeddings.word.embedding[...]
  )


def test_an_odd_width_of_heads_is_refused(make_config):
  with pytest.raises(errors.ConfigError, match=r'model\.init=') as refused:
    make_config(model__hidden_dim=15, model__num_heads=3, model__init='local')
  assert 'come in pairs' in str(refused.value)
