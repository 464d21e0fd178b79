import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax.model import dropout as module

SIZE = 1 << 16


def kept(rate, seeds, rows=4):
  x = jnp.ones((rows, SIZE))
  return np.asarray(module.dropout(x, rate, seeds) != 0)


@pytest.fixture
def seeds():
  return module.seeds(jax.random.split(jax.random.key(0), 4))


def test_without_seeds_or_rate_nothing_happens(seeds):
  x = jnp.ones((4, 3))
  assert module.dropout(x, 0.1, None) is x
  assert module.dropout(x, 0.0, seeds) is x
  assert module.fold(None, 3) is None


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_kept(seeds, rate):
  x = jnp.ones((4, SIZE))
  dropped = np.asarray(module.dropout(x, rate, seeds))
  assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / (1 - rate))}
  deviation = np.sqrt(rate * (1 - rate) / SIZE)
  for row in dropped:
    assert abs((row == 0).mean() - rate) < 5 * deviation


def test_neighbours_rows_and_sites_are_independent(seeds):
  streams = {'itself': kept(0.5, seeds)}
  for lag in (1, 2, 3, 64, 768, 1024):
    streams[f'lag {lag}'] = np.roll(streams['itself'], lag, axis=1)
  streams['next row'] = np.roll(streams['itself'], 1, axis=0)
  for site in (0, 1, 37):
    streams[f'site {site}'] = kept(0.5, module.fold(seeds, site))
  other = module.seeds(jax.random.split(jax.random.key(1), 4))
  streams['other seed'] = kept(0.5, other)
  names = list(streams)
  for i, one in enumerate(names):
    for name in names[i + 1 :]:
      agree = (streams[one] == streams[name]).mean()
      assert abs(agree - 0.5) < 5 * 0.5 / np.sqrt(4 * SIZE), (one, name)


def test_a_row_draws_the_same_in_any_batch(seeds):
  np.testing.assert_array_equal(
    kept(0.1, seeds)[2:], kept(0.1, seeds[2:], rows=2)
  )
  np.testing.assert_array_equal(
    kept(0.1, module.fold(seeds, 5))[2:],
    kept(0.1, module.fold(seeds[2:], 5), rows=2),
  )


def test_gradients_flow_through_what_was_kept(seeds):
  x = jnp.ones((4, 100))
  grads = jax.grad(lambda x: module.dropout(x, 0.5, seeds).sum())(x)
  np.testing.assert_array_equal(grads, module.dropout(x, 0.5, seeds))


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_heads_draw_independently_and_keep_their_share(seeds, rate):
  weights = jnp.ones((4, 5, 64, 256))
  kept = np.asarray(module.attention_dropout(weights, rate, seeds) != 0)
  size, variance = kept[:, 0].size, rate * (1 - rate)
  for head in range(5):
    share = kept[:, head].mean()
    assert abs(share - (1 - rate)) < 5 * np.sqrt(variance / size)
    for other in range(head):
      both = ((kept[:, head] - share) * (kept[:, other] - share)).mean()
      assert abs(both) < 5 * variance / np.sqrt(size)
