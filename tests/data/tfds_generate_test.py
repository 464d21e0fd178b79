import json
import pathlib
import resource
import struct
import sys

import pytest
import tensorflow_datasets as tfds
from tensorboardX import record_writer

from td_flax import errors, locks
from td_flax.data import corpora, tfds_generate

COUNTS = {'train': 7, 'test': 2, 'none': 0}


class TinyGenerated(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  fails_with: Exception | None = None

  def _info(self):
    features = tfds.features.FeaturesDict({'text': tfds.features.Text()})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    del dl_manager
    if self.fails_with:
      raise self.fails_with
    return {x: self._generate_examples(x, n) for x, n in COUNTS.items() if n}

  def _generate_examples(self, split, count):
    for i in range(count):
      yield i, {'text': f'{split} {i}'}


@pytest.fixture(autouse=True)
def quiet():
  tfds.disable_progress_bar()


@pytest.fixture
def tfrecords(tmp_path):
  """A folder as a TFDS with TensorFlow writes it: two files a split."""
  folder = tmp_path / 'my_text' / '2.0.0'
  folder.mkdir(parents=True)
  features = tfds.features.FeaturesDict({'text': tfds.features.Text()})
  features.save_config(folder)
  splits = []
  for split, count in COUNTS.items():
    lengths = [count - count // 2, count // 2] if count else []
    start = 0
    for i, length in enumerate(lengths):
      path = folder / f'my_text-{split}.tfrecord-{i:05d}-of-00002'
      # An independent writer of the format.
      writer = record_writer.RecordWriter(str(path))
      for number in range(start, start + length):
        text = {'text': f'{split} {number}'}
        writer.write(features.serialize_example(text))
      writer.close()
      start += length
    splits.append(
      {
        'name': split,
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
        'numBytes': str(100 * count),
        'shardLengths': list(map(str, lengths)),
      }
    )
  info = {'name': 'my_text', 'version': '2.0.0', 'fileFormat': 'tfrecord'}
  (folder / 'dataset_info.json').write_text(
    json.dumps(info | {'splits': splits})
  )
  return folder


def read(tfds_dir, spec):
  (source,) = corpora.parse(spec, text_field='text', tfds_dir=str(tfds_dir))
  return [text for block in source.blocks() for text in block.documents()]


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_tfrecord_folder_is_converted_and_kept(
  tmp_path, tfrecords, monkeypatch
):
  monkeypatch.setattr(tfds_generate, 'RECORDS_PER_SHARD', 3)
  before = contents(tfrecords)
  assert tfds_generate.make_readable('my_text', str(tmp_path)) == tfrecords
  for split in ('train', 'test'):
    texts = [f'{split} {i}' for i in range(COUNTS[split])]
    assert read(tmp_path, f'tfds:my_text@{split}') == texts
  assert len(list(tfrecords.glob('my_text-train.array_record-*-of-00003'))) == 3
  assert contents(tfrecords.with_name('2.0.0.tfrecord')) == before
  after = contents(tfrecords)
  tfds_generate.make_readable('my_text', str(tmp_path))  # nothing is left to do
  assert contents(tfrecords) == after


def test_tfds_reads_what_was_converted(tmp_path, tfrecords):
  tfds_generate.make_readable('my_text:2.0.0', str(tmp_path))
  builder = tfds.builder_from_directory(tfrecords)
  assert {x: y.num_examples for x, y in builder.info.splits.items()} == COUNTS
  texts = [x['text'] for x in builder.as_data_source('test')]
  assert texts == [b'test 0', b'test 1']


def damage_length(data):
  data[0] ^= 1


def damage_second_length(data):
  (length,) = struct.unpack('<Q', data[:8])
  data[length + 16] ^= 1


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (damage_length, r'damaged record at byte 0: the checksum'),
    (damage_second_length, r'damaged record at byte \d\d: the checksum'),
    (
      lambda data: data.__delitem__(slice(-1, None)),
      r'truncated in the record',
    ),
    (lambda data: data.extend(b'12345'), r'truncated in the record at byte'),
    (lambda data: data.clear(), r'holds 0 records; .*json says 3'),
  ],
)
def test_a_damaged_file_is_refused_and_nothing_changes(
  tmp_path, tfrecords, damage, message
):
  path = tfrecords / 'my_text-train.tfrecord-00001-of-00002'
  data = bytearray(path.read_bytes())
  damage(data)
  path.write_bytes(data)
  before = contents(tfrecords)
  with pytest.raises(errors.DataError, match=f'{path.name}: {message}'):
    tfds_generate.make_readable('my_text', str(tmp_path))
  assert contents(tfrecords) == before
  assert [x.name for x in tfrecords.parent.iterdir()] == ['2.0.0']


def test_a_missing_file_is_refused(tmp_path, tfrecords):
  (tfrecords / 'my_text-test.tfrecord-00000-of-00002').unlink()
  with pytest.raises(errors.DataError, match='00000-of-00002: No such file'):
    tfds_generate.make_readable('my_text', str(tmp_path))


def test_other_data_of_the_user_is_never_overwritten(tmp_path, tfrecords):
  tfrecords.with_name('2.0.0.tfrecord').mkdir()
  with pytest.raises(errors.DataError, match='exists already; move it away'):
    tfds_generate.make_readable('my_text', str(tmp_path))


def test_a_conversion_that_was_killed_is_done_again(tmp_path, tfrecords):
  # Killed between the two renames: the worst moment.
  tfrecords.rename(tfrecords.with_name('2.0.0.tfrecord'))
  leftover = tfrecords.with_name('incomplete.2.0.0.array_record')
  leftover.mkdir()
  (leftover / 'half').write_text('')
  tfds_generate.make_readable('my_text', str(tmp_path))
  assert read(tmp_path, 'tfds:my_text@test') == ['test 0', 'test 1']
  assert not leftover.exists()


def test_two_conversions_of_one_dataset_exclude_each_other(tmp_path, tfrecords):
  before = contents(tfrecords)
  with (
    locks.exclusive(tfrecords.parent, ''),
    pytest.raises(errors.DataError, match='my_text: another process is'),
  ):
    tfds_generate.make_readable('my_text', str(tmp_path))
  assert contents(tfrecords) == before


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, tfrecords):
  before = contents(tfrecords)
  limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
  try:
    with pytest.raises(
      errors.DataError, match='cannot be converted, and is as'
    ):
      tfds_generate.make_readable('my_text', str(tmp_path))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
  assert contents(tfrecords) == before
  assert [x.name for x in tfrecords.parent.iterdir()] == ['2.0.0']


def test_another_format_is_refused(tmp_path, tfrecords):
  path = tfrecords / 'dataset_info.json'
  path.write_text(path.read_text().replace('"tfrecord"', '"riegeli"'))
  with pytest.raises(errors.DataError, match='holds riegeli files; only tfrec'):
    tfds_generate.make_readable('my_text', str(tmp_path))


def test_a_folder_that_cannot_be_looked_at_is_one_line(tmp_path):
  with pytest.raises(errors.DataError, match=r'--tfds=x: .*name too long'):
    tfds_generate.make_readable('x', str(tmp_path / ('x' * 300)))


def test_the_checksum_is_the_published_one():
  # Known answers of RFC 3720, appendix B.4, masked.
  for data, crc in ((bytes(32), 0x8A9136AA), (b'\xff' * 32, 0x62A8AB43)):
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    masked = (rotated + 0xA282EAD8) % 2**32
    assert tfds_generate.masked_crc32c(data) == masked


def test_a_missing_dataset_is_generated(tmp_path):
  folder = tfds_generate.make_readable('tiny_generated', str(tmp_path))
  assert folder == tmp_path / 'tiny_generated' / '1.0.0'
  assert sorted(read(tmp_path, 'tfds:tiny_generated@test')) == [
    'test 0',
    'test 1',
  ]


@pytest.mark.parametrize(
  ('error', 'message'),
  [
    (
      ConnectionError('no\nroute'),
      'cannot be downloaded or written: no route;',
    ),
    (ModuleNotFoundError('x', name='pkg.x'), 'is missing: pip install pkg'),
    (AssertionError('fetch by hand'), 'tiny_generated: fetch by hand'),
  ],
)
def test_what_prevents_generation_is_one_line(
  tmp_path, monkeypatch, error, message
):
  monkeypatch.setattr(TinyGenerated, 'fails_with', error)
  with pytest.raises(errors.DataError, match=message) as caught:
    tfds_generate.make_readable('tiny_generated', str(tmp_path))
  assert '\n' not in str(caught.value)
  assert not list(pathlib.Path(tmp_path).glob('tiny_generated/1.0.0'))


def test_a_dataset_whose_module_needs_a_package_says_which(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets.text.glue', None)
  with pytest.raises(errors.DataError, match='needs a package that is missing'):
    tfds_generate.make_readable('glue/cola', str(tmp_path))


@pytest.mark.parametrize(
  ('name', 'kind', 'message'),
  [
    (
      'lmb1',
      errors.ConfigError,
      'has no such dataset; did you mean lm1b',
    ),
    (
      'glue/colla',
      errors.ConfigError,
      'no such config; the nearest of 12: cola, ',
    ),
    ('lm1b/en', errors.ConfigError, 'no such config; none has'),
    ('lm1b:9.9.9', errors.DataError, r'9\.9\.9'),
    ('wiki40b/en', errors.DataError, r"pip install 'td_flax\[beam\]'"),
  ],
)
def test_what_tfds_cannot_generate_is_refused(
  tmp_path, monkeypatch, name, kind, message
):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  with pytest.raises(kind, match=message):
    tfds_generate.make_readable(name, str(tmp_path))
  assert not list(tmp_path.iterdir())
