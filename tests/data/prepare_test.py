import dataclasses
import errno
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import support

from td_flax import artifacts, config, errors, locks
from td_flax.data import blocks, prepare, sentence_piece, vocabulary

SPECIAL = vocabulary.SpecialIds()
SYLLABLES = ['ka', 'lo', 'mi', 'ne', 'ru', 'sta', 'ple', 'ing', 'on', 'the']


def documents(seed, count=40):
  rng = random.Random(seed)

  def word():
    return ''.join(rng.choices(SYLLABLES, k=rng.randint(1, 3)))

  return [
    ' '.join(word() for _ in range(rng.randint(1, 120))) for _ in range(count)
  ]


def write_corpus(directory, num_files=5):
  directory.mkdir(parents=True)
  for i in range(num_files):
    text = '\n\n'.join(documents(i))
    (directory / f'{i}.txt').write_text(text)
  return directory


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  return write_corpus(tmp_path_factory.mktemp('corpus') / 'texts')


@pytest.fixture(scope='module')
def data(corpus):
  return config.DataConfig(
    files=f'{corpus}/*.txt',
    eval_fraction=0.1,
    sequence_length=32,
    vocab_size=320,
    tokenizer_sample_mb=1,
    seed=7,
  )


@pytest.fixture(scope='module')
def packed(data, tmp_path_factory):
  """Built without interruption by two workers."""
  directory = tmp_path_factory.mktemp('packed') / 'dataset'
  return prepare.prepare(data, directory, num_workers=2)


@pytest.fixture
def copy(packed, tmp_path):
  return pathlib.Path(shutil.copytree(packed.directory, tmp_path / 'copy'))


def contents(directory):
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file()
  }


def text_ids(rows):
  ids = rows[np.arange(len(rows))].reshape(-1)
  return ids[~np.isin(ids, SPECIAL.as_tuple())]


def expected_ids(packed, texts):
  return np.concatenate(packed.tokenizer.encode_batch(texts))


def all_documents():
  return [text for i in range(5) for text in documents(i)]


def is_held_out(text, data):
  key = blocks.document_key(text, data.seed)
  return blocks.is_held_out(key, data.eval_fraction)


def test_every_document_is_in_one_split_whole_and_in_order(packed, data):
  texts = all_documents()
  train = [text for text in texts if not is_held_out(text, data)]
  held_out = [text for text in texts if is_held_out(text, data)]
  assert 0 < len(held_out) < len(texts) / 4
  np.testing.assert_array_equal(
    text_ids(packed.train), expected_ids(packed, train)
  )
  np.testing.assert_array_equal(
    text_ids(packed.eval), expected_ids(packed, held_out)
  )
  splits = packed.manifest['splits']
  assert splits['train']['documents'] == len(train)
  assert splits['eval']['documents'] == len(held_out)
  for split, rows in [('train', packed.train), ('eval', packed.eval)]:
    ids = rows[np.arange(len(rows))]
    assert splits[split]['rows'] == len(ids)
    assert splits[split]['tokens'] == np.count_nonzero(ids != SPECIAL.pad)


def test_unigram_counts_are_those_of_the_train_rows(packed):
  ids = packed.train[np.arange(len(packed.train))]
  expected = np.bincount(ids.reshape(-1), minlength=320)
  np.testing.assert_array_equal(packed.unigram_counts, expected)
  assert packed.unigram_counts.dtype == np.int64


def test_one_worker_writes_the_same_bytes_as_two(packed, data, tmp_path):
  alone = prepare.prepare(data, tmp_path / 'dataset', num_workers=1)
  assert alone.fingerprint == packed.fingerprint
  assert contents(alone.directory) == contents(packed.directory)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(
  number, packed, data, start, tmp_path
):
  directory = tmp_path / 'dataset'
  # Packs one block and waits for ever before the second.
  code = f"""
import itertools, pathlib, signal, sys
from td_flax import config, errors
from td_flax.data import files, prepare

def first_only(self, whole=files.FileSource.blocks):
  calls[0] += 1
  for i, block in enumerate(whole(self)):
    if i == 1 and calls[0] == 2:
      signal.pause()
    yield block

if __name__ == '__main__':
  calls = [0]  # the first call samples for the tokenizer
  files.FileSource.blocks = first_only
  data = config.DataConfig(**{dataclasses.asdict(data)!r})
  try:
    prepare.prepare(data, pathlib.Path({str(directory)!r}), num_workers=1)
  except errors.Stopped as error:
    print(error)
    sys.exit(error.exit_code)
"""
  script = tmp_path / 'killed.py'
  script.write_text(code)
  child = start([sys.executable, str(script)], stderr=subprocess.STDOUT)
  support.wait_until((directory / 'blocks' / '00000.json').exists, child)
  child.send_signal(number)
  code, output, _ = support.finish(child)  # until its worker has ended
  if number == signal.SIGTERM:
    assert code == 75, output
    assert output.splitlines()[-1] == (
      'interrupted while preparing data; finished blocks are kept; '
      'run the same command again to continue'
    )
  else:
    assert code == -number, output
  assert not (directory / 'manifest.json').exists()
  kept = (directory / 'train-00000.npy').stat().st_mtime_ns
  (directory / 'train-00001.npy.tmp').write_bytes(b'half a shard')

  resumed = prepare.prepare(data, directory, num_workers=2)
  assert resumed.fingerprint == packed.fingerprint
  assert contents(directory) == contents(packed.directory)
  assert (directory / 'train-00000.npy').stat().st_mtime_ns == kept


def test_an_existing_dataset_is_opened_and_not_touched(packed, data, copy):
  before = {path: path.stat().st_mtime_ns for path in copy.rglob('*')}
  again = prepare.prepare(data, copy)
  assert again.fingerprint == packed.fingerprint
  assert before == {path: path.stat().st_mtime_ns for path in copy.rglob('*')}


def test_only_a_deleted_shard_is_made_again(packed, data, copy):
  before = {path: path.stat().st_mtime_ns for path in copy.glob('*-*.npy')}
  lost = copy / 'train-00002.npy'
  lost.unlink()
  prepare.prepare(data, copy, num_workers=1)
  assert contents(copy) == contents(packed.directory)
  after = {path: path.stat().st_mtime_ns for path in copy.glob('*-*.npy')}
  touched = {path for path in after if before[path] != after[path]}
  assert lost in touched
  assert touched <= {lost, copy / 'eval-00002.npy'}


def test_another_config_is_refused_with_both_values(data, copy):
  other = dataclasses.replace(data, sequence_length=64, lowercase=False)
  with pytest.raises(errors.DataError) as caught:
    prepare.prepare(other, copy)
  message = str(caught.value)
  assert 'data.sequence_length=32 there, 64 here' in message
  assert 'data.lowercase=True there, False here' in message
  assert '\n' not in message


def test_an_unfinished_build_of_another_config_is_refused(data, copy):
  (copy / 'manifest.json').unlink()
  before = contents(copy)
  other = dataclasses.replace(data, seed=8)
  with pytest.raises(errors.DataError, match=r'data\.seed=7 there, 8'):
    prepare.prepare(other, copy)
  assert contents(copy) == before


def test_paths_are_no_part_of_the_identity(packed, data, copy):
  moved = dataclasses.replace(data, dir='/elsewhere', tfds_dir='/there')
  assert prepare.prepare(moved, copy).fingerprint == packed.fingerprint


def test_a_source_that_has_changed_is_named_and_one_that_is_gone_is_not(
  tmp_path, data
):
  corpus = write_corpus(tmp_path / 'texts', num_files=2)
  data = dataclasses.replace(data, files=f'{corpus}/*.txt')
  directory = tmp_path / 'dataset'
  packed = prepare.prepare(data, directory, num_workers=1)

  with (corpus / '1.txt').open('a') as file:
    file.write('one more line')
  with pytest.raises(errors.DataError, match=r'1\.txt was not there in this'):
    prepare.prepare(data, directory)
  (corpus / '1.txt').unlink()
  assert prepare.prepare(data, directory).fingerprint == packed.fingerprint
  shutil.rmtree(corpus)
  assert prepare.prepare(data, directory).fingerprint == packed.fingerprint


def test_a_packed_file_under_another_name_is_a_change(tmp_path, data):
  corpus = write_corpus(tmp_path / 'texts', num_files=2)
  data = dataclasses.replace(data, files=f'{corpus}/*.txt')
  prepare.prepare(data, tmp_path / 'dataset', num_workers=1)
  (corpus / '1.txt').rename(corpus / '2.txt')
  with pytest.raises(errors.DataError, match=r'2\.txt was not there in this'):
    prepare.prepare(data, tmp_path / 'dataset')


def test_damaged_counts_of_a_block_are_not_added_up(packed, data, copy):
  (copy / 'manifest.json').unlink()
  counts = copy / 'blocks/00001.counts.npy'
  content = bytearray(counts.read_bytes())
  content[-3] ^= 4
  counts.write_bytes(content)
  with pytest.raises(errors.DataError, match=r'00001\.counts\.npy: damaged'):
    prepare.prepare(data, copy, num_workers=1)
  counts.unlink()
  made = prepare.prepare(data, copy, num_workers=1)
  assert made.fingerprint == packed.fingerprint
  assert contents(copy) == contents(packed.directory)


def test_a_given_tokenizer_counts_by_its_content(
  packed, corpus, data, tmp_path
):
  model = shutil.copy(
    packed.directory / 'tokenizer' / 'tokenizer.model', tmp_path / 'a.model'
  )
  held_out = tmp_path / 'held_out.txt'
  held_out.write_text('kalo mine ruka')
  given = dataclasses.replace(
    data, tokenizer=str(model), eval_files=str(held_out)
  )
  made = prepare.prepare(given, tmp_path / 'dataset', num_workers=1)
  assert made.tokenizer.fingerprint == packed.tokenizer.fingerprint
  # With files for evaluation, everything else is for training.
  np.testing.assert_array_equal(
    text_ids(made.train), expected_ids(packed, all_documents())
  )
  assert made.tokenizer.decode(text_ids(made.eval)) == 'kalo mine ruka'

  moved = shutil.move(model, tmp_path / 'b.model')
  given = dataclasses.replace(given, tokenizer=str(moved), vocab_size=999)
  assert prepare.prepare(given, made.directory).fingerprint == made.fingerprint
  another = sentence_piece.train(
    documents(9), kind='bpe', vocab_size=310, lowercase=True
  )
  pathlib.Path(moved).write_bytes(another.model)
  with pytest.raises(errors.DataError, match=r"data\.tokenizer='sha256:"):
    prepare.prepare(given, made.directory)


@pytest.mark.parametrize(
  ('changes', 'problem'),
  [
    ({'files': '{0}/empty.txt'}, r'data\.files=.*holds no text'),
    ({'eval_fraction': 1e-9}, r'data\.eval_fraction=1e-09: holds out no docu'),
    ({'eval_files': '{0}/empty.txt'}, r'data\.eval_files=.*holds no text'),
    ({'vocab_size': 5000}, r'data\.vocab_size=5000: too large'),
    (
      {'files': '{0}/empty.txt=1,{1}/*.txt=2'},
      r'empty\.txt holds no text.*delete /.*/dataset$',
    ),
  ],
)
def test_what_cannot_work_is_one_line_and_no_dataset(
  changes, problem, data, corpus, tmp_path
):
  (tmp_path / 'empty.txt').write_text(' \n\n \n')
  changes = {
    key: value.format(tmp_path, corpus) if isinstance(value, str) else value
    for key, value in changes.items()
  }
  broken = dataclasses.replace(data, **changes)
  with pytest.raises(errors.UserError, match=problem) as caught:
    prepare.prepare(broken, tmp_path / 'dataset', num_workers=1)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'dataset' / 'manifest.json').exists()


@pytest.mark.parametrize(
  ('changes', 'problem'),
  [
    (
      {'tokenizer': 'bpee'},
      r"data\.tokenizer='bpee': must be one of bpe, unigram or the path of",
    ),
    ({'files': '{0}/none*.txt'}, r"data\.files: no file matches '.*none"),
    ({'eval_files': '{0}/none.txt'}, r'data\.eval_files: no file matches'),
    ({'files': '{0}'}, r'data\.files: .* is a directory; name its files'),
    ({'eval_files': '{0}/0.txt=2'}, r'data\.eval_files=.*no weights'),
    ({'eval_files': '{0}/0.txt'}, r'0\.txt is in both'),
  ],
)
def test_a_wrong_key_is_refused_before_anything_is_written(
  changes, problem, data, corpus, tmp_path
):
  changes = {key: value.format(corpus) for key, value in changes.items()}
  broken = dataclasses.replace(data, **changes)
  with pytest.raises(errors.ConfigError, match=problem) as caught:
    prepare.prepare(broken, tmp_path / 'dataset', num_workers=1)
  assert '\n' not in str(caught.value)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('fraction', 'mend'), [(0.999, 'lower'), (0, 'raise')])
def test_a_split_without_rows_names_the_directory_to_delete(
  fraction, mend, data, packed, tmp_path
):
  # With a given tokenizer nobody knows before everything is packed.
  model = packed.directory / 'tokenizer' / 'tokenizer.model'
  (tmp_path / 'one.txt').write_text('kalo mine ruka')
  broken = dataclasses.replace(
    data,
    files=f'{tmp_path}/one.txt',
    tokenizer=str(model),
    eval_fraction=fraction,
  )
  directory = tmp_path / 'dataset'
  message = (
    rf'eval_fraction={fraction}: .*; {mend} it or set data\.eval_files after '
    rf'deleting {directory}$'
  )
  with pytest.raises(errors.ConfigError, match=message):
    prepare.prepare(broken, directory, num_workers=1)


def test_documents_without_text_are_counted_and_the_first_is_named(
  data, tmp_path, capsys
):
  lines = ['kalo mine', '', 'ruka', ' \n', '\u200b', 'stale']
  text = '\n'.join(json.dumps({'text': line}) for line in lines)
  (tmp_path / 'a.jsonl').write_text(text)
  (tmp_path / 'b.txt').write_text('kalo\n\n\u2028\n\n\n \n\nmine')
  given = dataclasses.replace(
    data, files=f'{tmp_path}/*.*', eval_fraction=0.5, vocab_size=280
  )
  packed = prepare.prepare(given, tmp_path / 'dataset', num_workers=1)
  splits = packed.manifest['splits'].values()
  assert sum(split['documents'] for split in splits) == 5
  assert sum(split['empty_documents'] for split in splits) == 4
  (warning,) = (
    line
    for line in capsys.readouterr().err.splitlines()
    if line.startswith('warning')
  )
  assert warning == (
    f'warning: {tmp_path}/a.jsonl:2: a document holds nothing to encode; left '
    'out (4 such documents in all)'
  )


def test_packing_ends_at_100_percent_also_with_held_out_files(
  data, corpus, tmp_path, capsys
):
  split = dataclasses.replace(
    data, files=f'{corpus}/[0-2].txt', eval_files=f'{corpus}/[34].txt'
  )
  prepare.prepare(split, tmp_path / 'dataset', num_workers=1)
  lines = capsys.readouterr().err.splitlines()
  packing = [line for line in lines if line.startswith('packing: ')]
  size = sum((corpus / f'{i}.txt').stat().st_size for i in range(5)) / 1e6
  assert packing[-1].startswith(f'packing: 100% {size:.1f}/{size:.1f} MB ')


def test_text_that_is_not_utf8_is_named_with_its_line(data, tmp_path):
  (tmp_path / 'bad.txt').write_bytes(b'kalo\n\nmine \xff\n')
  broken = dataclasses.replace(data, files=f'{tmp_path}/bad.txt')
  with pytest.raises(errors.DataError, match=r'bad\.txt:3: .*UTF-8'):
    prepare.prepare(broken, tmp_path / 'dataset', num_workers=1)


def test_a_directory_of_other_things_is_refused(data, corpus):
  before = contents(corpus)
  with pytest.raises(errors.DataError, match=r'holds 0\.txt; set data\.dir'):
    prepare.prepare(data, corpus, num_workers=1)
  assert contents(corpus) == before


def test_two_builds_in_one_place_exclude_each_other(data, tmp_path):
  with (
    locks.exclusive(tmp_path, ''),
    pytest.raises(errors.DataError, match='another process is preparing'),
  ):
    prepare.prepare(data, tmp_path, num_workers=1)


def test_a_file_system_without_locks_costs_a_warning(
  data, tmp_path, monkeypatch, capsys
):
  def refuse(descriptor, operation):  # as NFS does for a directory
    raise OSError(errno.EBADF, 'Bad file descriptor')

  monkeypatch.setattr(locks.fcntl, 'flock', refuse)
  prepare.prepare(data, tmp_path / 'dataset', num_workers=1)
  assert (
    f'warning: {tmp_path}/dataset: cannot be locked (Bad file descriptor); '
    'start no second command that prepares it\n'
  ) in capsys.readouterr().err


def test_a_full_disk_is_one_line(data, tmp_path, monkeypatch):
  def full(path, content):
    raise OSError(28, 'No space left on device', str(path))

  monkeypatch.setattr(artifacts, 'write_atomically', full)
  with pytest.raises(errors.DataError, match='No space left') as caught:
    prepare.prepare(data, tmp_path / 'dataset', num_workers=1)
  assert 'tokenizer.model' in str(caught.value)


def test_no_module_of_data_loads_an_accelerator_library():
  code = (
    'import importlib, pkgutil, sys, td_flax.data as data\n'
    "for found in pkgutil.iter_modules(data.__path__, 'td_flax.data.'):\n"
    '  importlib.import_module(found.name)\n'
    "print({'jax', 'flax', 'tensorflow_datasets'} & sys.modules.keys())"
  )
  run = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert run.stdout.strip() == 'set()'
