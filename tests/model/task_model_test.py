"""Heads of tasks on the encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import masking
from td_flax.dropping import plan as plans
from td_flax.model import bert, task_model
from td_flax.model.dropout import seeds as make_seeds
from td_flax.model.task_model import FIRST, SPAN, TOKENS, Output, TaskModel

VOCAB = 300


@pytest.fixture
def make(make_config, special):
  def make(output, **changes):
    config = dataclasses.replace(make_config().model, **changes)
    return TaskModel(config, output, VOCAB, special, nnx.Rngs(0))

  return make


def rows(special, *lengths):
  """[CLS] words [SEP] words [SEP] [PAD]."""
  rng = np.random.default_rng(0)
  ids = np.full((len(lengths), 32), special.pad)
  for row, (first, second) in zip(ids, lengths, strict=True):
    end = first + second + 3
    row[:end] = rng.integers(5, VOCAB, end)
    row[0] = special.cls
    row[[first + 1, end - 1]] = special.sep
  return jnp.asarray(ids)


@pytest.mark.parametrize('norm', ['post', 'pre'])
def test_the_first_token_goes_through_pooler_and_classifier(
  make, special, norm
):
  model = make(Output(FIRST, 3), norm=norm)
  ids = rows(special, (4, 6), (9, 2))
  segments = masking.segment(
    ids, special, attend_across=False, restart_positions=True
  )
  types = jnp.array(
    [[0] * 6 + [1] * 7 + [0] * 19, [0] * 11 + [1] * 3 + [0] * 18]
  )
  # All positions of the last layer, where the model computes the first only.
  states = model.encode(ids, segments, plans.full(3), types=types)
  kernel, bias = model.pooler.kernel[...], model.pooler.bias[...]
  pooled = np.tanh(np.asarray(states[:, 0] @ kernel + bias[None]))
  kernel, bias = model.classifier.kernel[...], model.classifier.bias[...]
  expected = pooled @ kernel + bias[None]
  np.testing.assert_allclose(model(ids)[:, 0], expected, atol=1e-6)


def test_the_second_text_has_the_other_type(make, special):
  model = make(Output(TOKENS, 2))
  ids = rows(special, (4, 6))  # [CLS] 4 [SEP] 6 [SEP]: the second from 6 to 12
  table = model.embeddings.type.embedding
  before = model(ids)
  table[...] = table[...].at[1].add(jnp.arange(16.0))
  assert np.abs(model(ids) - before)[0, 6:13].max(axis=-1).min() > 1e-3
  single = ids.at[0, 6:].set(special.pad)
  before = model(single)
  table[...] = table[...].at[1].add(jnp.arange(16.0))
  np.testing.assert_array_equal(model(single), before)


def test_one_token_type_is_enough(make, special):
  model = make(Output(FIRST, 2), type_vocab_size=1)
  assert model(rows(special, (4, 6))).shape == (1, 1, 2)


def test_every_token_has_its_outputs(make, special):
  outputs = make(Output(TOKENS, 5))(rows(special, (4, 6), (9, 2)))
  assert outputs.shape == (2, 32, 5)
  assert outputs.dtype == jnp.float32


def test_padding_is_neither_the_end_nor_the_beginning_of_a_span(make, special):
  ids = rows(special, (4, 6), (9, 2))
  outputs = make(Output(SPAN))(ids)
  assert outputs.shape == (2, 2, 32)
  smallest = np.finfo(np.float32).min
  pads = np.broadcast_to((ids == special.pad)[:, None], outputs.shape)
  np.testing.assert_array_equal(outputs == smallest, pads)


def test_padding_changes_nothing(make, special):
  ids = rows(special, (4, 6))
  for output in (Output(FIRST, 2), Output(TOKENS, 2)):
    model = make(output)
    short = model(ids[:, :20])[:, :13]  # 13 tokens are no padding
    np.testing.assert_allclose(
      model(ids)[:, : short.shape[1]], short, atol=1e-6
    )


def test_dropout_is_between_pooler_and_classifier(make, special):
  model = make(Output(FIRST, 2), dropout=0.5)
  ids = rows(special, (4, 6))
  seeds = make_seeds(jax.random.split(jax.random.key(0), 1))
  assert np.abs(model(ids, seeds) - model(ids)).max() > 1e-4
  np.testing.assert_array_equal(model(ids, seeds), model(ids, seeds))


def test_its_encoder_has_the_names_of_a_masked_language_model(make, special):
  model = make(Output(FIRST, 2))
  mine = nnx.to_flat_state(nnx.split(model)[1])
  theirs = nnx.to_flat_state(bert.abstract_params(model.config, VOCAB))
  only_mine = {path[0] for path, _ in mine} - {path[0] for path, _ in theirs}
  only_theirs = {path[0] for path, _ in theirs} - {path[0] for path, _ in mine}
  assert only_mine == {'pooler', 'classifier'}
  assert only_theirs == {'head'}


def test_the_last_layer_computes_what_is_read(make_config):
  config = make_config().model
  first = task_model.plan(config, Output(FIRST, 2))
  assert list(plans.shapes(first, 32)) == [(32, 32), (32, 32), (1, 32)]
  span = task_model.plan(config, Output(SPAN))
  assert list(plans.shapes(span, 32)) == [(32, 32)] * 3
