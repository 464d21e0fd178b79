import types

from td_flax.compare import runs
from td_flax.compare.plan import Run
from td_flax.workdir import Workdir


def test_a_run_is_finished_when_its_summary_is_whole(tmp_path, make_config):
  config = make_config()
  run = Run('plain', 20, 1)
  workdir = Workdir(tmp_path / runs.FOLDER / run.folder)
  assert runs.finished(tmp_path, {run: config}) == []
  workdir.path.mkdir(parents=True)
  workdir.claim(config, {}, types.SimpleNamespace(save=lambda folder: None))
  for text, done in (
    ('{"step": 2', []),  # cut off
    ('{"step": 10}', []),
    ('{"step": 20}', [run]),
  ):
    workdir.summary_json.write_text(text)
    assert runs.finished(tmp_path, {run: config}) == done
