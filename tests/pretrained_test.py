import dataclasses
import pathlib
import pydoc_data.topics

import pytest

from td_flax import config as config_lib
from td_flax import errors, pretrained, workdir
from td_flax.data import sentence_piece

CONFIG = dataclasses.replace(
  config_lib.Config(),
  model=config_lib.ModelConfig(restart_positions=True),
)


@pytest.fixture(scope='module')
def tokenizer():
  texts = sorted(pydoc_data.topics.topics.values())[:3]
  return sentence_piece.train(texts, kind='bpe', vocab_size=350, lowercase=True)


def changed(section, **values):
  part = dataclasses.replace(getattr(CONFIG, section), **values)
  return dataclasses.replace(CONFIG, **{section: part})


def find(path):
  return pretrained.find(str(path), 'train.init_from')


@pytest.fixture
def source(tmp_path, tokenizer):
  """The workdir of a run that has a checkpoint."""
  run = workdir.Workdir(tmp_path / 'runs' / 'x')
  run.claim(CONFIG, {'tokenizer': 'aa', 'dataset': 'bb'}, tokenizer)
  (run.checkpoints / '9').mkdir(parents=True)
  return run


@pytest.mark.parametrize('place', ['.', 'checkpoints/9'])
def test_weights_of_the_same_model_are_accepted(source, place):
  for config in (
    changed('drop', policy='importance'),
    changed('train', seed=4, batch_size=8),
    changed('model', dropout=0.5, attention_dropout=0.0, dtype='bfloat16'),
    changed('model', attention='plain', remat='layer', scan_layers=True),
  ):
    find(source.path / place).check(config, 'aa')


@pytest.mark.parametrize('place', ['.', 'checkpoints/9'])
@pytest.mark.parametrize(
  ('values', 'fingerprint', 'said'),
  [
    ({'norm': 'pre'}, 'aa', "model.norm='post' there, 'pre' here"),
    ({'num_heads': 6}, 'aa', 'model.num_heads=12 there, 6 here'),
    ({}, 'cc', "fingerprint of the tokenizer='aa' there, 'cc' here"),
    (
      {'norm_eps': 0.5, 'restart_positions': False},
      'aa',
      'model.norm_eps=1e-12 there, 0.5 here; '
      'model.restart_positions=True there, False here',
    ),
  ],
)
def test_weights_of_another_model_are_refused(
  source, place, values, fingerprint, said
):
  path = source.path / place
  with pytest.raises(errors.CheckpointError) as error:
    find(path).check(changed('model', **values), fingerprint)
  assert str(error.value) == (
    f'train.init_from={str(path)!r}: holds another model: {said}'
  )


def test_weights_from_a_path_that_is_not_there(tmp_path):
  path = tmp_path / 'typo'
  with pytest.raises(errors.ConfigError) as error:
    find(path)
  assert str(error.value) == f'train.init_from={str(path)!r}: does not exist'


def test_weights_from_something_else_are_refused(tmp_path):
  with pytest.raises(errors.CheckpointError) as error:
    find(tmp_path)
  assert str(error.value) == (
    f'train.init_from={str(tmp_path)!r}: neither a workdir with checkpoints, '
    'nor one of its checkpoints/<step>, nor a folder of Hugging Face'
  )


def test_a_workdir_without_checkpoints_has_no_weights(source):
  (source.checkpoints / '9').rename(source.checkpoints / '9.damaged')
  with pytest.raises(errors.CheckpointError, match='with checkpoints, nor'):
    find(source.path)


def test_a_step_that_is_not_there_is_named(source):
  with pytest.raises(errors.ConfigError, match="no step '8'"):
    pretrained.find(str(source.path), '--checkpoint', '8')


def test_a_fine_tuned_run_is_no_start(source, tokenizer):
  config = config_lib.with_changes(
    CONFIG, {'task.name': 'rte', 'train.init_from': 'runs/base'}
  )
  source.claim(config, {'tokenizer': 'aa', 'task': 'bb'}, tokenizer)
  with pytest.raises(errors.ConfigError) as error:
    find(source.path)
  assert str(error.value) == (
    f'train.init_from={str(source.path)!r}: was fine-tuned on rte; give a '
    'pretrained model (this one started from runs/base)'
  )
  exported = pretrained.find(str(source.path), 'x', may_be_tuned=True)
  assert exported.config.task.name == 'rte'


@pytest.mark.parametrize('end', ['', '/', '/checkpoints/9'])
def test_the_source_of_a_url_is_the_url(source, monkeypatch, end):
  copy = source.path / end.strip('/')
  monkeypatch.setattr(pretrained.bucket, 'model', lambda _: copy)
  found = find(f'gs://b/run{end}')
  assert found.source == 'gs://b/run/checkpoints/9'
  assert found.checkpoint == source.checkpoints / '9'
  assert find(copy).source == str(source.checkpoints / '9')


def test_a_source_may_be_relative(source, monkeypatch):
  monkeypatch.chdir(source.checkpoints / '9')
  find(pathlib.Path()).check(CONFIG, 'aa')
  with pytest.raises(errors.CheckpointError, match=r"from='\.': holds"):
    find(pathlib.Path()).check(CONFIG, 'cc')


def test_the_tokenizer_is_the_one_that_the_run_named(source, tokenizer):
  with pytest.raises(errors.CheckpointError, match='not the tokenizer'):
    find(source.path).tokenizer  # noqa: B018
  prints = {'tokenizer': tokenizer.fingerprint, 'dataset': 'bb'}
  source.claim(CONFIG, prints, tokenizer)
  found = find(source.path)
  assert found.tokenizer.fingerprint == tokenizer.fingerprint
  assert found.model == CONFIG.model


def test_a_damaged_tokenizer_is_named_once(source):
  (source.tokenizer / 'tokenizer.model').write_bytes(b'x')
  with pytest.raises(errors.DataError) as error:
    find(source.path).tokenizer  # noqa: B018
  assert str(error.value).startswith(f'{source.tokenizer}: ')


@pytest.fixture
def bert_folder(tmp_path):
  """A folder of Hugging Face with a bare, cased vocabulary."""
  pytest.importorskip('tokenizers', reason='needs the extra `hf`')
  folder = tmp_path / 'hf'
  folder.mkdir()
  pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'Ada']
  (folder / 'vocab.txt').write_text('\n'.join(pieces))
  (folder / 'config.json').write_text('{"vocab_size": 7}')
  return folder


@pytest.mark.hf
def test_a_cased_vocabulary_needs_to_be_called_so(bert_folder):
  with pytest.raises(errors.CheckpointError, match="case, such as 'Ada'; say"):
    find(bert_folder)
  said = bert_folder / 'tokenizer_config.json'
  for word in ('true', 'false'):
    said.write_text(f'{{"do_lower_case": {word}}}')
    assert find(bert_folder).tokenizer.lowercase == (word == 'true')
  said.unlink()
  vocabulary = bert_folder / 'vocab.txt'
  vocabulary.write_text(vocabulary.read_text().replace('Ada', '[E1]'))
  assert find(bert_folder).tokenizer.lowercase


@pytest.mark.hf
def test_the_source_of_a_url_of_a_folder_is_the_url(bert_folder, monkeypatch):
  (bert_folder / 'tokenizer_config.json').write_text('{"do_lower_case": true}')
  monkeypatch.setattr(pretrained.bucket, 'model', lambda _: bert_folder)
  assert find('gs://b/hf/').source == 'gs://b/hf'


@pytest.mark.hf
def test_a_folder_has_no_steps(bert_folder):
  with pytest.raises(errors.ConfigError) as error:
    pretrained.find(str(bert_folder), '--checkpoint', 'best')
  assert str(error.value) == (
    f'--checkpoint={str(bert_folder)!r}: a folder of Hugging Face has no '
    'steps; leave out --step=best'
  )


@pytest.mark.hf
def test_a_damaged_vocabulary_is_named_once(bert_folder):
  (bert_folder / 'vocab.txt').write_text('[PAD]\na\na')
  with pytest.raises(errors.DataError) as error:
    find(bert_folder)
  assert str(error.value) == (
    f"{bert_folder / 'vocab.txt'}: the piece 'a' occurs twice"
  )


def test_a_config_of_another_version_is_one_line(source):
  text = source.config_json.read_text()
  source.config_json.write_text(text.replace('model.norm_eps', 'model.new'))
  with pytest.raises(errors.CheckpointError, match=r'this version: model\.new'):
    find(source.path)
