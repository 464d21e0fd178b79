import re
import types

import jax
import numpy as np
import pytest
from flax import nnx

from td_flax import errors, masking, pretrained
from td_flax.data import sentence_piece
from td_flax.dropping import plan as plans
from td_flax.model import bert
from td_flax.tasks import fill


@pytest.fixture(scope='module')
def tokenizer():
  corpus = [
    f'does {a} bark at it, or {b}? yes.' for a in 'abcdef' for b in 'ghijkl'
  ]
  return sentence_piece.train(
    corpus, kind='bpe', vocab_size=300, lowercase=True
  )


@pytest.fixture
def run(tmp_path, make_config, save_run, tokenizer):
  config = make_config()
  model = bert.Bert(config.model, tokenizer.vocab_size, nnx.Rngs(3))
  save_run(tmp_path / 'run', config, tokenizer, nnx.split(model)[1])
  return pretrained.find(str(tmp_path / 'run'), '--workdir'), model


def pieces(tokenizer, ids):
  return [tokenizer.piece(int(i)) for i in ids]


def test_a_mask_is_one_token_and_the_rest_is_cut_as_around_a_word(tokenizer):
  ids = fill.encode(tokenizer, '[MASK] bark at [MASK], or it?')
  (word,) = tokenizer.encode_batch(['it bark at it, or it?'])
  masked = [x if x != '▁it' else '[MASK]' for x in pieces(tokenizer, word)]
  masked[-2] = '▁it'  # is text
  assert pieces(tokenizer, ids) == masked


@pytest.mark.parametrize('text', ['un[MASK] bark', 'does [MASK]s', 'x[MASK]y'])
def test_a_mask_in_a_word_is_refused(text):
  # Pieces that reach over the edges of what stands for the mask.
  corpus = ['units bark xity', 'unit its xity'] * 50
  tokenizer = sentence_piece.train(
    corpus, kind='bpe', vocab_size=300, lowercase=True
  )
  with pytest.raises(errors.DataError, match='must stand between spaces'):
    fill.encode(tokenizer, text)


class Letters:
  """A token per character: no piece reaches over an edge."""

  special = types.SimpleNamespace(mask=4)

  def encode_with_offsets(self, texts):
    words = [re.finditer(r'it|\S', text) for text in texts]
    found = [[(ord(x[0][0]), x.span()) for x in text] for text in words]
    return [tuple(map(np.array, zip(*x, strict=True))) for x in found]


@pytest.mark.parametrize(
  'text', ['un[MASK]', '[MASK]ing', '[MASK][MASK]', '7[MASK]']
)
def test_a_mask_in_a_word_is_refused_whatever_the_pieces(text):
  with pytest.raises(errors.DataError, match='must stand between spaces'):
    fill.encode(Letters(), text)


@pytest.mark.parametrize(
  'text', ["[MASK]'s", '"[MASK]"-', '一[MASK]二', '_[MASK]']
)
def test_a_mask_beside_punctuation_or_chinese_is_a_word(text):
  ids = fill.encode(Letters(), text)
  assert ids.tolist() == [
    4 if x == '@' else ord(x) for x in text.replace('[MASK]', '@')
  ]


def test_white_space_before_a_mask_may_be_a_piece(tokenizer, monkeypatch):
  def pieces(texts):
    del texts
    return [(np.array([7, 8, 9]), np.array([[2, 2], [2, 4], [4, 5]]))]

  monkeypatch.setattr(tokenizer, 'encode_with_offsets', pieces)
  mask = tokenizer.special.mask
  assert fill.encode(tokenizer, 'a [MASK].').tolist() == [7, mask, 9]


def test_the_best_pieces_are_those_of_the_model(run, tokenizer):
  found, model = run
  first, second = fill.fill(found, 'does [MASK] bark at [MASK]?', count=3)
  ids = fill.encode(tokenizer, 'does [MASK] bark at [MASK]?').astype(np.int32)
  row = np.array([[2, *ids, 3]])
  segments = masking.segment(
    row, tokenizer.special, attend_across=False, restart_positions=True
  )
  states = model.encode(row, segments, plans.full(3))
  expected = np.asarray(jax.nn.softmax(model.predict(states)))[0]
  places = np.flatnonzero(row[0] == tokenizer.special.mask)
  for place, answers in zip(places, (first, second), strict=True):
    best = np.argsort(-expected[place])[:3]
    assert [x for x, _ in answers] == pieces(tokenizer, best)
    np.testing.assert_allclose(
      [p for _, p in answers], expected[place][best], rtol=1e-4
    )


def test_texts_that_cannot_be_filled_are_refused(run):
  found, _ = run
  with pytest.raises(errors.DataError, match=r'must have a \[MASK\]'):
    fill.fill(found, 'nothing is hidden')
  with pytest.raises(errors.DataError, match='the model takes 30'):
    fill.fill(found, 'does it bark ' * 30 + '[MASK]')
