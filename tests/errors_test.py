import pytest

from td_flax import errors


@pytest.mark.parametrize(
  ('error', 'said'),
  [
    (ValueError('two\n  lines '), 'two lines'),
    (OSError(28, 'No space left'), '[Errno 28] No space left'),
    (AssertionError(), 'AssertionError()'),
  ],
)
def test_what_an_error_says_is_one_line(error, said):
  assert errors.one_line(error) == said
  assert errors.one_line(error, 5) == said[:5]


def test_only_what_differs_is_named():
  triples = [('a', 1, 1), ('b', 'x', 'y'), ('c', None, 0.5)]
  assert errors.differences(triples) == (
    "b='x' there, 'y' here; c=None there, 0.5 here"
  )
  assert errors.differences(triples[:1]) == ''
