"""Packed data and models in a bucket that is a folder."""

import errno
import shutil

import pytest
from store import contents, noted, put

from td_flax import bucket, errors, mirror, pretrained

RUN = 'gs://b/runs/one'


def test_packed_data_is_copied_once(store):
  source = store / 'b/packed'
  for name in ('manifest.json', 'train-0.npy', 'tokenizer/t', 'blocks/1'):
    put(source / name, name)
  folder = bucket.dataset('gs://b/packed')
  assert set(contents(folder)) == {
    'manifest.json',
    'train-0.npy',
    'tokenizer/t',
  }
  noted(store, 'reads')
  assert bucket.dataset('gs://b/packed') == folder
  assert not noted(store, 'reads')
  (folder / 'train-0.npy').write_text('tr')  # cut off
  bucket.dataset('gs://b/packed')
  assert noted(store, 'reads') == ['b/packed/train-0.npy']
  put(source / 'manifest.json', 'another')
  put(source / 'train-0.npy', 'TRAIN-0.NPY')
  bucket.dataset('gs://b/packed')
  assert (folder / 'train-0.npy').read_text() == 'TRAIN-0.NPY'


def test_a_copy_of_packed_data_goes_on_where_it_was_cut_off(store, monkeypatch):
  shards = [f'train-{i}.npy' for i in range(20)]
  for name in ('manifest.json', *shards):
    put(store / 'b/packed' / name, name)
  get = bucket.Bucket.get

  def get_some(self, name, path):
    if name == shards[15]:
      raise OSError('cut off')
    get(self, name, path)

  with monkeypatch.context() as patch:
    patch.setattr(bucket.Bucket, 'get', get_some)
    with pytest.raises(errors.DataError, match='cut off'):
      bucket.dataset('gs://b/packed')
  before = noted(store, 'reads')
  folder = bucket.dataset('gs://b/packed')
  assert sorted([*before, *noted(store, 'reads')]) == sorted(
    f'b/packed/{name}' for name in shards
  )
  assert set(contents(folder)) == {'manifest.json', *shards}


def test_packed_data_and_a_run_below_it_leave_each_other_alone(store):
  for name in ('manifest.json', 'train-0.npy', 'runs/one/metrics.jsonl'):
    put(store / 'b/packed' / name)
  with mirror.workdir('gs://b/packed/runs/one') as run:
    folder = bucket.dataset('gs://b/packed')
    assert set(contents(folder)) == {'manifest.json', 'train-0.npy'}
    put(run / 'config.json')
  put(store / 'b/packed/manifest.json', 'another')
  with mirror.workdir('gs://b/packed/runs/one') as run:
    bucket.dataset('gs://b/packed')
    assert set(contents(run)) == {'metrics.jsonl', 'config.json'}
  assert set(contents(store / 'b/packed')) == {
    'manifest.json',
    'train-0.npy',
    'runs/one/metrics.jsonl',
    'runs/one/config.json',
  }


def test_a_model_is_copied_but_for_what_lies_there_already(store):
  source = store / 'b/runs/one'
  for step in (10, 20):
    put(source / f'checkpoints/{step}/record/record.json', f'of {step}')
    put(source / f'checkpoints/{step}/state/array')
  put(source / 'checkpoints/30/state/array')  # is still being written
  for name in ('config.json', 'lease.json', 'data/shard'):
    put(source / name)
  folder = bucket.model(RUN)
  steps = {
    f'checkpoints/{step}/{name}'
    for step in (10, 20)
    for name in ('record/record.json', 'state/array')
  }
  assert set(contents(folder)) == {'config.json', *steps}
  noted(store, 'reads')
  assert bucket.model(RUN) == folder
  assert noted(store, 'reads') == ['b/runs/one/config.json']
  # Another run under the same name, with arrays of the same sizes:
  put(source / 'checkpoints/20/record/record.json', 'new')
  put(source / 'checkpoints/20/state/array', 'y')
  shutil.rmtree(source / 'checkpoints/10')
  bucket.model(RUN)
  assert contents(folder / 'checkpoints/20')['state/array'] == 'y'
  assert [x.name for x in (folder / 'checkpoints').iterdir()] == ['20']


def test_one_checkpoint_is_copied_and_leaves_the_others(store):
  for step in (10, 20):
    put(store / f'b/runs/one/checkpoints/{step}/record/record.json')
  ten = bucket.model(f'{RUN}/checkpoints/10')
  assert ten.name == '10'
  assert [x.name for x in ten.parent.iterdir()] == ['10']
  bucket.model(f'{RUN}/checkpoints/20/')
  assert {x.name for x in ten.parent.iterdir()} == {'10', '20'}


def test_a_model_must_be_there(store):
  with pytest.raises(
    errors.ConfigError, match=r"--checkpoint='gs://b/x': does not exist"
  ):
    pretrained.find('gs://b/x', '--checkpoint')


def test_packed_data_must_be_there(store):
  with pytest.raises(errors.DataError, match=r'data.dir=gs://b/x: holds no'):
    bucket.dataset('gs://b/x')


def use_as_workdir(url):
  with mirror.workdir(url):
    pass


@pytest.mark.parametrize(
  ('use', 'kind', 'said'),
  [
    (bucket.dataset, errors.DataError, 'data.dir=gs://b/x: cannot be copied'),
    (bucket.model, errors.CheckpointError, 'gs://b/x: cannot be read'),
    (use_as_workdir, errors.CheckpointError, 'gs://b/x: cannot be used as a'),
  ],
)
def test_a_cache_that_cannot_be_written_is_one_line(store, use, kind, said):
  (store.parent / 'cache').write_text('in the way')
  with pytest.raises(kind, match=f'{said}.*: NotADirectoryError: '):
    use('gs://b/x')


@pytest.mark.parametrize('use', [bucket.dataset, bucket.model, use_as_workdir])
def test_a_cache_without_locks_costs_a_warning(store, monkeypatch, capsys, use):
  def flock(file, operation):
    raise OSError(errno.ENOTSUP, 'Operation not supported')

  monkeypatch.setattr('fcntl.flock', flock)
  for name in ('manifest.json', 'train-0.npy'):
    put(store / 'b/x' / name)
  use('gs://b/x')
  said = capsys.readouterr().err
  assert '.lock: cannot be locked (Operation not supported); start' in said
