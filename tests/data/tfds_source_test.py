import json
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from td_flax import errors
from td_flax.data import corpora, tfds_source

TEXTS = [f'document {i} ä' for i in range(9)]
WIKI = (
  '\n_START_ARTICLE_\nTitle\n_START_SECTION_\nHistory\n_START_PARAGRAPH_\n'
  'One._NEWLINE_Two.'
)


class TinyText(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    features = {
      'text': tfds.features.Text(),
      'id': tfds.features.Scalar(np.int64),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {
      'train': self._generate_examples(TEXTS),
      'test': self._generate_examples([WIKI, ' \n']),
    }

  def _generate_examples(self, texts):
    yield from ((i, {'text': text, 'id': i}) for i, text in enumerate(texts))


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  tfds.disable_progress_bar()
  TinyText(data_dir=folder, file_format='array_record').download_and_prepare()
  return folder


@pytest.fixture
def folder(prepared, tmp_path):
  """A copy of the dataset's version that a test may damage."""
  shutil.copytree(prepared / 'tiny_text', tmp_path / 'tiny_text')
  return tmp_path / 'tiny_text' / '1.0.0'


def find(folder, spec, field='text'):
  (source,) = corpora.parse(spec, text_field=field, tfds_dir=str(folder))
  return source


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize('block_bytes', [1, 100, tfds_source.BLOCK_BYTES])
def test_blocks_hold_the_records_of_the_split_in_order(prepared, block_bytes):
  found = find(prepared, 'tfds:tiny_text')
  source = tfds_source.TfdsSource(**vars(found) | {'block_bytes': block_bytes})
  blocks = pickle.loads(pickle.dumps(list(source.blocks())))
  assert [text for x in blocks for text in x.documents()] == TEXTS
  assert len({block.name for block in blocks}) == len(blocks)
  assert sum(block.num_bytes for block in blocks) == pytest.approx(
    source.num_bytes, abs=len(blocks)
  )
  assert len(blocks) == {1: 9, 100: 5}.get(block_bytes, 1)


def test_the_inventory_names_version_split_and_size(prepared):
  (entry,) = find(prepared, 'tfds:tiny_text=2').inventory()
  assert entry['name'] == 'tiny_text/1.0.0@train'
  assert entry['records'] == 9
  assert entry['bytes'] > 0


def test_wiki40b_markers_become_lines_and_records_are_named(prepared):
  (block,) = find(prepared, 'tfds:tiny_text:1.0.0@test').blocks()
  assert list(block.documents()) == ['Title\nHistory\nOne.\nTwo.', ' \n']
  assert block.place(1).endswith('1.0.0: record 1 of split test')


def test_the_newest_version_is_read_unless_one_is_named(folder):
  for version in ('0.9.0', '1.0.0.tfrecord', 'incomplete.10.0.0'):
    shutil.copytree(folder, folder.with_name(version))
  root = folder.parent.parent
  names = [
    find(root, spec).inventory()[0]['name']
    for spec in (
      'tfds:tiny_text',
      'tfds:tiny_text:0.9.0',
      'tfds:tiny_text/0.9.0',
    )
  ]
  assert names == [f'tiny_text/{x}@train' for x in ('1.0.0', '0.9.0', '0.9.0')]


def test_a_config_is_a_folder_and_the_only_one_needs_no_name(folder):
  root = folder.parent.parent
  shutil.copytree(folder, root / 'other' / '20230601.en' / '1.0.0')
  info = root / 'other' / '20230601.en' / '1.0.0' / 'dataset_info.json'
  edit(info, configName='20230601.en')
  for spec in ('tfds:other', 'tfds:other/20230601.en'):
    (entry,) = find(root, spec).inventory()
    assert entry['name'] == 'other/20230601.en/1.0.0@train'
  shutil.copytree(info.parent, root / 'other' / 'second' / '1.0.0')
  with pytest.raises(errors.DataError, match=r'there is 20230601\.en, second'):
    find(root, 'tfds:other')


def test_the_same_split_under_two_names_is_refused(prepared):
  with pytest.raises(errors.ConfigError, match='read twice'):
    corpora.parse(
      'tfds:tiny_text,tfds:tiny_text:1.0.0@train',
      text_field='text',
      tfds_dir=str(prepared),
    )


@pytest.mark.parametrize(
  ('spec', 'command'),
  [
    ('tfds:lm1b', '--tfds=lm1b'),
    ('tfds:wiki40b/en:1.3.0@test', '--tfds=wiki40b/en:1.3.0'),
  ],
)
def test_a_missing_dataset_names_the_command(tmp_path, spec, command):
  message = (
    rf'no .* in {tmp_path}/.*; generate it with `python -m '
    rf'td_flax\.tools\.prepare {command} --tfds_dir={tmp_path}`'
  )
  with pytest.raises(errors.DataError, match=message):
    find(tmp_path, spec)


def test_a_tfrecord_folder_names_the_command(folder):
  edit(folder / 'dataset_info.json', fileFormat='tfrecord')
  root = folder.parent.parent
  message = (
    rf'{folder} holds tfrecord files.*convert them to array_record with '
    rf'`python -m td_flax\.tools\.prepare --tfds=tiny_text --tfds_dir={root}`'
  )
  with pytest.raises(errors.DataError, match=message):
    find(root, 'tfds:tiny_text')


@pytest.mark.parametrize(
  ('spec', 'field', 'message'),
  [
    ('tfds:tiny_text@dev', 'text', "no split 'dev'; .* one of train, test"),
    ('tfds:tiny_text', 'body', "no field 'body'; set text_field to one of"),
  ],
)
def test_what_the_dataset_lacks_is_refused(prepared, spec, field, message):
  with pytest.raises(errors.ConfigError, match=message):
    find(prepared, spec, field)


@pytest.mark.parametrize('spec', ['tfds:', 'tfds:a b', 'tfds:a/b/c', 'tfds:a@'])
def test_another_form_of_name_is_refused(tmp_path, spec):
  with pytest.raises(errors.ConfigError, match=r'data\.files: .*NAME\[/CONFIG'):
    find(tmp_path, spec)


def test_a_field_that_is_no_text_is_refused(prepared):
  (block,) = find(prepared, 'tfds:tiny_text', 'id').blocks()
  with pytest.raises(
    errors.DataError, match=r"record 0 of split train: .*'id'"
  ):
    list(block.documents())


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('content', [None, '{"half'])
def test_a_damaged_description_is_refused(folder, name, content):
  (folder / name).unlink()
  if content:
    (folder / name).write_text(content)
  with pytest.raises(errors.DataError, match=f'{name}: not a dataset prepared'):
    find(folder.parent.parent, 'tfds:tiny_text')


@pytest.mark.parametrize('content', [None, b'', b'\1' * 200_000])
def test_a_damaged_shard_is_refused(folder, content):
  (block,) = find(folder.parent.parent, 'tfds:tiny_text').blocks()
  (shard,) = folder.glob('*train*')
  shard.unlink()
  if content is not None:
    shard.write_bytes(content)
  with pytest.raises(errors.DataError, match=str(folder)):
    list(block.documents())


def test_bytes_that_are_not_utf8_are_named_with_their_record(
  prepared, monkeypatch
):
  (block,) = find(prepared, 'tfds:tiny_text').blocks()
  monkeypatch.setattr(
    tfds_source.TfdsBlock, '_values', lambda self: iter([b'fine', b'\xe9'])
  )
  with pytest.raises(
    errors.DataError, match=r"record 1 of split train: .*'text'"
  ):
    list(block.documents())


def test_whole_examples_have_text_for_bytes(prepared):
  found = tfds_source.examples('tfds:tiny_text@train', str(prepared), 'k')
  assert [x['text'] for x in found] == TEXTS
  assert [int(x['id']) for x in found] == list(range(len(TEXTS)))
  with pytest.raises(errors.ConfigError, match="no split 'validation'"):
    tfds_source.examples('tfds:tiny_text@validation', str(prepared), 'k')
