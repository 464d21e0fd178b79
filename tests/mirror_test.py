"""Workdirs in a bucket that is a folder."""

import json
import os
import pathlib
import shutil
import sys

import pytest
import small_run
import support
from store import contents, noted, put

from td_flax import bucket, errors, mirror

ROOT = pathlib.Path(__file__).parents[1]
RUN = 'gs://b/runs/one'


def test_a_local_path_is_used_as_it_is(tmp_path):
  with mirror.workdir(str(tmp_path / 'run')) as folder:
    assert folder == tmp_path / 'run'
  assert not folder.exists()


def test_the_bucket_holds_what_the_folder_held(store):
  with mirror.workdir(RUN) as folder:
    put(folder / 'config.json')
    put(folder / 'checkpoints/10/state/d/array')
    put(folder / 'checkpoints/10/record/record.json')
    put(folder / 'metrics.jsonl')
    for name in ('data/shard', '.lock', 'config.json.tmp'):
      put(folder / name)
    put(folder / 'checkpoints/20.orbax-checkpoint-tmp-1/array')
  expected = {
    'config.json': 'x',
    'metrics.jsonl': 'x',
    'checkpoints/10/state/d/array': 'x',
    'checkpoints/10/record/record.json': 'x',
  }
  assert contents(store / 'b/runs/one') == expected
  written = [x for x in noted(store, 'writes') if 'lease' not in x]
  # A row of metrics before its checkpoint, and that last which completes it.
  assert written[-1].endswith('record/record.json')
  assert written.index('b/runs/one/metrics.jsonl') < 2
  with mirror.workdir(RUN) as folder:
    assert (folder / 'data/shard').exists()  # is no part of the mirror
    put(folder / 'metrics.jsonl', 'xy')
    (folder / 'config.json').unlink()
  assert contents(store / 'b/runs/one') == {
    'metrics.jsonl': 'xy',
    **{k: v for k, v in expected.items() if 'checkpoints' in k},
  }
  written = [x for x in noted(store, 'writes') if 'lease' not in x]
  assert written == ['b/runs/one/metrics.jsonl']


def test_what_the_bucket_does_not_have_is_forgotten(store):
  with mirror.workdir(RUN) as folder:
    put(folder / 'checkpoints/10/record/record.json')
  # The machine goes before this is written:
  put(folder / 'checkpoints/20/record/record.json')
  # and in the middle of an upload, or of a deletion:
  put(store / 'b/runs/one/checkpoints/30/state/array')
  with mirror.workdir(RUN) as folder:
    assert [x.name for x in (folder / 'checkpoints').iterdir()] == ['10']


def test_what_is_not_mirrored_stays_in_the_bucket(store):
  there = {'data/shard': 'x', 'v1.tmpl/x': 'x', 'config.json': 'x'}
  for name, content in there.items():
    put(store / 'b/runs/one' / name, content)
  with mirror.workdir(RUN) as folder:
    assert contents(folder) == {'config.json': 'x'}
  assert contents(store / 'b/runs/one') == there
  # Nor does it count as a change from elsewhere:
  run_that_cannot_write(store)
  (store / 'broken').unlink()
  run_nothing()
  assert contents(store / 'b/runs/one').keys() > there.keys()


def test_a_lost_folder_does_not_empty_the_bucket(store):
  put(store / 'b/runs/one/config.json')

  def lose():
    with mirror.workdir(RUN) as folder:
      shutil.rmtree(folder)

  with pytest.raises(
    errors.CheckpointError, match='is gone; gs://b/runs/one stays as'
  ):
    lose()
  assert contents(store / 'b/runs/one') == {'config.json': 'x'}


def test_changes_are_written_while_it_runs(store, monkeypatch):
  monkeypatch.setattr(mirror, '_SECONDS_BETWEEN_WRITES', 0.05)
  with mirror.workdir(RUN) as folder:
    put(folder / 'metrics.jsonl')
    support.wait_until((store / 'b/runs/one/metrics.jsonl').exists)


def test_a_bucket_that_fails_is_one_warning_and_an_error_at_the_end(
  store, monkeypatch, capsys
):
  monkeypatch.setattr(mirror, '_SECONDS_BETWEEN_WRITES', 0.02)
  said = ''

  def is_told():
    nonlocal said
    said += capsys.readouterr().err
    return 'cannot be written' in said

  def run():
    with mirror.workdir(RUN) as folder:
      (store / 'broken').touch()
      put(folder / 'metrics.jsonl')
      support.wait_until(is_told)

  with pytest.raises(errors.CheckpointError, match='503 backend error; all of'):
    run()
  said += capsys.readouterr().err
  assert said.count('cannot be written (OSError: 503 backend error)') == 1
  (store / 'broken').unlink()


def run_nothing():
  """A run that does nothing."""
  with mirror.workdir(RUN):
    pass


def run_that_cannot_write(store):
  """Leaves a checkpoint that the bucket does not get."""
  with mirror.workdir(RUN) as folder:
    put(folder / 'metrics.jsonl', 'a row')

  def run():
    with mirror.workdir(RUN):
      put(folder / 'metrics.jsonl', 'a row and another')
      put(folder / 'checkpoints/10/state/array')
      put(folder / 'checkpoints/10/record/record.json')
      (store / 'broken').touch()

  with pytest.raises(errors.CheckpointError, match='all of it lies in'):
    run()
  return folder


def test_what_could_not_be_written_is_written_by_the_next_start(store):
  folder = run_that_cannot_write(store)
  record = folder / 'checkpoints/10/record/record.json'
  with pytest.raises(errors.CheckpointError, match='503 backend error'):
    run_nothing()
  assert record.exists()
  (store / 'broken').unlink()
  with mirror.workdir(RUN):
    assert record.exists()
    assert (folder / 'metrics.jsonl').read_text() == 'a row and another'
  assert set(contents(store / 'b/runs/one')) == {
    'metrics.jsonl',
    'checkpoints/10/state/array',
    'checkpoints/10/record/record.json',
  }
  # And never again: from here on it is the bucket that counts.
  put(folder / 'checkpoints/20/record/record.json')
  with mirror.workdir(RUN):
    assert not (folder / 'checkpoints/20').exists()


def test_an_upload_that_was_cut_off_is_finished_by_the_next_start(
  store, monkeypatch
):
  whole = bucket.Bucket.put

  def put_arrays_only(self, path, name):
    if name.endswith('record.json'):
      raise OSError('cut off')
    whole(self, path, name)

  def run():
    with mirror.workdir(RUN) as folder:
      put(folder / 'checkpoints/10/state/array')
      put(folder / 'checkpoints/10/record/record.json')

  with monkeypatch.context() as patch:
    patch.setattr(bucket.Bucket, 'put', put_arrays_only)
    for again in (run, run_nothing):
      with pytest.raises(errors.CheckpointError, match='cut off; all of it'):
        again()
  with mirror.workdir(RUN) as folder:
    assert (folder / 'checkpoints/10/record/record.json').exists()


def test_what_another_machine_wrote_since_is_not_overwritten(store):
  folder = run_that_cannot_write(store)
  (store / 'broken').unlink()
  put(store / 'b/runs/one/metrics.jsonl', 'a row and others')
  with pytest.raises(errors.CheckpointError, match='changed from elsewhere'):
    run_nothing()
  assert (folder / 'checkpoints/10/record/record.json').exists()
  found = contents(store / 'b/runs/one')
  assert found == {'metrics.jsonl': 'a row and others'}


def test_of_two_runs_that_start_at_once_the_first_ends(store, monkeypatch):
  lease = store / 'b/runs/one/lease.json'
  another = json.dumps({'owner': 'elsewhere:x', 'time': 0})
  monkeypatch.setattr(mirror.time, 'sleep', lambda _: put(lease, another))
  with pytest.raises(errors.CheckpointError, match=r'another run .*elsewhere'):
    run_nothing()
  assert lease.read_text() == another


def test_a_run_whose_lease_is_taken_ends_and_writes_nothing_more(store):
  lease = store / 'b/runs/one/lease.json'
  code = f"""
import pathlib, sys
sys.path.append({str(ROOT / 'tests/launch')!r})
import fake_bucket
from td_flax import mirror

mirror._LEASE_SECONDS = 0.4
with mirror.workdir({RUN!r}) as folder:
  (folder / 'metrics.jsonl').write_text('x')
  while True:
    part = pathlib.Path({str(lease)!r} + '.new')
    part.write_text('{{"owner": "elsewhere:x", "time": 0}}')
    part.replace({str(lease)!r})
"""
  done = support.run([sys.executable, '-c', code])
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
    f'error: {RUN}: another run is using this workdir (elsewhere:x)'
  )
  assert json.loads(lease.read_text())['owner'] == 'elsewhere:x'
  assert not (store / 'b/runs/one/metrics.jsonl').exists()


def test_a_run_that_slept_writes_nothing_over_the_next_one(store):
  """The lease is looked at before a write, not only when it is renewed."""
  code = f"""
import json, pathlib, sys
sys.path.append({str(ROOT / 'tests/launch')!r})
import fake_bucket
from td_flax import mirror

run = pathlib.Path({str(store / 'b/runs/one')!r})
with mirror.workdir({RUN!r}) as folder:
  (folder / 'metrics.jsonl').write_text('mine')
  (run / 'lease.json').write_text(json.dumps({{'owner': 'b:x', 'time': 0}}))
  (run / 'metrics.jsonl').write_text('of the next one')
"""
  done = support.run([sys.executable, '-c', code])
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].endswith('is using this workdir (b:x)')
  found = contents(store / 'b/runs/one')
  assert found['metrics.jsonl'] == 'of the next one'


def test_two_runs_never_share_a_workdir(store, start, monkeypatch):
  monkeypatch.setattr(mirror, '_LEASE_SECONDS', 1.5)
  with mirror.workdir(RUN):
    with (
      pytest.raises(errors.CheckpointError, match='another process is using'),
      mirror.workdir(RUN),
    ):
      pass
    lease = store / 'b/runs/one/lease.json'
    content = json.loads(lease.read_text())
  assert not lease.exists()
  put(lease, json.dumps(content | {'owner': 'elsewhere:x'}))
  with mirror.workdir(RUN):  # nobody renews it
    pass
  monkeypatch.setattr(mirror, '_LEASE_SECONDS', 4.0)
  renewing = start(
    [
      sys.executable, '-c',
      'import json, pathlib, sys, time\n'
      'for i in range(600):\n'
      '  part = pathlib.Path(sys.argv[1] + ".new")\n'
      '  part.write_text(json.dumps({"owner": "elsewhere:x", "time": i}))\n'
      '  part.replace(sys.argv[1]); time.sleep(0.2)',
      str(lease),
    ]
  )  # fmt: skip
  support.wait_until(lease.exists, renewing)
  with (
    pytest.raises(errors.CheckpointError, match=r'another run .*elsewhere'),
    mirror.workdir(RUN),
  ):
    pass


@pytest.mark.parametrize('url', ['gs://b', 'gs://'])
def test_a_bucket_alone_is_no_place(store, url):
  with (
    pytest.raises(errors.ConfigError, match='must be gs://BUCKET/PATH'),
    mirror.workdir(url),
  ):
    pass


def command(module, *arguments):
  values = {'train.num_steps': 20, 'checkpoint.every': 10}
  options = small_run.options(values)
  return [sys.executable, '-m', module, *options, *arguments]


def test_a_run_goes_on_where_another_machine_left_it(store, tmp_path):
  site = tmp_path / 'site'
  site.mkdir()
  fake = ROOT / 'tests/launch/fake_bucket.py'
  (site / 'sitecustomize.py').write_text(fake.read_text())
  environment = os.environ | {'PYTHONPATH': f'{ROOT}:{site}'}

  def run(*arguments):
    return support.run(command(*arguments), env=environment)

  packing = 'td_flax.tools.prepare'
  refused = run(packing, '--config.data.dir=gs://b/packed')
  assert refused.returncode == 2
  assert 'gcloud storage cp' in refused.stderr
  done = run(packing, f'--config.data.dir={store}/b/packed')
  assert done.returncode == 0, done.stderr
  training = (
    'td_flax.main', f'--workdir={RUN}', '--config.data.dir=gs://b/packed'
  )  # fmt: skip
  first = run(*training)
  assert first.returncode == 0, first.stderr
  before = contents_of_metrics(store)
  environment['XDG_CACHE_HOME'] = str(tmp_path / 'another machine')
  second = run(*training)
  assert second.returncode == 0, second.stderr
  assert 'resuming from step 20' in second.stderr
  assert contents_of_metrics(store) == before
  assert (store / 'b/runs/one/summary.json').exists()
  third = run(
    'td_flax.main',
    f'--workdir={tmp_path}/third',
    '--config.data.dir=gs://b/packed',
    f'--config.train.init_from={RUN}',
  )
  assert third.returncode == 0, third.stderr
  losses = [
    [json.loads(line).get('eval/loss') for line in text.splitlines()]
    for text in (before, (tmp_path / 'third/metrics.jsonl').read_text())
  ]
  assert losses[1][0] == pytest.approx(losses[0][-1])  # where the first ended


def contents_of_metrics(store):
  return (store / 'b/runs/one/metrics.jsonl').read_text()
