import types

import pytest

from td_flax import errors
from td_flax.compare import runs, settings
from td_flax.compare.plan import Run
from td_flax.workdir import Workdir


def test_a_run_is_finished_when_its_summary_is_whole(tmp_path, make_config):
  config = make_config()
  run = Run('plain', 20, 1)
  workdir = Workdir(tmp_path / runs.FOLDER / run.folder)
  assert runs.finished(tmp_path, {run: config}) == []
  workdir.path.mkdir(parents=True)
  workdir.claim(
    config, {}, types.SimpleNamespace(file='x', save=lambda folder: None)
  )
  for text, done in (
    ('{"step": 2', []),  # cut off
    ('{"step": 10}', []),
    ('{"step": 20}', [run]),
  ):
    workdir.summary_json.write_text(text)
    assert runs.finished(tmp_path, {run: config}) == done


def test_a_run_of_other_rows_is_refused(tmp_path, make_config):
  config = make_config()
  run = Run('plain', 20, 1)
  workdir = Workdir(tmp_path / runs.FOLDER / run.folder)
  workdir.path.mkdir(parents=True)
  tokenizer = types.SimpleNamespace(file='x', save=lambda folder: None)
  ours, theirs = ({'tokenizer': 'a', 'dataset': x} for x in 'bc')
  workdir.claim(config, ours, tokenizer)
  workdir.summary_json.write_text('{"step": 20, "last_eval_loss": 1.0}')
  assert runs.finished(tmp_path, {run: config}, ours) == [run]
  with pytest.raises(errors.CheckpointError, match='dataset'):
    runs.finished(tmp_path, {run: config}, theirs)


def test_a_run_without_its_metrics_is_told(tmp_path):
  run = Run('plain', 20, 1)
  workdir = Workdir(tmp_path / runs.FOLDER / run.folder)
  workdir.path.mkdir(parents=True)
  workdir.summary_json.write_text('{"step": 20, "last_eval_loss": 1.0}')
  none = settings.Scores((), '', '', 0, 1, 3.0, 5e-5)
  with pytest.raises(errors.CheckpointError, match=r'\.jsonl: .* delete'):
    runs.read(tmp_path, run, none)
