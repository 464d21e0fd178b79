"""One update of a task: losses, labels that are left out, devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax import parallel
from td_flax.config import ParallelConfig
from td_flax.devices import OneDevice
from td_flax.model.task_model import FIRST, SPAN, TOKENS, Output
from td_flax.tasks.learner import TaskLearner, compare
from td_flax.tasks.predictor import Predictor
from td_flax.tasks.task import Encoded

VOCAB = 300
OUTPUTS = {
  'classes': Output(FIRST, 3),
  'number': Output(FIRST, 1, is_regression=True),
  'tokens': Output(TOKENS, 4),
  'span': Output(SPAN),
}


def examples(make_rows, output, count=8):
  rng = np.random.default_rng(1)
  ids = make_rows(count)
  if output.is_regression:
    labels = rng.normal(size=(count, 1)).astype(np.float32)
  else:
    shape, high = {
      FIRST: ((count, 1), output.size),
      TOKENS: ((count, 32), output.size),
      SPAN: ((count, 2), 32),
    }[output.reads]
    labels = rng.integers(-1, high, shape).astype(np.int32)
  return Encoded(ids, labels)


@pytest.fixture
def make(make_config, special):
  def make(output, devices=None, **changes):
    config = make_config(**changes)
    return TaskLearner(config, output, VOCAB, special, devices or OneDevice())

  return make


def state_of(learner):
  return learner.init(np.zeros(1, np.float32))


def test_cross_entropy_leaves_out_what_has_no_label():
  outputs = jnp.array([[[2.0, 0.0], [0.0, 1.0]]])
  losses, correct, weights = compare(
    Output(TOKENS, 2), outputs, jnp.array([[1, -1]])
  )
  assert losses[0, 0] == pytest.approx(np.log(1 + np.exp(2.0)), rel=1e-6)
  assert weights.tolist() == [[1, 0]]
  assert not correct[0, 0]


def test_a_regression_has_squared_errors_and_nothing_correct():
  losses, correct, weights = compare(
    Output(FIRST, 1, is_regression=True),
    jnp.array([[[1.5]], [[-1.0]]]),
    jnp.array([[1.0], [-1.0]]),
  )
  assert losses.tolist() == [[0.25], [0.0]]
  assert weights.tolist() == [[1.0], [1.0]]
  assert jnp.isnan(correct).all()


@pytest.mark.parametrize('name', OUTPUTS)
def test_labels_are_learned(make, make_rows, name):
  output = OUTPUTS[name]
  learner = make(output, train__num_steps=60)
  batch = examples(make_rows, output)
  state, step = state_of(learner), jax.jit(learner.train)
  losses = []
  for _ in range(60):
    state, measured = step(state, batch)
    losses.append(float(measured['loss_sum'] / measured['weight']))
  assert losses[-1] < 0.7 * losses[0]
  assert measured['skipped'] == 0


@pytest.mark.parametrize(
  ('engine', 'name'),
  [*(('pmap', name) for name in OUTPUTS), ('sharded', 'tokens')],
)
def test_eight_devices_learn_and_predict_as_one(make, make_rows, engine, name):
  output = OUTPUTS[name]
  changes = {'model__dropout': 0.1, 'model__attention_dropout': 0.1}
  batch = examples(make_rows, output, 16)
  results = []
  for count in (1, 8):
    devices = parallel.make(ParallelConfig(engine=engine, num_devices=count))
    learner = make(
      output, devices, train__batch_size=16, train__microbatches=2, **changes
    )
    fresh = jax.device_get(learner.init(np.zeros(1, np.float32)))
    state = devices.place(fresh)
    step = devices.compile_train(learner.train, state, learner.batch)
    for _ in range(2):
      state, measured = step(state, devices.split(batch))
    some = Encoded(batch.ids[:13], batch.labels[:13])
    outputs = Predictor(learner, devices)(state.params, some)
    assert outputs.shape[0] == 13
    if output.reads == SPAN:  # a bias that all tokens share means nothing
      outputs -= outputs.max(axis=-1, keepdims=True)
      outputs = np.maximum(outputs, -100)
    results.append((float(measured['loss_sum']), outputs))
  (loss, outputs), (loss_8, outputs_8) = results
  assert loss_8 == pytest.approx(loss, rel=1e-5)
  np.testing.assert_allclose(outputs_8, outputs, atol=2e-4)


def test_predictions_do_not_depend_on_the_batch(make, make_rows):
  output = OUTPUTS['classes']
  devices = parallel.make(ParallelConfig(num_devices=1))
  batch = examples(make_rows, output, 11)
  found = []
  for size in (3, 8, 16):
    learner = make(output, devices, eval__batch_size=size)
    params = devices.place(jax.device_get(state_of(learner)).params)
    predict = Predictor(learner, devices)
    found.append(predict(params, batch))
    losses = compare(output, jnp.asarray(found[-1]), batch.labels)
    mean = float(jnp.sum(losses[0] * losses[2]) / jnp.sum(losses[2]))
    assert predict.loss(batch, found[-1]) == pytest.approx(mean, rel=1e-6)
  np.testing.assert_allclose(found[1], found[0], atol=1e-6)
  np.testing.assert_allclose(found[2], found[0], atol=1e-6)


def test_a_loss_without_labels_is_nan(make, make_rows):
  devices = parallel.make(ParallelConfig(num_devices=1))
  learner = make(OUTPUTS['classes'], devices)
  unlabeled = Encoded(make_rows(2), np.full((2, 1), -1, np.int32))
  outputs = np.zeros((2, 1, 3), np.float32)
  assert np.isnan(Predictor(learner, devices).loss(unlabeled, outputs))


def test_dropout_is_of_training_alone(make, make_rows):
  learner = make(OUTPUTS['classes'], model__dropout=0.5)
  batch, state = examples(make_rows, OUTPUTS['classes']), None
  state = state_of(learner)
  first = learner.train(state, batch)[1]['loss_sum']
  later = learner.train(dataclasses.replace(state, step=jnp.int32(1)), batch)[1]
  assert first != later['loss_sum']
  one = learner.predict(state.params, batch.ids, jnp.int32(0))
  two = learner.predict(state.params, batch.ids, jnp.int32(0))
  np.testing.assert_array_equal(one, two)
