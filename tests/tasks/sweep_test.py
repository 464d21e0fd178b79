"""Runs of a sweep: what they learn from, leave behind and go on with."""

import dataclasses
import itertools
import json
import math
import pathlib
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from td_flax import config as config_lib
from td_flax import errors, leaves, loop, parallel, preemption, pretrained
from td_flax.config import ParallelConfig
from td_flax.tasks import fine_tuning, lengths, sweep
from td_flax.tasks.sentences import Sentences

POSITIVE, NEGATIVE = 'string', 'number'


@pytest.fixture
def engine():
  return parallel.make(ParallelConfig(num_devices=1))


@pytest.fixture
def setup(tmp_path, run, make_config, tokenizer):
  """A task of 32 examples that a word decides, its config and its model."""
  rng = np.random.default_rng(0)
  words = ['the', 'object', 'a', 'class', 'is', 'of', 'value']
  for name in ('train', 'dev'):
    lines = ['text,label']
    for i in range(32):
      mine = [*rng.choice(words, 4), (NEGATIVE, POSITIVE)[i % 2]]
      lines.append(f'{" ".join(rng.permutation(mine))},{i % 2}')
    (tmp_path / f'{name}.csv').write_text('\n'.join(lines) + '\n')

  def make(epochs=2.0, **changes):
    config = make_config(
      checkpoint__keep_best=False,
      train__init_from=run.found.source,
      optimizer__learning_rate=3e-3,
    )
    task = dataclasses.replace(
      config.task,
      name='classify',
      train=str(tmp_path / 'train.csv'),
      dev=str(tmp_path / 'dev.csv'),
      epochs=epochs,
      **changes,
    )
    config = dataclasses.replace(config, task=task)
    config = fine_tuning.with_model(config, run.found)
    return config, Sentences(config, tokenizer), run.found

  return make


def test_the_model_is_that_of_the_checkpoint(setup, run):
  config, task, _ = setup(epochs=1.3)
  assert config.model.hidden_dim == run.found.model.hidden_dim == 32
  tuned = fine_tuning.for_task(config, task)
  # 32 examples, 8 at once: 4 steps an epoch.
  assert tuned.train.num_steps == 6
  assert tuned.eval.every == tuned.checkpoint.every == 4
  assert tuned.model.pooler


def test_a_length_that_the_model_lacks_is_refused(setup, run):
  config, _, found = setup()
  data = dataclasses.replace(config.data, sequence_length=64)
  config = dataclasses.replace(config, data=data)
  model = dataclasses.replace(config.model, max_positions=64)
  config = dataclasses.replace(config, model=model)
  with pytest.raises(errors.ConfigError, match='at most model'):
    fine_tuning.with_model(config, found)


def test_a_grid_is_all_combinations(setup):
  config, _, _ = setup(
    grid='optimizer.learning_rate=1e-3,2e-3; train.batch_size=8,16'
  )
  found = {
    point.name: (
      point.config.optimizer.learning_rate,
      point.config.train.batch_size,
    )
    for point in sweep.points(config)
  }
  assert found == {
    'optimizer.learning_rate=1e-3,train.batch_size=8': (1e-3, 8),
    'optimizer.learning_rate=1e-3,train.batch_size=16': (1e-3, 16),
    'optimizer.learning_rate=2e-3,train.batch_size=8': (2e-3, 8),
    'optimizer.learning_rate=2e-3,train.batch_size=16': (2e-3, 16),
  }
  config, _, _ = setup()
  assert [point.name for point in sweep.points(config)] == ['runs']


@pytest.mark.parametrize(
  ('grid', 'said'),
  [
    ('optimizer.learning_rate', 'must be KEY=VALUE,VALUE'),
    ('data.sequence_length=8,16', r'must be one of optimizer\.\*, train\.ba'),
    ('train.seed=0,1', 'train.seed: must be one of'),
    ('train.num_steps=10', 'train.num_steps: must be one of'),
    ('train.init_from=x', 'train.init_from: must be one of'),
    ('model.num_layers=2', 'model.num_layers: must be one of'),
    ('task.stride=8', 'task.stride: must be one of'),
    ('optimizer.learning_rat=1', 'did you mean optimizer.learning_rate'),
    ('train.batch_size=x', "train.batch_size='x': must be a whole number"),
    ('train.batch_size=3.5', 'train.batch_size=3.5: must be a whole number'),
    ('model.dtype=float16', "model.dtype='float16': must be one of float32"),
    ('optimizer.learning_rate=-1', 'must be above 0'),
    ('task.epochs=1;task.epochs=2', 'task.epochs: is given twice'),
    ('task.epochs=1,2,1.0', 'task.epochs=1: is given twice'),
    ('optimizer.learning_rate=1e-3,0.001', 'rate=0.001: is given twice'),
  ],
)
def test_a_wrong_grid_is_one_line(setup, grid, said):
  config, _, _ = setup(grid=grid)
  with pytest.raises(errors.ConfigError, match=f'task.grid: .*{said}'):
    sweep.points(config)


def test_a_sweep_learns_reports_and_is_not_repeated(
  setup, engine, tmp_path, monkeypatch
):
  config, task, found = setup(
    epochs=25.0, seeds=2, grid='optimizer.learning_rate=1e-6,3e-3'
  )
  path = tmp_path / 'sweep'
  content = sweep.run(config, path, task, found, engine)
  slow, fast = content['points']
  assert slow['figures']['accuracy']['mean'] < 0.9
  assert fast['figures']['accuracy']['best'] == 1.0
  values = fast['figures']['accuracy']['values']
  assert fast['figures']['accuracy']['mean'] == pytest.approx(np.mean(values))
  assert fast['figures']['accuracy']['deviation'] == pytest.approx(
    np.std(values, ddof=1)
  )
  assert json.loads((path / 'results.json').read_text()) == content
  assert '± ' in (path / 'results.md').read_text()

  best = content['best']['path']
  kept = [str(x.parent.relative_to(path)) for x in path.glob('*/*/checkpoints')]
  assert kept == [best]
  written = (path / 'predictions' / 'dev.tsv').read_text()
  labels = [line.split('\t')[1] for line in written.splitlines()[1:]]
  assert labels == ['0', '1'] * 16

  def refuse(*_):
    raise AssertionError('trained again')

  monkeypatch.setattr(loop, 'run', refuse)
  assert sweep.run(config, path, task, found, engine) == content


def test_more_seeds_and_values_train_only_what_is_new(
  setup, engine, tmp_path, monkeypatch
):
  grid = 'optimizer.learning_rate=1e-3'
  config, task, found = setup(epochs=0.5, grid=grid)
  path = tmp_path / 'sweep'
  first = sweep.run(config, path, task, found, engine)
  trained, train = [], loop.run

  def count(config, workdir, *rest):
    trained.append(str(workdir.path.relative_to(path)))
    return train(config, workdir, *rest)

  monkeypatch.setattr(loop, 'run', count)
  config, task, found = setup(epochs=0.5, grid=f'{grid},2e-3', seeds=2)
  content = sweep.run(config, path, task, found, engine)
  old, new = (f'optimizer.learning_rate={x}' for x in ('1e-3', '2e-3'))
  assert trained == [f'{old}/seed1', f'{new}/seed0', f'{new}/seed1']
  assert content['points'][0]['runs'][0] == first['points'][0]['runs'][0]


@pytest.mark.parametrize('name', ['results.json', 'runs/seed0/summary.json'])
def test_a_full_disk_costs_a_line_and_no_training(
  name, setup, engine, tmp_path
):
  config, task, found = setup(epochs=0.5)
  path = tmp_path / 'sweep'
  content = sweep.run(config, path, task, found, engine)
  (path / name).unlink()
  (path / f'{name}.tmp').symlink_to('/dev/full')
  with pytest.raises(errors.CheckpointError, match='No space left') as error:
    sweep.run(config, path, task, found, engine)
  assert str(path / name) in str(error.value)
  assert '\n' not in str(error.value)
  again = sweep.run(config, path, task, found, engine)
  assert again['best'] == content['best']


def test_a_best_run_without_a_checkpoint_is_told(
  setup, engine, tmp_path, monkeypatch, capsys
):
  worth = {'1e-3': 0.9, '2e-3': 0.8, '3e-3': 0.7}

  def fine_tune(config, path, task, found, engine):
    if not path.exists():
      for name in ('checkpoints', 'predictions'):
        (path / name).mkdir(parents=True)
    rate = path.parent.name.partition('=')[2]
    return {'figures': {'accuracy': worth[rate]}}

  monkeypatch.setattr(fine_tuning, 'run', fine_tune)

  def done(values):
    config, task, found = setup(grid=f'optimizer.learning_rate={values}')
    sweep.run(config, tmp_path / 'sweep', task, found, engine)
    return capsys.readouterr().err

  assert 'warning' not in done('1e-3,2e-3')
  best = tmp_path / 'sweep' / 'optimizer.learning_rate=2e-3' / 'seed0'
  assert f'warning: {best}: the best run has no checkpoint' in done('2e-3,3e-3')
  shutil.rmtree(best)
  assert 'warning' not in done('2e-3,3e-3')


def test_thresholds_have_no_best(setup):
  config, task, _ = setup()
  figures = {'accuracy': 0.5, 'best_f1_thresh': -3.0}
  runs = {'runs': [{'figures': figures, 'path': 'runs/seed0'}]}
  content = sweep._content(config, task, runs)
  assert list(content['points'][0]['figures']) == ['accuracy']
  assert content['points'][0]['runs'][0]['figures'] == figures


def test_what_is_no_number_is_last(setup):
  config, task, _ = setup()
  figures = [{'accuracy': x, 'loss': x} for x in (math.nan, 0.5, 0.25)]
  runs = [{'figures': x, 'path': f'seed{i}'} for i, x in enumerate(figures)]
  content = sweep._content(config, task, {'runs': runs})
  assert content['best']['path'] == 'seed1'
  found = content['points'][0]['figures']
  assert [found[x]['best'] for x in ('accuracy', 'loss')] == [0.5, 0.25]
  assert math.isnan(found['loss']['deviation'])
  assert 'nan' in sweep.markdown(content)


def test_an_interrupted_run_goes_on_bit_for_bit(
  setup, engine, tmp_path, monkeypatch
):
  monkeypatch.setattr(lengths, 'choices', lambda _: (*range(8, 33),))
  config, task, found = setup()
  model = dataclasses.replace(config.model, dropout=0.1)
  train = dataclasses.replace(config.train, batch_size=2)
  config = dataclasses.replace(config, model=model, train=train)
  tuned = fine_tuning.for_task(config, task)
  pad = found.tokenizer.special.pad
  assert len({*lengths.Batches(task, tuned, pad).lengths[5:]}) > 1
  whole = sweep.run(config, tmp_path / 'whole', task, found, engine)
  cut = tmp_path / 'cut'
  with monkeypatch.context() as patch:
    steps = itertools.count(1)
    patch.setattr(
      preemption.StopRequest, 'requested', lambda _: next(steps) == 5
    )
    with pytest.raises(errors.Stopped, match='after step 5'):
      sweep.run(config, cut, task, found, engine)
  assert not (cut / 'results.json').exists()
  resumed = sweep.run(config, cut, task, found, engine)
  digests = [
    x['points'][0]['runs'][0]['params_sha256'] for x in (whole, resumed)
  ]
  assert digests[0] == digests[1]


def test_another_config_or_other_examples_are_refused(setup, engine, tmp_path):
  config, task, found = setup(epochs=0.5)
  path = tmp_path / 'sweep'
  sweep.run(config, path, task, found, engine)
  other, _, _ = setup(epochs=1.0)
  said = 'belongs to another run: .*; use another folder'  # by whatever flag
  with pytest.raises(errors.CheckpointError, match=said):
    sweep.run(other, path, task, found, engine)
  task.train.labels[0] = 1 - task.train.labels[0]
  with pytest.raises(errors.CheckpointError, match='fingerprint of the task'):
    sweep.run(config, path, task, found, engine)


def test_other_weights_at_the_same_path_are_refused(
  setup, engine, run, tmp_path, save_run
):
  config, task, _ = setup(epochs=0.5)
  place = tmp_path / 'run'
  shutil.copytree(run.path, place)
  found = pretrained.find(str(place), '--checkpoint')
  config = config_lib.with_changes(config, {'train.init_from': found.source})
  path = tmp_path / 'sweep'
  first = sweep.run(config, path, task, found, engine)
  found = pretrained.find(str(place), '--checkpoint')
  assert sweep.run(config, path, task, found, engine) == first

  params = found.params(
    jax.device_get(nnx.split(_bert(found, run.tokenizer))[1])
  )
  shutil.rmtree(place)
  other = jax.tree.map(lambda x: x + 1, params)
  save_run(place, found.config, run.tokenizer, other)
  found = pretrained.find(str(place), '--checkpoint')
  with pytest.raises(errors.CheckpointError, match='fingerprint of the weight'):
    sweep.run(config, path, task, found, engine)
  # What starts at random does not depend on them.
  config = config_lib.with_changes(config, {'train.init_from': ''})
  sweep.run(config, tmp_path / 'scratch', task, found, engine)


def test_labels_of_other_names_are_refused(setup, engine, tmp_path, tokenizer):
  config, task, found = setup(epochs=0.5)
  path = tmp_path / 'sweep'
  sweep.run(config, path, task, found, engine)
  for name in ('train', 'dev'):
    file = tmp_path / f'{name}.csv'
    file.write_text(file.read_text().replace(',0', ',no').replace(',1', ',yes'))
  renamed = Sentences(config, tokenizer)
  np.testing.assert_array_equal(renamed.train.labels, task.train.labels)
  with pytest.raises(errors.CheckpointError, match='fingerprint of the task'):
    sweep.run(config, path, renamed, found, engine)


def test_a_run_starts_from_the_checkpoint_or_at_random(setup, engine, run):
  config, task, found = setup()
  config = fine_tuning.for_task(config, task)
  tuning = fine_tuning._FineTuning(config, task, found, engine)
  fresh = jax.device_get(tuning.learner.init(tuning.table)).params
  fresh_arrays = leaves.to_host(fresh)
  started = leaves.to_host(tuning.initial(fresh))
  saved = leaves.to_host(
    found.params(nnx.split(_bert(found, run.tokenizer))[1])
  )
  for name, array in started.items():
    new = name.startswith(('pooler', 'classifier'))
    np.testing.assert_array_equal(
      array, fresh_arrays[name] if new else saved[name]
    )
  scratch = dataclasses.replace(
    config, train=dataclasses.replace(config.train, init_from='')
  )
  tuning = fine_tuning._FineTuning(scratch, task, found, engine)
  assert tuning.initial(fresh) is fresh


def test_a_damaged_checkpoint_leaves_no_workdir(setup, engine, run, tmp_path):
  config, task, _ = setup()
  shutil.copytree(run.path, tmp_path / 'run')
  found = pretrained.find(str(tmp_path / 'run'), '--checkpoint')
  state = tmp_path / 'run' / 'checkpoints' / '10' / 'state'
  for file in filter(pathlib.Path.is_file, state.rglob('*')):
    file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(errors.CheckpointError, match='checkpoints/10') as error:
    sweep.run(config, tmp_path / 'sweep', task, found, engine)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'sweep').exists()


def _bert(found, tokenizer):
  from td_flax.model import bert

  return bert.Bert(found.model, tokenizer.vocab_size, nnx.Rngs(9))


@pytest.mark.hf
def test_a_folder_of_hugging_face_starts_the_same(setup, engine, run, tmp_path):
  pytest.importorskip('safetensors', reason='needs the extra `hf`')
  from td_flax.hub import card, export
  from td_flax.model import bert

  config, task, found = setup()
  config = fine_tuning.for_task(config, task)
  size = run.tokenizer.vocab_size
  params = found.params(bert.abstract_params(found.model, size))
  about = card.Run(config=found.config, step=10, eval_loss=None, summary=None)
  folder = tmp_path / 'hf'
  export.export(folder, found.model, params, run.tokenizer, about)
  theirs = pretrained.find(str(folder), '--checkpoint')
  started = []
  for model in (found, theirs):
    tuning = fine_tuning._FineTuning(config, task, model, engine)
    fresh = jax.device_get(tuning.learner.init(tuning.table)).params
    started.append(leaves.to_host(tuning.initial(fresh)))
  for name, array in started[0].items():
    np.testing.assert_array_equal(array, started[1][name])

  (folder / 'model.safetensors').write_bytes(b'half of it')
  with pytest.raises(errors.CheckpointError, match='cannot be read'):
    sweep.run(config, tmp_path / 'sweep', task, theirs, engine)
  assert not (tmp_path / 'sweep').exists()
