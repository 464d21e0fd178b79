"""Files with columns, as they are and as they should not be."""

import json

import pytest

from td_flax import errors
from td_flax.tasks import tables


def read(path, columns=('a', 'b'), **options):
  return [
    (row.place.rpartition(':')[2], row.values['a'], row.values['b'])
    for row in tables.read(path, columns, 'task.train', **options)
  ]


def test_a_quote_in_a_tsv_is_a_letter(tmp_path):
  path = tmp_path / 'x.tsv'
  path.write_text(
    '\ufeffa\tb\textra\n"one\ttwo\t3\r\n\nx\u2028y\t"\tz\n', encoding='utf-8'
  )
  assert read(path) == [('2', '"one', 'two'), ('4', 'x\u2028y', '"')]


def test_a_csv_is_quoted(tmp_path):
  path = tmp_path / 'x.csv'
  path.write_text('b,a\n1,"one, and\nmore"\n2,two\n')
  assert read(path) == [('2', 'one, and\nmore', '1'), ('4', 'two', '2')]


def test_json_lines_keep_their_types(tmp_path):
  path = tmp_path / 'x.jsonl'
  lines = [{'a': 'one', 'b': 3, 'c': None}, {'a': 'two', 'b': False}]
  path.write_text('\n'.join(map(json.dumps, lines)))
  assert read(path) == [('1', 'one', 3), ('2', 'two', False)]


def test_columns_may_be_named_from_outside(tmp_path):
  path = tmp_path / 'x.tsv'
  path.write_text('one\t\ttwo\n')
  assert read(path, names=('a', 'c', 'b')) == [('1', 'one', 'two')]


def test_a_field_of_a_csv_may_be_long(tmp_path):
  path = tmp_path / 'x.csv'
  path.write_text(f'a,b\n{"x" * 200_000},1\n')
  ((_, text, _),) = read(path)
  assert len(text) == 200_000


@pytest.mark.parametrize('name', ['x.tsv', 'x.csv'])
def test_a_blank_line_of_one_column_would_shift_the_others(tmp_path, name):
  path = tmp_path / name
  path.write_text('a\none\n\ntwo\n')
  with pytest.raises(errors.DataError, match=':3: is blank'):
    tables.read(path, ('a',), 'task.test')
  path.write_text('a\none\ntwo\n\n\n')
  assert len(tables.read(path, ('a',), 'task.test')) == 2


def test_broken_rows_are_left_out_only_where_asked(tmp_path, capsys):
  path = tmp_path / 'x.tsv'
  path.write_text('a\tb\n1\t2\n3\n4\t5\n6\t7\t8\n')
  assert len(read(path, skip_broken=True)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    f'warning: {path}: 2 broken rows are left out, the first at {path}:3'
  )
  with pytest.raises(errors.DataError, match=r":3: has no 'b'$"):
    read(path)


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('x.tsv', b'', 'has no column'),
    ('x.tsv', b'a\tc\n1\t2\n', r":1: has no column 'b'; there are a, c"),
    ('x.tsv', b'a\tb\n', 'holds no examples'),
    ('x.tsv', b'a\tb\ta\n1\t2\t3\n', r":1: has two columns 'a'"),
    ('x.tsv', b'a\tb\n\xff\t1\n', 'is not UTF-8'),
    ('x.tsv', b'a\tb\n1\t2\n3\t4\t5\n', r':3: has more fields than there'),
    ('x.csv', b'a,b\n1,2,3\n', r':2: has more fields than there are columns'),
    ('x.csv', b'a,b\n"1,2\n', r':2: unexpected end of data'),
    ('x.jsonl', b'{"a": 1, "b": 2}\n{"a"\n', r':2: is not JSON'),
    ('x.jsonl', b'{"a": "\\ud800", "b": 2}\n', r':1: .* half a .*, \\ud800'),
    ('x.jsonl', b'[' * 100_000, r':1: is not JSON'),
    ('x.jsonl', b'[1]\n', r':1: must be a JSON object'),
    ('x.jsonl', b'{"a": 1, "b": null}\n', r":1: has no 'b'"),
    ('x.xls', b'', r'must end in .tsv, .csv, .jsonl'),
    ('missing.tsv', None, 'No such file'),
  ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, content, said):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.UserError, match=said) as caught:
    read(path)
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)
