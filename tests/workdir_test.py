import dataclasses
import errno
import json
import pydoc_data.topics

import pytest

from td_flax import config as config_lib
from td_flax import errors, locks, workdir
from td_flax.data import sentence_piece, tokenizer, vocabulary, word_piece

PRINTS = {'tokenizer': 'aa', 'dataset': 'bb'}


@pytest.fixture(scope='module')
def model():
  texts = sorted(pydoc_data.topics.topics.values())[:3]
  return sentence_piece.train(texts, kind='bpe', vocab_size=350, lowercase=True)


@pytest.fixture
def run(tmp_path):
  return workdir.Workdir(tmp_path / 'runs' / 'x')


def changed(section=None, **values):
  config = config_lib.Config()
  if section is None:
    return dataclasses.replace(config, **values)
  part = dataclasses.replace(getattr(config, section), **values)
  return dataclasses.replace(config, **{section: part})


def content(run):
  return {
    path: path.read_bytes() for path in run.path.rglob('*') if path.is_file()
  }


def test_a_fresh_workdir_records_config_and_tokenizer(run, model):
  config = changed('drop', keep=0.25)
  run.claim(config, PRINTS, model)
  saved = json.loads(run.config_json.read_text())
  assert saved['config'] == config_lib.flatten(config)
  assert saved['fingerprints'] == PRINTS
  copy = run.tokenizer / 'tokenizer.model'
  assert copy.read_bytes() == model.model
  assert sorted(x.name for x in run.path.iterdir()) == [
    'config.json', 'tokenizer',
  ]  # fmt: skip


def test_checking_writes_nothing(run):
  run.check(config_lib.Config(), PRINTS)
  assert not run.path.exists()


def test_the_same_run_may_come_back(run, model):
  run.claim(config_lib.Config(), PRINTS, model)
  before = content(run)
  run.check(config_lib.Config(), PRINTS)
  run.claim(config_lib.Config(), PRINTS, model)
  assert content(run) == before


@pytest.mark.parametrize(
  ('section', 'values'),
  [
    ('log', {'every': 7, 'tensorboard': False}),
    ('checkpoint', {'keep': 9, 'keep_best': False}),
    ('train', {'profile_steps': '10:13'}),
    ('data', {'dir': '/elsewhere', 'tfds_dir': '/there'}),
    ('task', {'seeds': 3, 'grid': 'model.dropout=0.0,0.1'}),
  ],
)
def test_a_resume_may_change_what_is_not_learned(run, model, section, values):
  run.claim(config_lib.Config(), PRINTS, model)
  config = changed(section, **values)
  run.check(config, PRINTS)
  run.claim(config, PRINTS, model)
  saved = json.loads(run.config_json.read_text())['config']
  assert saved == config_lib.flatten(config)


@pytest.mark.parametrize(
  ('section', 'values', 'said'),
  [
    (None, {'name': 'renamed'}, "name='unnamed' there, 'renamed' here"),
    ('train', {'num_steps': 5}, 'train.num_steps=1000000 there, 5 here'),
    ('drop', {'keep': 0.25}, 'drop.keep=0.5 there, 0.25 here'),
    ('checkpoint', {'every': 3}, 'checkpoint.every=10000 there, 3 here'),
    ('data', {'files': 'a.txt'}, "data.files='embedded' there, 'a.txt' here"),
    ('parallel', {'num_devices': 2}, 'parallel.num_devices=0 there, 2 here'),
  ],
)
def test_another_config_is_refused(run, model, section, values, said):
  run.claim(config_lib.Config(), PRINTS, model)
  before = content(run)
  with pytest.raises(errors.CheckpointError) as error:
    run.check(changed(section, **values), PRINTS)
  assert said in str(error.value)
  assert str(run.path) in str(error.value)
  assert '\n' not in str(error.value)
  assert content(run) == before


def test_every_differing_key_is_listed(run, model):
  run.claim(config_lib.Config(), PRINTS, model)
  config = changed('train', seed=3, batch_size=64)
  with pytest.raises(errors.CheckpointError) as error:
    run.check(config, PRINTS | {'tokenizer': 'cc'})
  assert 'train.seed=0 there, 3 here' in str(error.value)
  assert 'train.batch_size=512 there, 64 here' in str(error.value)
  assert "fingerprint of the tokenizer='aa' there, 'cc' here" in str(
    error.value
  )


def test_a_key_younger_than_the_workdir_had_its_default(run, model):
  run.claim(config_lib.Config(), PRINTS, model)
  saved = json.loads(run.config_json.read_text())
  del saved['config']['drop.noise']
  run.config_json.write_text(json.dumps(saved))
  run.check(config_lib.Config())
  with pytest.raises(errors.CheckpointError, match=r'noise=0\.0 there, 0\.5'):
    run.check(changed('drop', noise=0.5))


def test_a_key_that_is_gone_is_a_difference(run, model):
  run.claim(config_lib.Config(), PRINTS, model)
  saved = json.loads(run.config_json.read_text())
  saved['config']['drop.magic'] = 3
  run.config_json.write_text(json.dumps(saved))
  with pytest.raises(errors.CheckpointError, match='magic=3 there, None'):
    run.check(config_lib.Config())


@pytest.mark.parametrize(
  'text', ['', '{"config": {', '[]', '{"config": 3, "fingerprints": {}}']
)
def test_an_unreadable_config_is_refused(run, model, text):
  run.claim(config_lib.Config(), PRINTS, model)
  run.config_json.write_text(text)
  with pytest.raises(errors.CheckpointError, match='json: not readable'):
    run.check(config_lib.Config())
  assert run.config_json.read_text() == text


def test_a_folder_of_something_else_is_refused(run):
  run.path.mkdir(parents=True)
  (run.path / 'thesis.tex').write_text('dear')
  with pytest.raises(errors.CheckpointError, match=r'holds thesis\.tex'):
    run.check(config_lib.Config(), PRINTS)
  assert [x.name for x in run.path.iterdir()] == ['thesis.tex']


def test_a_file_is_refused(run, model):
  run.path.parent.mkdir()
  run.path.write_text('dear')
  with pytest.raises(errors.CheckpointError, match='Not a directory'):
    run.check(config_lib.Config())


def test_a_run_killed_before_it_claims_may_come_back(run, model):
  with run.lock():
    run.data.mkdir()
    (run.data / 'shard').write_text('rows')
    run.tokenizer.mkdir()
    (run.path / 'config.json.tmp').write_text('{"conf')
  run.check(config_lib.Config())
  run.claim(config_lib.Config(), PRINTS, model)
  assert run.config_json.exists()


@pytest.mark.hf
def test_a_tokenizer_of_a_killed_start_is_replaced(run, model):
  pytest.importorskip('tokenizers', reason='needs the extra `hf`')
  model.save(run.tokenizer)
  pieces = [*vocabulary.PIECES, 'a']
  other = word_piece.WordPiece(pieces, 'x', lowercase=True)
  run.claim(config_lib.Config(), PRINTS, other)
  found = tokenizer.load(run.tokenizer)
  assert found.fingerprint == other.fingerprint


def test_a_missing_copy_of_the_tokenizer_comes_back(run, model):
  run.claim(config_lib.Config(), PRINTS, model)
  (run.tokenizer / 'tokenizer.model').unlink()
  run.claim(config_lib.Config(), PRINTS, model)
  copy = run.tokenizer / 'tokenizer.model'
  assert copy.read_bytes() == model.model


def test_a_workdir_is_for_one_process_at_a_time(run):
  with run.lock():
    with (
      pytest.raises(errors.CheckpointError) as error,
      workdir.Workdir(run.path).lock(),
    ):
      pytest.fail('two hold the lock')
    assert str(error.value) == (
      f'{run.path}: another process is using this workdir'
    )
  with workdir.Workdir(run.path).lock():
    pass


def test_a_lock_ends_with_an_error(run):
  with pytest.raises(ZeroDivisionError), run.lock():
    raise ZeroDivisionError
  with run.lock():
    pass


def test_a_workdir_that_cannot_be_made_is_not_locked(run):
  run.path.parent.write_text('in the way')
  with pytest.raises(errors.CheckpointError, match='cannot be used'):
    run.lock().__enter__()


def test_a_file_system_without_locks_costs_a_warning(run, monkeypatch, capsys):
  def flock(file, operation):
    raise OSError(errno.ENOTSUP, 'Operation not supported')

  monkeypatch.setattr(locks.fcntl, 'flock', flock)
  with run.lock():
    pass
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    f'warning: {run.path / ".lock"}: cannot be locked (Operation not '
    'supported); start no second run in this workdir'
  )


def test_only_a_whole_summary_is_that_of_a_finished_run(run):
  assert run.summary() is None
  run.path.mkdir(parents=True)
  assert run.summary() is None
  run.summary_json.write_text('{"step": 12')
  assert run.summary() is None
  run.summary_json.write_text('{"step": 12}')
  assert run.summary() == {'step': 12}


def test_a_workdir_that_cannot_be_looked_at_is_one_line(tmp_path):
  with pytest.raises(errors.CheckpointError, match='File name too long'):
    workdir.Workdir(tmp_path / ('x' * 300)).check(config_lib.Config())
