"""SQuAD's evaluation on cases worked out by hand."""

import pytest

from td_flax.tasks import squad_score


@pytest.mark.parametrize(
  ('text', 'normal'),
  [
    ('The  Cat,\tsat.', 'cat sat'),
    ('an apple a day', 'apple day'),
    ('Theatre and Anthem', 'theatre and anthem'),
    ("the King's", 'kings'),
    ('U.S.A.', 'usa'),
    ('twenty-one', 'twentyone'),
    ('the', ''),
    ('“quoted”', '“quoted”'),  # only ASCII punctuation is removed
  ],
)
def test_answers_are_normalized(text, normal):
  assert squad_score.normalize(text) == normal


@pytest.mark.parametrize(
  ('predicted', 'gold', 'exact', 'f1'),
  [
    ('the Normans', 'Normans', 1, 1),
    ('Normans.', 'normans', 1, 1),
    ('in 1066', '1066', 0, 2 / 3),
    ('10th and 11th', '10th and 11th centuries', 0, 6 / 7),
    ('a b b', 'b b c', 0, 4 / 5),  # `a` is an article
    ('x x', 'x', 0, 2 / 3),
    ('cat', 'dog', 0, 0),
    ('', '', 1, 0),
    ('the', 'a', 1, 0),
    ('cat', '', 0, 0),
    ('', 'cat', 0, 0),
  ],
)
def test_a_pair_is_scored(predicted, gold, exact, f1):
  assert squad_score.exact(predicted, gold) == exact
  assert squad_score.f1(predicted, gold) == pytest.approx(f1)


def test_the_best_of_several_answers_counts():
  figures = squad_score.score(
    {'q': 'in the tenth century', 'r': 'x'},
    {'q': ['10th', 'tenth century'], 'r': ['y', 'x']},
  )
  assert figures == {
    'exact': 0.5,
    'f1': pytest.approx((4 / 5 + 1) / 2),
  }


def test_questions_without_an_answer_want_none():
  figures = squad_score.score(
    {'a': 'cat', 'b': '', 'c': 'dog', 'd': ''},
    {'a': ['cat'], 'b': ['cat'], 'c': [], 'd': []},
    has_nulls=True,
  )
  assert figures == {
    'exact': 0.5,
    'f1': 0.5,
    'has_answer_exact': 0.5,
    'has_answer_f1': 0.5,
    'no_answer_exact': 0.5,
  }
  assert squad_score.score({'a': ''}, {'a': []}, has_nulls=True) == {
    'exact': 1,
    'f1': 1,
    'has_answer_exact': 0,
    'has_answer_f1': 0,
    'no_answer_exact': 1,
  }


def test_versions_differ_in_answers_of_articles_alone():
  predicted = {'a': 'the', 'b': 'a cat', 'c': ''}
  answers = {'a': ['an'], 'b': ['the', 'dog'], 'c': ['a', 'dog']}
  assert squad_score.score(predicted, answers) == {
    'exact': pytest.approx(2 / 3),
    'f1': 0,
  }
  figures = squad_score.score(predicted, answers, has_nulls=True)
  assert figures['exact'] == figures['f1'] == pytest.approx(1 / 3)


def test_without_a_right_answer_none_is_right():
  figures = squad_score.score({'a': ''}, {'a': []})
  assert figures == {'exact': 0, 'f1': 0}


def test_the_best_threshold_is_found():
  predicted = {'a': 'cat', 'b': 'a dog house', 'c': 'x', 'd': 'y'}
  answers = {'a': ['cat'], 'b': ['dog'], 'c': [], 'd': ['z']}
  odds = {'a': -3.0, 'b': -1.0, 'c': 2.0, 'd': 4.0}
  # Answering a and b: 1 + 2/3 and c unanswered 1, d wrong: 2.67 of 4 by F1.
  found = squad_score.best_threshold(predicted, answers, odds)
  assert found == {
    'best_exact': 0.5,
    'best_exact_thresh': -3.0,
    'best_f1': pytest.approx((1 + 2 / 3 + 1) / 4),
    'best_f1_thresh': -1.0,
  }
  shown = {x: '' if odds[x] > -1.0 else predicted[x] for x in predicted}
  figures = squad_score.score(shown, answers, has_nulls=True)
  assert figures['f1'] == pytest.approx(found['best_f1'])


def test_an_empty_answer_to_a_question_without_one_costs_nothing():
  predicted, answers = {'a': '', 'b': 'cat'}, {'a': [], 'b': ['cat']}
  odds = {'a': -3.0, 'b': -1.0}
  found = squad_score.best_threshold(predicted, answers, odds)
  assert found['best_exact'] == found['best_f1'] == 1
  assert found['best_exact_thresh'] == found['best_f1_thresh'] == -1.0


def test_answering_nothing_may_be_best():
  found = squad_score.best_threshold({'a': 'x'}, {'a': []}, {'a': 0.5})
  assert found['best_exact'] == 1
  assert found['best_exact_thresh'] < 0.5
  assert found['best_f1_thresh'] < 0.5
