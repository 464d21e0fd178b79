import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax.dropping import importance


def keys(rows, seed=0):
  return jax.random.split(jax.random.key(seed), rows)


def kept_ids(ids, score, k, special, noise=0.0, seed=0):
  ids = jnp.asarray(ids)
  route = importance.select(
    jnp.asarray(score, jnp.float32),
    ids,
    keys(len(ids), seed),
    k,
    special=special,
    noise=noise,
  )
  return np.take_along_axis(np.asarray(ids), np.asarray(route.positions), 1)


@pytest.mark.smoke
def test_pins_are_kept_whatever_the_scores_say(special):
  ids = [[2, 10, 11, 4, 12, 13, 1, 3, 0, 0]]
  score = [[-9.0, 5, 6, -9, 7, 8, -9, -9, 99, 99]]
  assert kept_ids(ids, score, 6, special).tolist() == [[2, 4, 12, 13, 1, 3]]


def test_pins_that_do_not_fit_are_kept_in_the_documented_order(special):
  # [UNK] [SEP] [MASK] [CLS] [MASK] and text that scores higher
  ids = [[1, 3, 4, 2, 4, 50]]
  score = [[0.0, 0, 0, 0, 0, 9]]
  kept = [
    set(kept_ids(ids, score, k, special)[0].tolist()) for k in range(1, 6)
  ]
  assert kept == [{2}, {2, 4}, {2, 4}, {2, 4, 3}, {2, 4, 3, 1}]


def test_padding_is_never_kept_before_text(special):
  ids = [[2, 10, 3, 0, 0, 0]]
  score = [[0.0, -50, 0, 10, 10, 10]]
  assert kept_ids(ids, score, 3, special).tolist() == [[2, 10, 3]]
  # Where a row has fewer real tokens than k, padding fills it.
  assert kept_ids(ids, score, 5, special).tolist() == [[2, 10, 3, 0, 0]]


def test_special_ids_come_from_the_tokenizer(special):
  elsewhere = dataclasses.replace(
    special, pad=95, unk=96, cls=97, sep=98, mask=99
  )
  ids = [[97, 2, 99, 4, 98, 95]]
  score = [[-9.0, 1, -9, 2, -9, 9]]
  assert kept_ids(ids, score, 4, elsewhere).tolist() == [[97, 99, 4, 98]]


def test_equal_scores_favour_no_position(special):
  rows, n, k = 2000, 20, 10
  ids = np.full((rows, n), 7)
  route = importance.select(
    jnp.zeros((rows, n)),
    jnp.asarray(ids),
    keys(rows),
    k,
    special=special,
    noise=0.0,
  )
  share = np.asarray(route.kept).mean(axis=0)
  # Five standard deviations of a binomial share with p = 1/2.
  np.testing.assert_allclose(share, k / n, atol=5 * np.sqrt(0.25 / rows))


def test_ties_are_a_function_of_the_rows_key_alone(special):
  ids = jnp.full((4, 16), 7)
  score = jnp.zeros((4, 16))
  select = lambda ids, score, keys: importance.select(  # noqa: E731
    score, ids, keys, 8, special=special, noise=0.0
  )
  together = select(ids, score, keys(4))
  alone = select(ids[2:3], score[2:3], keys(4)[2:3])
  np.testing.assert_array_equal(together.positions[2:3], alone.positions)
  assert (together.positions[0] != together.positions[1]).any()


def test_noise_explores_in_proportion_to_its_scale(special):
  rows, n = 3000, 3
  ids = np.full((rows, n), 7)
  score = np.tile([2.0, 1.0, 0.0], (rows, 1))

  def share_of_first(noise):
    route = importance.select(
      jnp.asarray(score),
      jnp.asarray(ids),
      keys(rows),
      1,
      special=special,
      noise=noise,
    )
    return np.asarray(route.kept)[:, 0].mean()

  assert share_of_first(0.0) == 1
  # Gumbel noise of scale 1 samples from the softmax of the scores.
  softmax = np.exp(2) / np.exp([2, 1, 0]).sum()
  assert abs(share_of_first(1.0) - softmax) < 5 * np.sqrt(0.25 / rows)


def test_an_id_that_occurs_often_counts_by_its_mean():
  labels = jnp.array([[7, 8, 7, 7]])
  losses = jnp.array([[1.0, 4.0, 2.0, 6.0]])
  sums = importance.id_sums(labels, losses, jnp.ones((1, 4)), 10)
  table = importance.update(jnp.full(10, 10.0), sums, beta=0.9)
  assert table[7] == pytest.approx(0.9 * 10 + 0.1 * 3.0)
  assert table[8] == pytest.approx(0.9 * 10 + 0.1 * 4.0)
  untouched = np.delete(np.asarray(table), [7, 8])
  np.testing.assert_array_equal(untouched, np.full(8, 10.0, np.float32))


def test_a_tpu_sums_by_id_without_a_scatter():
  rng = np.random.default_rng(0)
  labels = jnp.asarray(rng.integers(0, 300, (4, 50)).astype(np.int32))
  labels = labels.at[:, :3].set(299).at[0, -1].set(0)
  losses = jnp.asarray(rng.normal(size=(4, 50)).astype(np.float32))
  weights = jnp.asarray(rng.integers(0, 2, (4, 50)).astype(np.float32))
  values = jnp.stack([losses * weights, weights]).reshape(2, -1)
  found, expected = (
    sum_(labels.reshape(-1), values, vocab_size=300)
    for sum_ in (importance._multiply, importance._scatter)
  )
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(found[1], expected[1])
  sums = jax.jit(functools.partial(importance.id_sums, vocab_size=300))
  traced = sums.trace(labels, losses, weights)
  for platform, scatters in (('tpu', 0), ('cpu', 2)):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count('"stablehlo.scatter"(') == scatters


def test_slots_without_a_prediction_change_nothing():
  labels = jnp.array([[0, 7]])
  sums = importance.id_sums(
    labels, jnp.array([[9.0, 5.0]]), jnp.array([[0.0, 1.0]]), 10
  )
  table = importance.update(jnp.full(10, 10.0), sums, beta=0.5)
  assert table[0] == 10
  assert table[7] == 7.5
