"""Batches of a few lengths: what is cut off is padding, and changes nothing."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from td_flax import parallel
from td_flax.config import ParallelConfig
from td_flax.data.pipeline import Pipeline
from td_flax.devices import OneDevice
from td_flax.model.task_model import FIRST, SPAN, TOKENS, Output
from td_flax.tasks import lengths
from td_flax.tasks.learner import TaskLearner
from td_flax.tasks.predictor import Predictor
from td_flax.tasks.task import Encoded

VOCAB, FULL = 300, 64
OUTPUTS = {
  'classes': Output(FIRST, 3),
  'tokens': Output(TOKENS, 4),
  'span': Output(SPAN),
}


def examples(special, output, needed):
  rng = np.random.default_rng(0)
  ids = np.full((len(needed), FULL), special.pad, np.uint16)
  columns = {FIRST: 1, SPAN: 2, TOKENS: FULL}[output.reads]
  labels = np.full((len(needed), columns), -1, np.int32)
  for row, label, n in zip(ids, labels, needed, strict=True):
    row[:n] = [special.cls, *rng.integers(5, VOCAB, n - 2), special.sep]
    label[:n] = rng.integers(0, min(n, max(output.size, 2)), label[:n].shape)
  return Encoded(ids, labels)


@pytest.fixture
def config(make_config):
  return make_config(
    data__sequence_length=FULL,
    model__max_positions=FULL,
    model__dropout=0.1,
    train__num_steps=25,
  )


@pytest.mark.parametrize(
  ('length', 'attention', 'expected'),
  [
    (128, 'auto', (16, 32, 48, 64, 96, 128)),
    (384, 'plain', (48, 96, 144, 192, 288, 384)),
    (64, 'auto', (16, 32, 48, 64)),
    (100, 'auto', (100,)),
    (128, 'rows', (128,)),
  ],
)
def test_lengths_are_parts_of_the_full_one(
  make_config, length, attention, expected
):
  config = make_config(
    data__sequence_length=length,
    model__max_positions=length,
    model__attention=attention,
  )
  assert lengths.choices(config) == expected


@pytest.mark.parametrize('name', ['classes', 'tokens'])
def test_a_batch_loses_nothing_but_padding(config, special, name, monkeypatch):
  monkeypatch.setattr(lengths, '_STEPS_AT_ONCE', 10)
  output = OUTPUTS[name]
  needed = np.random.default_rng(0).integers(3, 36, 40)
  train = examples(special, output, needed)
  np.testing.assert_array_equal(lengths.needed(train.ids, special.pad), needed)
  task = types.SimpleNamespace(output=output, train=train)
  batches = lengths.Batches(task, config, special.pad)
  plain = Pipeline(lengths._Rows(train), seed=0, batch_size=8)
  for step in range(25):
    found, whole = batches.batch(step), plain.batch(step)
    length = batches.lengths[step]
    longest = needed[plain.indices(step)].max()
    assert length == (32 if longest <= 32 else 48)
    np.testing.assert_array_equal(found.ids, whole.ids[:, :length])
    assert (whole.ids[:, length:] == special.pad).all()
    labels = whole.labels[:, :length]
    np.testing.assert_array_equal(found.labels, labels)
    # As long in every process, whatever is in its part of the batch.
    part = batches.batch(step, 4, 8)
    np.testing.assert_array_equal(part.ids, found.ids[4:])
  assert {*batches.lengths} == {32, 48}


@pytest.mark.parametrize('name', OUTPUTS)
def test_an_update_is_the_same_without_padding(config, special, name):
  output = OUTPUTS[name]
  batch = examples(special, output, [3, 32, 9, 17, 30, 4, 11, 25])
  labels = batch.labels[:, :32]
  results = []
  for length, rows in ((64, batch), (32, Encoded(batch.ids[:, :32], labels))):
    data = dataclasses.replace(config.data, sequence_length=length)
    learner = TaskLearner(
      dataclasses.replace(config, data=data),
      output,
      VOCAB,
      special,
      OneDevice(),
    )
    state = learner.init(np.zeros(1, np.float32))
    measured = jax.jit(learner.train)(state, rows)[1]
    results.append({key: float(x) for key, x in measured.items()})
  assert results[1] == pytest.approx(results[0], rel=1e-5)


@pytest.mark.parametrize('name', OUTPUTS)
def test_predictions_keep_their_order_and_shape(
  config, special, name, monkeypatch
):
  output = OUTPUTS[name]
  needed = np.random.default_rng(1).integers(3, 65, 21)
  rows = examples(special, output, needed)
  devices = parallel.make(ParallelConfig(num_devices=2))
  learner = TaskLearner(config, output, VOCAB, special, devices)
  fresh = jax.device_get(jax.jit(learner.init)(np.zeros(1, np.float32)))
  params = devices.place(fresh.params)
  found = Predictor(learner, devices)(params, rows)
  monkeypatch.setattr(lengths, 'choices', lambda _: (FULL,))
  expected = Predictor(learner, devices)(params, rows)
  if output.reads == TOKENS:  # of padding, outputs mean nothing
    real = rows.ids != special.pad
    found, expected = found[real], expected[real]
  np.testing.assert_allclose(found, expected, atol=1e-5)
