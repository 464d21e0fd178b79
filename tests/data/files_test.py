import bz2
import gzip
import itertools
import json
import lzma
import pickle
import re

import hypothesis
import pytest
import zstandard
from hypothesis import strategies as st

from td_flax import errors
from td_flax.data import files

COMPRESS = {
  '': bytes,
  '.gz': gzip.compress,
  '.xz': lzma.compress,
  '.bz2': bz2.compress,
  '.zst': zstandard.compress,
}
few = hypothesis.settings(max_examples=40, deadline=None)
characters = st.sampled_from('ab\n\n\n\r \té😀\u2028\x0b')


def source(*paths, field='text', block_bytes=files.BLOCK_BYTES):
  return files.FileSource(
    'spec', None, tuple(map(str, paths)), field, block_bytes
  )


def documents(*paths, **kwargs):
  blocks = source(*paths, **kwargs).blocks()
  return [text for block in blocks for text in block.documents()]


def cut_into(data, sizes):
  """`data` in pieces of `sizes`, over and over."""
  sizes, start = itertools.cycle(sizes), 0
  while start < len(data):
    stop = start + next(sizes)
    yield data[start:stop]
    start = stop


def read_blocks(kind, data, sizes, block_bytes):
  cuts = list(files.cut(cut_into(data, sizes), files._ENDS[kind], block_bytes))
  assert b''.join(block for _, block in cuts) == data
  newlines = [block.count(b'\n') for _, block in cuts]
  starts = list(itertools.accumulate(newlines, initial=1))
  assert [line for line, _ in cuts] == starts[: len(cuts)]
  texts = []
  for line, block in cuts:
    found = files.FileBlock('name', 'path', kind, line, block, 'text')
    for i, text in enumerate(found.documents()):
      path, _, number = found.place(i).partition(':')
      # What comes before a document's line are whole lines of the file.
      rest = data.split(b'\n', int(number) - 1)[-1]
      assert path == 'path'
      if kind == '.txt':
        rest = rest.decode().replace('\r\n', '\n')
        assert rest.split('\n')[0].strip(' \t\r\f\v')
        assert rest.strip().startswith(text)
      else:
        assert json.loads(rest.split(b'\n')[0])['text'] == text
      texts.append(text)
  return texts


@few
@hypothesis.given(
  st.text(characters, max_size=60),
  st.lists(st.integers(1, 9), min_size=1, max_size=5),
  st.integers(1, 30),
)
def test_txt_blocks_hold_the_paragraphs_of_the_file(text, sizes, block_bytes):
  lines = text.replace('\r\n', '\n').split('\n')
  blank = [not line.strip(' \t\r\f\v') for line in lines]
  groups = itertools.groupby(zip(blank, lines, strict=True), lambda x: x[0])
  paragraphs = [
    '\n'.join(line for _, line in group).strip()
    for is_blank, group in groups
    if not is_blank
  ]
  assert read_blocks('.txt', text.encode(), sizes, block_bytes) == paragraphs


@few
@hypothesis.given(
  st.lists(st.none() | st.text(characters, max_size=8), max_size=12),
  st.sampled_from(['\n', '\r\n']),
  st.booleans(),
  st.lists(st.integers(1, 9), min_size=1, max_size=5),
  st.integers(1, 60),
)
def test_jsonl_blocks_hold_the_lines_of_the_file(
  texts, newline, ascii_only, sizes, block_bytes
):
  lines = [
    '' if text is None else json.dumps({'text': text}, ensure_ascii=ascii_only)
    for text in texts
  ]
  data = newline.join(lines).encode()
  assert read_blocks('.jsonl', data, sizes, block_bytes) == [
    text for text in texts if text is not None
  ]


@pytest.mark.parametrize('extension', COMPRESS)
@pytest.mark.parametrize('kind', ['.txt', '.jsonl'])
def test_every_kind_of_file_is_read(tmp_path, kind, extension):
  texts = [f'document {i} ä' for i in range(50)]
  if kind == '.txt':
    data = '\n\n'.join(texts).encode()
  else:
    data = ''.join(json.dumps({'body': x}) + '\n' for x in texts).encode()
  half = data.index(b'\n', len(data) // 2)
  path = tmp_path / f'x.y{kind}{extension}'
  compress = COMPRESS[extension]
  path.write_bytes(compress(data[:half]) + compress(data[half:]))  # like `cat`
  assert documents(path, field='body', block_bytes=200) == texts


@pytest.mark.parametrize('extension', ['.gz', '.xz'])
def test_zeros_after_a_stream_are_padding(tmp_path, extension):
  path = tmp_path / f'a.txt{extension}'
  stream = COMPRESS[extension](b'a ')
  path.write_bytes(stream + bytes(8) + stream + bytes(4))
  assert documents(path) == ['a a']


def test_blocks_come_file_by_file_pickle_and_have_unique_names(tmp_path):
  for name in ('b.txt', 'a.txt'):
    (tmp_path / name).write_text(f'{name} one\n\n{name} two\n\n{name} three')
  found = files.find(f'{tmp_path}/*.txt', None, 'text', 'data.files')
  assert [x['name'] for x in found.inventory()] == ['a.txt', 'b.txt']
  assert [x['bytes'] for x in found.inventory()] == [33, 33]
  blocks = list(source(*found.paths, block_bytes=5).blocks())
  assert len({block.name for block in blocks}) == len(blocks) == 6
  texts = [
    text
    for block in pickle.loads(pickle.dumps(blocks))
    for text in block.documents()
  ]
  assert texts == [
    f'{name} {number}'
    for name in ('a.txt', 'b.txt')
    for number in ('one', 'two', 'three')
  ]


def test_a_document_larger_than_a_block_stays_whole(tmp_path):
  path = tmp_path / 'a.txt'
  long = 'word ' * 200_000
  path.write_text(f'short\n\n{long}\n\nlast')
  blocks = list(source(path, block_bytes=1000).blocks())
  assert [len(list(block.documents())) for block in blocks] == [2, 1]
  assert blocks[0].num_bytes > len(long)


def test_a_byte_order_mark_is_no_text(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('\ufefffirst\n\nsecond', 'utf-8')
  assert documents(path, block_bytes=1) == ['first', 'second']


@pytest.mark.parametrize('extension', COMPRESS)
def test_an_empty_file_holds_nothing(tmp_path, extension):
  path = tmp_path / f'a.txt{extension}'
  path.write_bytes(COMPRESS[extension](b''))  # of no bytes only if plain
  assert documents(path) == []


def test_a_glob_crosses_directories_and_knows_home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'deep' / 'deeper').mkdir(parents=True)
  (tmp_path / 'deep' / 'folder.txt').mkdir()
  expected = [
    tmp_path / 'deep' / 'a.txt',
    tmp_path / 'deep' / 'deeper' / 'b.TXT',
  ]
  for path in expected:
    path.write_text('x')
  assert files.matches('~/**/*.[tT][xX][tT]') == list(map(str, expected))


def test_a_name_with_glob_characters_names_its_file(tmp_path):
  path = tmp_path / 'a[1].txt'
  path.write_text('x')
  assert files.matches(str(path)) == [str(path)]


@pytest.mark.parametrize(
  ('name', 'spec', 'message'),
  [
    ('a.txt', 'b*.txt', r"data\.files: no file matches '.*b\*\.txt'"),
    (
      'a.csv',
      '*',
      r'a\.csv: unknown kind of file; valid are \.txt and \.jsonl',
    ),
    ('a.csv.gz', '*', r'unknown kind of file.*\.gz, \.xz, \.bz2, \.zst'),
    ('a.txt', '', r'is a directory; name its files, for example .*/\*\.txt'),
  ],
)
def test_what_cannot_be_found_is_refused(tmp_path, name, spec, message):
  (tmp_path / name).write_text('x')
  with pytest.raises(errors.ConfigError, match=message):
    files.find(f'{tmp_path}/{spec}', None, 'text', 'data.files')


def noise(size):
  """Bytes that do not compress, the same every time."""
  return ''.join(f'{hash((i, size)):x}' for i in range(size // 16)).encode()


@pytest.mark.parametrize('extension', [x for x in COMPRESS if x])
@pytest.mark.parametrize('keep', [0.999, 0.5, 0.01, 0])
def test_a_truncated_file_is_refused(tmp_path, extension, keep):
  path = tmp_path / f'a.txt{extension}'
  data = COMPRESS[extension](noise(5000))
  path.write_bytes(data[: int(len(data) * keep)])
  with pytest.raises(errors.DataError, match=r'a\.txt\..*: truncated.*byte \d'):
    documents(path)


@pytest.mark.parametrize('extension', ['.gz', '.xz', '.bz2'])
def test_a_damaged_file_is_refused(tmp_path, extension):
  path = tmp_path / f'a.txt{extension}'
  data = bytearray(COMPRESS[extension](noise(5000)))
  data[len(data) // 2] ^= 0x55
  path.write_bytes(data)
  with pytest.raises(
    errors.DataError, match=r'a\.txt\..*: damaged.*before byte'
  ):
    documents(path)


def test_a_damaged_zstandard_file_is_refused(tmp_path):
  path = tmp_path / 'a.txt.zst'
  checked = zstandard.ZstdCompressor(write_checksum=True)
  data = bytearray(checked.compress(noise(5000)))
  data[len(data) // 2] ^= 0x55
  path.write_bytes(data)
  with pytest.raises(errors.DataError, match=r'a\.txt\.zst: damaged'):
    documents(path)


def test_a_file_that_is_not_compressed_as_it_says_is_refused(tmp_path):
  path = tmp_path / 'a.txt.xz'
  path.write_text('plain text')
  with pytest.raises(
    errors.DataError, match=r'a\.txt\.xz: damaged \.xz stream'
  ):
    documents(path)


def test_a_file_that_vanished_is_refused(tmp_path):
  with pytest.raises(
    errors.DataError, match=r'gone\.txt: cannot be read: No su'
  ):
    documents(tmp_path / 'gone.txt')


@pytest.mark.parametrize('block_bytes', [1, files.BLOCK_BYTES])
def test_undecodable_bytes_are_named_with_their_line(tmp_path, block_bytes):
  path = tmp_path / 'a.txt'
  path.write_bytes(b'one\n\ntwo\n\nthree\n\ncaf\xe9\n\nfour')
  message = rf'{re.escape(str(path))}:7: byte 0xe9 is not UTF-8; .*iconv'
  with pytest.raises(errors.DataError, match=message):
    documents(path, block_bytes=block_bytes)


def test_utf16_is_recognised(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('text', 'utf-16')
  with pytest.raises(
    errors.DataError, match=r':1: byte 0xff .*iconv -f UTF-16'
  ):
    documents(path)


@pytest.mark.parametrize('block_bytes', [1, files.BLOCK_BYTES])
@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"text": "x"', 'not a line of JSON'),
    ('[' * 100_000, 'not a line of JSON'),
    ('["text"]', 'must be a JSON object, is a list'),
    (
      '{"body": "x", "id": 1}',
      "no field 'text'; set text_field to .* body, id",
    ),
    ('{}', r'no field .*it has none'),
    ('{"text": 3, "body": "x"}', "'text' must be a string, is a int; .*: body"),
    ('{"text": "\\ud83d"}', r"'text' holds half a surrogate pair, \\ud83d"),
  ],
)
def test_a_bad_line_is_named(tmp_path, line, message, block_bytes):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "fine"}\n\n' + line + '\n{"text": "fine"}\n')
  message = f'{re.escape(str(path))}:3: .*{message}'
  with pytest.raises(errors.DataError, match=message):
    documents(path, block_bytes=block_bytes)
