import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from td_flax.data import packing, vocabulary

SPECIAL = vocabulary.SpecialIds()


def pack(documents, n):
  packer = packing.Packer(n, SPECIAL)
  for document in documents:
    packer.add(np.array(document, np.uint16))
  return packer.finish()


def unpack(rows):
  """The pieces between [CLS] and [SEP], row by row."""
  pieces = []
  for row in rows:
    open_piece = None
    padded = False
    for x in row.tolist():
      if x == SPECIAL.pad:
        assert open_piece is None
        padded = True
      elif x == SPECIAL.cls:
        assert open_piece is None
        assert not padded
        open_piece = []
      elif x == SPECIAL.sep:
        assert open_piece, 'no piece is empty'
        pieces.append(open_piece)
        open_piece = None
      else:
        open_piece.append(x)
    assert open_piece is None
  return pieces


def documents_of(max_length):
  text = st.lists(st.integers(5, 65_535), max_size=max_length)
  return st.lists(text, max_size=30)


@pytest.mark.parametrize('n', [8, 9, 33, 128])
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(data=st.data())
def test_no_id_is_lost_invented_or_moved(n, data):
  documents = data.draw(documents_of(3 * n))
  rows = pack(documents, n)

  assert rows.dtype == np.uint16
  assert rows.shape[1] == n
  pieces = unpack(rows)
  for document in documents:
    joined = []
    while len(joined) < len(document):
      joined += pieces.pop(0)
    assert joined == document
  assert not pieces


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(documents=documents_of(40))
def test_rows_waste_less_than_the_smallest_piece(documents):
  rows = pack(documents, 32)
  for row, following in itertools.pairwise(rows):
    padding = np.count_nonzero(row == SPECIAL.pad)
    # 2 ids of text and two special ones would have been worth beginning.
    assert padding < 2 + 2
    first = np.flatnonzero(following == SPECIAL.sep)[0] + 1
    assert padding == 0 or first > padding, 'what fits is not put off'


def test_a_row_as_it_is_written_in_the_map():
  rows = pack([[10, 11], [20, 21, 22, 23, 24, 25, 26]], 8)
  np.testing.assert_array_equal(
    rows,
    [
      [2, 10, 11, 3, 2, 20, 21, 3],
      [2, 22, 23, 24, 25, 26, 3, 0],
    ],
  )


def test_a_document_that_ends_with_its_row_leaves_no_empty_piece():
  assert pack([range(5, 11), range(5, 17)], 8).shape == (3, 8)


def test_nothing_gives_no_rows():
  assert pack([], 16).shape == (0, 16)
  assert pack([[]], 16).shape == (0, 16)


def test_a_long_document_between_short_ones():
  long = (np.arange(100_003) % 60_000 + 5).tolist()
  pieces = unpack(pack([[7], long, [8, 9]], 64))
  assert pieces[0] == [7]
  assert pieces[-1] == [8, 9]
  assert list(itertools.chain(*pieces[1:-1])) == long
