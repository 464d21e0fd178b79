import numpy as np
import pytest

from td_flax import errors
from td_flax.insight import probe, words

WORDS, CLASSES = 1200, 5


@pytest.fixture
def planted():
  """States of four layers; a class is a direction of the third one's only."""
  rng = np.random.default_rng(0)
  classes = rng.integers(0, CLASSES, WORDS)
  probed = probe.Probed(
    chosen=np.ones((1, WORDS), bool),
    ids=rng.integers(0, 50, WORDS),
    classes=classes,
    held_out=np.arange(WORDS) % 4 == 0,
  )
  layers = rng.normal(size=(4, WORDS, 16)).astype(np.float32)
  directions = rng.normal(size=(CLASSES, 16))
  layers[2] += 3 * directions[classes]
  return probed, layers


def tagged(words_, classes, sentences):
  rows = np.arange(5, 5 + len(words_), dtype=np.uint16)[None]
  return words.Words(
    rows, np.array([words_]), np.array(classes), np.array(sentences), ['a', 'b']
  )


def test_the_layer_that_knows_the_class_is_found(planted):
  probed, layers = planted
  found = [probe.correct(x, probed).mean() for x in layers]
  chance = probe.baselines(probed)['majority']
  assert found[2] > 0.95
  for layer in (0, 1, 3):
    assert abs(found[layer] - chance) < 0.1


def test_shuffled_classes_are_not_told(planted):
  probed, layers = planted
  shuffled = np.random.default_rng(1).permutation(probed.classes)
  found = probe.correct(layers[2], probed._replace(classes=shuffled)).mean()
  assert abs(found - 1 / CLASSES) < 0.06


def test_scale_and_constant_features_do_not_matter(planted):
  probed, layers = planted
  scaled = 1e3 * layers[2] + 7
  scaled = np.concatenate([scaled, np.full((WORDS, 1), 9, np.float32)], 1)
  np.testing.assert_array_equal(
    probe.correct(scaled, probed), probe.correct(layers[2], probed)
  )


@pytest.mark.hf
def test_the_fit_is_that_of_scikit_learn(planted):
  linear = pytest.importorskip(
    'sklearn.linear_model', reason='needs the extra `reference`'
  )
  probed, layers = planted
  x = layers[2] / layers[2].std()
  # Classes that are not quite told, so that the minimum is no flat one.
  y = np.where(np.arange(WORDS) % 2, probed.classes, probed.ids % CLASSES)
  weights, bias = probe.fit(x, y)
  theirs = linear.LogisticRegression(tol=1e-6, max_iter=1000)
  theirs.fit(x, y)
  np.testing.assert_allclose(weights, theirs.coef_.T, atol=5e-3)
  # Biases are not penalised: only their differences are determined.
  np.testing.assert_allclose(
    bias[0] - bias.mean(),
    theirs.intercept_ - theirs.intercept_.mean(),
    atol=5e-3,
  )


def test_baselines_know_frequencies_and_tokens():
  held_out = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1], bool)
  probed = probe.Probed(
    chosen=np.ones((1, 9), bool),
    ids=np.array([7, 7, 7, 8, 8, 7, 7, 8, 9]),
    classes=np.array([0, 0, 1, 1, 1, 0, 1, 1, 1]),
    held_out=held_out,
  )
  # Class 1 is the most frequent; token 7 is mostly 0, 8 is 1, 9 is unseen.
  assert probe.baselines(probed) == {'majority': 0.75, 'token': 0.75}


def test_a_quarter_of_the_sentences_is_held_out_whole():
  count = 40
  sentences = np.arange(count) // 5
  found = probe.choose(tagged(range(count), [0, 1] * (count // 2), sentences))
  held_out = {int(x) for x in sentences[found.held_out]}
  assert len(held_out) == 2
  assert not held_out & {int(x) for x in sentences[~found.held_out]}


def test_a_word_is_probed_once_at_its_first_token():
  # Word 0 has two tokens, word 1 one; then marks; word 1 goes on; word 3.
  found = probe.choose(
    tagged(
      [-1, 0, 0, 1, -1, -1, 1, 2, 2, 3], [0, 1, 0, 1], sentences=[0, 1, 2, 3]
    )
  )
  np.testing.assert_array_equal(np.flatnonzero(found.chosen[0]), [1, 3, 7, 9])
  np.testing.assert_array_equal(found.classes, [0, 1, 0, 1])


@pytest.mark.parametrize(
  ('classes', 'sentences'), [([0, 1, 1, 0], [0, 0, 1, 2]), ([1] * 4, range(4))]
)
def test_too_few_words_are_refused(classes, sentences):
  with pytest.raises(errors.DataError, match='needs at least 4, of two'):
    probe.choose(tagged(range(4), classes, list(sentences)))
