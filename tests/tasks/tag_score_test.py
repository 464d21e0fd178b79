"""Entities in schemes of labels, and out of all of them."""

import pytest

from td_flax.tasks import tag_score


@pytest.mark.parametrize(
  ('labels', 'found'),
  [
    ('O O', set()),
    ('B-x I-x O', {(0, 1, 'x')}),
    ('B-x B-x', {(0, 0, 'x'), (1, 1, 'x')}),  # neighbours
    ('I-x I-x', {(0, 1, 'x')}),  # IOB1
    ('O I-x', {(1, 1, 'x')}),
    ('B-x I-y', {(0, 0, 'x'), (1, 1, 'y')}),  # another type begins
    ('S-x B-x E-x', {(0, 0, 'x'), (1, 2, 'x')}),  # IOBES
    ('B-x E-x I-x', {(0, 1, 'x'), (2, 2, 'x')}),
    ('B-a-b I-a-b', {(0, 1, 'a-b')}),
  ],
)
def test_entities_are_found(labels, found):
  assert tag_score.entities(labels.split()) == found


def test_words_and_type_must_be_right():
  gold = [['B-x', 'I-x', 'O', 'B-y'], ['B-x']]
  predicted = [['B-x', 'O', 'O', 'B-y'], ['B-y']]
  assert tag_score.entity_figures(gold, predicted) == {
    'precision': pytest.approx(1 / 3),
    'recall': pytest.approx(1 / 3),
    'f1': pytest.approx(1 / 3),
  }
  assert tag_score.entity_figures([['O']], [['O']])['f1'] == 0


def test_schemes_are_known_by_their_labels():
  assert tag_score.are_entities(['B-x', 'I-x', 'O'])
  assert tag_score.are_entities(['E-x', 'O', 'S-y'])
  assert not tag_score.are_entities(['NOUN', 'O'])
  assert not tag_score.are_entities(['B-'])
