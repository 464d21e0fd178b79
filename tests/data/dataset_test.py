import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from td_flax import config, errors, layout
from td_flax.data import corpora, dataset, prepare, vocabulary

TEXT = '\n\n'.join(
  f'the {i} lines of text {i * i} are one document of no meaning {i % 7}'
  for i in range(60)
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp('dataset')
  (root / 'a.txt').write_text(TEXT)
  (root / 'b.txt').write_text(TEXT.replace('document', 'example'))
  return config.DataConfig(
    files=f'{root}/a.txt,{root}/b.txt=2.5',
    eval_fraction=0.2,
    sequence_length=16,
    vocab_size=300,
    tokenizer_sample_mb=1,
  )


@pytest.fixture(scope='module')
def packed(data, tmp_path_factory):
  directory = tmp_path_factory.mktemp('packed') / 'dataset'
  return prepare.prepare(data, directory, num_workers=1)


def flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[-3] ^= 4
  path.write_bytes(content)


def cut_short(path):
  path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture
def copy(packed, tmp_path):
  return pathlib.Path(shutil.copytree(packed.directory, tmp_path / 'copy'))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(sizes=st.lists(st.integers(0, 9), max_size=6), data=st.data())
def test_rows_are_numbered_through_the_shards(sizes, data):
  whole = np.arange(sum(sizes) * 8, dtype=np.uint16).reshape(-1, 8)
  shards = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
  rows = dataset.Rows(shards.__getitem__, sizes, [0] * len(sizes), [None], 8)
  assert len(rows) == len(whole)
  numbers = st.integers(0, max(0, len(whole) - 1))
  size = 20 if len(whole) else 0
  indices = np.array(data.draw(st.lists(numbers, max_size=size)), np.int64)
  read = rows[indices]
  assert read.dtype == np.uint16
  np.testing.assert_array_equal(read, whole[indices])


@pytest.mark.parametrize('index', [-1, 5])
def test_a_row_that_does_not_exist_is_an_error(index):
  shards = [np.zeros((5, 8), np.uint16)]
  rows = dataset.Rows(shards.__getitem__, [5], [0], [None], 8)
  with pytest.raises(IndexError, match='from 0 to 4'):
    rows[np.array([0, index])]


def test_sources_keep_their_rows_and_weights(packed):
  assert packed.train.weights == (None, 2.5)
  first, second = packed.train.ranges
  assert (first.start, second.stop) == (0, len(packed.train))
  assert first.stop == second.start
  texts = [
    packed.tokenizer.decode(packed.train[np.array(numbers)].reshape(-1))
    for numbers in (first, second)
  ]
  assert ['example' in text for text in texts] == [False, True]


def test_rows_lie_memory_mapped(packed):
  shard = packed.train._shard(0)
  assert not shard.flags.owndata
  assert not shard.flags.writeable


def test_more_shards_than_a_process_may_open_files_are_read(tmp_path):
  # In a process of its own: a lowered limit cannot be raised again.
  code = f"""
import os, pathlib, resource
import numpy as np
from td_flax import artifacts
from td_flax.data import dataset

directory, items = pathlib.Path({str(tmp_path)!r}), []
for i in range(150):
  shard = np.full((2, 8), i, np.uint16)
  written = artifacts.write_atomically(directory / f'{{i}}.npy', shard)
  items.append(written | {{'file': f'{{i}}.npy', 'rows': 2, 'source': 0}})
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
artifacts.verify(directory, items)
manifest = {{
  'splits': {{split: {{'shards': items}} for split in dataset.SPLITS}},
  'sources': [{{'weight': None}}],
  'eval_sources': [],
  'sequence_length': 8,
}}
for _ in range(2):
  for split in dataset.SPLITS:
    rows = dataset._rows(directory, manifest, split)
    for order in (np.arange(300), np.arange(300)[::-1]):
      assert (rows[order][:, 3] == order // 2).all()
print(len(rows), 'rows')
"""
  run = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert run.stdout == '300 rows\n', run.stderr


@pytest.mark.parametrize(
  'damage', [cut_short, lambda path: path.write_bytes(b''), pathlib.Path.unlink]
)
def test_a_shard_lost_after_opening_is_named(copy, damage):
  opened = dataset.load(copy)
  damage(copy / 'train-00001.npy')
  with pytest.raises(errors.DataError, match=r'train-00001\.npy: was whole'):
    opened.train[np.arange(len(opened.train))]


def test_the_manifest_says_what_it_is_made_of(packed):
  manifest = packed.manifest
  assert manifest['format_version'] == 1
  assert manifest['sequence_length'] == 16
  assert manifest['request']['data.seed'] == 0
  assert [x['weight'] for x in manifest['sources']] == [None, 2.5]
  (item,) = manifest['sources'][0]['inventory']
  assert item['bytes'] == len(TEXT)
  assert manifest['tokenizer'] == {
    'fingerprint': packed.tokenizer.fingerprint,
    'vocab_size': 300,
    'special': {'pad': 0, 'unk': 1, 'cls': 2, 'sep': 3, 'mask': 4},
  }
  assert {x['source'] for x in manifest['splits']['train']['shards']} == {0, 1}


def test_the_fingerprint_covers_the_rows(packed, copy):
  assert dataset.load(copy).fingerprint == packed.fingerprint
  path = copy / 'manifest.json'
  manifest = json.loads(path.read_bytes())
  manifest['splits']['train']['shards'][0]['sha256'] = '0' * 64
  other = dataclasses.replace(packed, manifest=manifest)
  assert other.fingerprint != packed.fingerprint


@pytest.mark.parametrize(
  'file', ['train-00001.npy', 'eval-00000.npy', 'unigram_counts.npy']
)
@pytest.mark.parametrize(
  ('damage', 'problem'),
  [
    (flip_a_bit, 'damaged'),
    (cut_short, 'bytes instead of'),
    (pathlib.Path.unlink, 'cannot be read'),
  ],
)
def test_a_damaged_file_is_named_with_what_to_do(copy, file, damage, problem):
  damage(copy / file)
  with pytest.raises(errors.DataError, match=problem) as caught:
    dataset.load(copy)
  message = str(caught.value)
  assert message.startswith(str(copy / file))
  assert 'delete this file and run the same command again' in message


def test_a_file_listed_as_missing_is_the_one_that_is(copy):
  assert dataset.missing_files(copy) == []
  (copy / 'eval-00001.npy').unlink()
  assert dataset.missing_files(copy) == ['eval-00001.npy']


def test_a_lost_shard_without_its_text_is_named(data, tmp_path):
  (tmp_path / 'a.txt').write_text(TEXT)
  data = dataclasses.replace(data, files=f'{tmp_path}/a.txt')
  directory = tmp_path / 'dataset'
  prepare.prepare(data, directory, num_workers=1)
  (tmp_path / 'a.txt').unlink()
  (directory / 'train-00000.npy').unlink()
  with pytest.raises(
    errors.DataError, match=r'^\S+/train-00000\.npy: '
  ) as error:
    prepare.prepare(data, directory, num_workers=1)
  assert 'a.txt' in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('damage', [flip_a_bit, cut_short, pathlib.Path.unlink])
def test_a_wrong_tokenizer_is_refused(copy, damage):
  path = copy / 'tokenizer' / 'tokenizer.model'
  damage(path)
  with pytest.raises(errors.DataError, match='put the one that') as caught:
    dataset.load(copy)
  assert str(caught.value).startswith(str(path))


@pytest.mark.hf
def test_a_tokenizer_of_a_killed_build_is_replaced(packed, data, tmp_path):
  pytest.importorskip('tokenizers', reason='needs the extra `hf`')
  packed.tokenizer.save(tmp_path / 'dataset' / layout.TOKENIZER)
  vocab = tmp_path / 'vocab.txt'
  vocab.write_text('\n'.join([*vocabulary.PIECES, 'the', 'text']))
  given = dataclasses.replace(data, tokenizer=str(vocab))
  made = prepare.prepare(given, tmp_path / 'dataset', num_workers=1)
  assert made.tokenizer.piece(5) == 'the'


@pytest.mark.parametrize('content', [b'', b'{"format_ver', b'\xff'])
def test_a_damaged_manifest_is_refused(copy, content):
  (copy / 'manifest.json').write_bytes(content)
  with pytest.raises(errors.DataError, match=r'manifest\.json: damaged'):
    dataset.load(copy)


@pytest.mark.parametrize('name', ['manifest.json', 'build.json'])
def test_another_format_is_refused(data, tmp_path, name):
  (tmp_path / name).write_text('{"format_version": 99}')
  with pytest.raises(errors.DataError, match=f'{name}: format_version=99, but'):
    prepare.prepare(data, tmp_path, num_workers=1)


@pytest.mark.parametrize('name', ['manifest.json', 'build.json'])
@pytest.mark.parametrize(
  'content', ['{"name": "a web app"}', '[]', '3', '{"format_version": 1}']
)
def test_a_file_of_another_program_is_refused(data, tmp_path, name, content):
  (tmp_path / name).write_text(content)
  message = rf'no packed dataset \({name} is of .*; set data\.dir to another'
  with pytest.raises(errors.DataError, match=message):
    prepare.prepare(data, tmp_path, num_workers=1)
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_embedded_prose_need_not_be_there_any_more(tmp_path, monkeypatch):
  data = config.DataConfig()
  (source,) = corpora.parse(data.files, text_field='', tfds_dir='')
  manifest = {
    'format_version': dataset.FORMAT_VERSION,
    'request': dataset.request(data),
    'sources': [{'inventory': source.inventory()}],
    'eval_sources': [],
  }
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
  monkeypatch.setattr(corpora.embedded, '_TOPICS', 'not/there.py')
  dataset.check(tmp_path, data)


def test_no_dataset_names_the_command_that_makes_one(tmp_path):
  with pytest.raises(errors.DataError, match=r'td_flax\.tools\.prepare'):
    dataset.load(tmp_path)
  with pytest.raises(errors.DataError, match=r'td_flax\.tools\.prepare'):
    dataset.check(tmp_path, config.DataConfig())
