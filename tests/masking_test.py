import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from td_flax import masking

VOCAB = 300


def segment(ids, special, *, across=False, restart=True):
  return masking.segment(
    jnp.asarray(ids, jnp.int32),
    special,
    attend_across=across,
    restart_positions=restart,
  )


def mask(ids, special, *, rate=0.15, seed=0, step=0, first=0, vocab=VOCAB):
  ids = jnp.asarray(ids, jnp.int32)
  rows = first + jnp.arange(len(ids))
  keys = masking.row_keys(jax.random.key(seed), step, rows)
  return masking.mask(
    ids,
    segment(ids, special),
    keys,
    mask_rate=rate,
    vocab_size=vocab,
    special=special,
  )


@pytest.mark.smoke
def test_documents_and_positions_are_derived_from_cls(special):
  ids = [[2, 9, 9, 3, 2, 8, 3, 0], [9, 3, 2, 8, 8, 3, 0, 0]]
  segments, positions = segment(ids, special)
  assert segments.tolist() == [
    [1, 1, 1, 1, 2, 2, 2, 0],
    [1, 1, 2, 2, 2, 2, 0, 0],
  ]
  assert positions[:, :6].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 0, 1, 2, 3]]


def test_both_are_switchable(special):
  ids = [[2, 9, 9, 3, 2, 8, 3, 0]]
  segments, positions = segment(ids, special, across=True, restart=False)
  assert segments.tolist() == [[1, 1, 1, 1, 1, 1, 1, 0]]
  assert positions.tolist() == [list(range(8))]


@hypothesis.settings(max_examples=20)
@hypothesis.given(
  lengths=st.lists(st.integers(0, 29), min_size=4, max_size=4),
  seed=st.integers(0, 100),
)
def test_the_predicted_positions_obey_their_laws(lengths, seed):
  special = masking.SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
  rng = np.random.default_rng(seed)
  ids = np.zeros((4, 31), np.int32)
  for row, length in zip(ids, lengths, strict=True):
    row[: length + 2] = [2, *rng.integers(5, VOCAB, length), 3]
  batch = mask(ids, special, seed=seed)
  positions = np.asarray(batch.predicted.positions)
  weights = np.asarray(batch.weights)
  labels = np.asarray(batch.labels)
  shown = np.asarray(batch.ids)
  assert positions.shape == (4, 4)  # P = floor(0.15 * 31)
  for row, length in enumerate(lengths):
    assert (np.diff(positions[row]) > 0).all()
    expected = min(length, max(1, int(0.15 * (length + 2))))
    assert weights[row].sum() == expected
    chosen = positions[row][weights[row] > 0]
    assert (ids[row, chosen] >= 5).all()  # never a special
    np.testing.assert_array_equal(labels[row], ids[row, positions[row]])
    others = np.delete(np.arange(31), chosen)
    np.testing.assert_array_equal(shown[row, others], ids[row, others])


def test_a_full_row_predicts_exactly_p(special, make_rows):
  batch = mask(make_rows(64, length=512), special)
  assert batch.labels.shape == (64, 76)
  np.testing.assert_array_equal(batch.weights, np.ones((64, 76)))


def test_of_the_predicted_80_10_10_are_masked_random_and_kept(
  special, make_rows
):
  ids = make_rows(1500, length=512, vocab_size=VOCAB)
  batch = mask(ids, special)
  shown = np.take_along_axis(
    np.asarray(batch.ids), np.asarray(batch.predicted.positions), 1
  )
  count = shown.size  # 114,000 predictions
  masked = (shown == special.mask).mean()
  kept = (shown == np.asarray(batch.labels)).mean()
  bound = 5 * np.sqrt(0.25 / count)
  assert abs(masked - 0.8) < bound
  # One random replacement in 295 happens to be the token itself.
  assert abs(kept - (0.1 + 0.1 / 295)) < bound
  assert ((shown == special.mask) | (shown >= 5)).all()


def test_every_position_is_predicted_equally_often(special):
  ids = np.full((4000, 22), 9)
  ids[:, 0], ids[:, -1] = special.cls, special.sep
  batch = mask(ids, special, rate=0.3)
  count = np.bincount(
    np.asarray(batch.predicted.positions).ravel(), minlength=22
  )
  share = count / len(ids)
  assert share[0] == share[-1] == 0
  np.testing.assert_allclose(
    share[1:-1], 6 / 20, atol=5 * np.sqrt(0.25 / len(ids))
  )


def test_random_replacements_cover_the_ordinary_ids_alone():
  special = masking.SpecialIds(pad=7, unk=0, cls=3, sep=9, mask=5)
  ids = np.full((4000, 22), 8)
  ids[:, 0], ids[:, -1] = special.cls, special.sep
  batch = mask(ids, special, rate=0.9, vocab=12)
  drawn = set(np.unique(np.asarray(batch.ids)[:, 1:-1]).tolist())
  assert drawn == {1, 2, 4, 6, 8, 10, 11, special.mask}


@pytest.mark.smoke
def test_a_rows_mask_depends_on_seed_step_and_row_alone(special, make_rows):
  ids = make_rows(8)
  whole = mask(ids, special, seed=3, step=5)
  part = mask(ids[6:], special, seed=3, step=5, first=6)
  np.testing.assert_array_equal(whole.ids[6:], part.ids)
  np.testing.assert_array_equal(
    whole.predicted.positions[6:], part.predicted.positions
  )
  for other in (
    mask(ids, special, seed=4, step=5),
    mask(ids, special, seed=3, step=6),
    mask(ids, special, seed=3, step=5, first=1),
  ):
    assert (whole.predicted.positions != other.predicted.positions).any()


def test_special_ids_are_the_tokenizers(special, make_rows):
  moved = dataclasses.replace(special, mask=150, cls=151)
  ids = make_rows(4).astype(np.int32)
  ids[ids == 2] = 151
  batch = mask(ids, moved)
  assert (np.asarray(batch.ids) == 150).sum() > (ids == 150).sum()
  np.testing.assert_array_equal(
    segment(ids, moved).segments, segment(make_rows(4), special).segments
  )
