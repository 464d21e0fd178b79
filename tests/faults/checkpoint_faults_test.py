"""What is done to checkpoints on disk, and what a run makes of it."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from td_flax import checkpoint, errors, saved


def state_of(step):
  # Nearly all bytes are parameters: orbax packs arrays into files in an order
  # that differs from save to save, and some tests harm the parameters.
  rng = np.random.default_rng(step)
  return {
    'params': {'w': rng.normal(size=[40, 50]).astype(np.float32)},
    'importance': rng.normal(size=20).astype(np.float32),
    'step': np.int32(step),
  }


@pytest.fixture
def opened():
  made = []

  def open_(directory, keep=5):
    made.append(checkpoint.Checkpoints(directory, keep=keep, keep_best=True))
    return made[-1]

  yield open_
  for one in made:
    one.close()


@pytest.fixture(scope='module')
def three_steps(tmp_path_factory):
  directory = tmp_path_factory.mktemp('source') / 'checkpoints'
  checkpoints = checkpoint.Checkpoints(directory, keep=5, keep_best=True)
  for step in (10, 20, 30):
    checkpoints.save(step, state_of(step), {'at': step}, eval_loss=None)
  checkpoints.close()
  return directory


@pytest.fixture
def run(three_steps, tmp_path):
  """A directory with the sound steps 10, 20 and 30."""
  return pathlib.Path(shutil.copytree(three_steps, tmp_path / 'checkpoints'))


def assert_restores(checkpoints, step):
  found, state, metadata = checkpoints.restore_latest(state_of(0))
  assert (found, metadata) == (step, {'at': step})
  for name in ('importance', 'step'):
    np.testing.assert_array_equal(state[name], state_of(step)[name])


def largest_file(step_directory):
  files = [x for x in step_directory.rglob('*') if x.is_file()]
  return max(files, key=lambda x: x.stat().st_size)


def flip_in_arrays(step):
  path = largest_file(step)
  data = bytearray(path.read_bytes())
  assert len(data) > 4096
  middle = len(data) // 2
  for i in range(middle, middle + 5):
    data[i] ^= 0xFF
  path.write_bytes(data)


def flip_in_record(step):
  path = step / 'record' / 'record.json'
  text = path.read_text()
  assert '"at": 30' in text
  path.write_text(text.replace('"at": 30', '"at": 31'))


def truncate(step):
  path = largest_file(step)
  os.truncate(path, path.stat().st_size // 2)


def empty(step):
  largest_file(step).write_bytes(b'')


def remove_data(step):
  largest_file(step).unlink()


def remove_record(step):
  shutil.rmtree(step / 'record')


def garble_record(step):
  (step / 'record' / 'record.json').write_text('{"step": 30, "lea')


def no_record_but_json(step):
  (step / 'record' / 'record.json').write_text('[30]')


def half_copy(step):
  files = sorted(x for x in step.rglob('*') if x.is_file())
  for path in files[len(files) // 2 :]:
    path.unlink()


def only_a_directory(step):
  shutil.rmtree(step)
  step.mkdir()


def a_file_of_that_name(step):
  shutil.rmtree(step)
  step.write_text('not a directory')


def copied_step(step):
  shutil.rmtree(step)
  shutil.copytree(step.with_name('20'), step)


@pytest.mark.parametrize(
  'damage',
  [
    flip_in_arrays,
    flip_in_record,
    truncate,
    empty,
    remove_data,
    remove_record,
    garble_record,
    no_record_but_json,
    half_copy,
    only_a_directory,
    a_file_of_that_name,
    copied_step,
  ],
)
def test_a_damaged_step_is_set_aside_and_the_one_before_restored(
  run, opened, capfd, damage
):
  damage(run / '30')
  checkpoints = opened(run)
  assert_restores(checkpoints, 20)
  assert checkpoints.steps() == [10, 20]
  assert (run / '30.damaged').exists()
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith(f'warning: {run / "30"}')
  assert line.endswith('renamed to 30.damaged')


def test_the_warning_names_the_array_or_the_copy(run, opened, capfd):
  copied_step(run / '30')
  assert_restores(opened(run), 20)
  (line,) = capfd.readouterr().err.splitlines()
  assert f'{run / "30"}: is a copy of step 20; renamed' in line
  flip_in_arrays(run / '20')
  assert_restores(opened(run), 10)
  line = capfd.readouterr().err
  assert 'differs from its digest' in line or 'unreadable' in line


def flip_one_byte(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 3] ^= 0x10
  path.write_bytes(data)


@pytest.mark.parametrize('harm', [flip_one_byte, pathlib.Path.unlink])
def test_whatever_file_is_harmed_the_state_is_one_that_was_saved(
  run, opened, tmp_path, harm
):
  files = [
    x for x in (run / '30').rglob('*') if x.is_file() and x.stat().st_size
  ]
  for number, path in enumerate(sorted(files)):
    copy = tmp_path / str(number)
    shutil.copytree(run, copy)
    harm(copy / path.relative_to(run))
    step, state, _ = opened(copy).restore_latest(state_of(0))
    assert step in (20, 30)  # orbax can do without some files
    np.testing.assert_array_equal(
      state['params']['w'], state_of(step)['params']['w']
    )
    np.testing.assert_array_equal(
      state['importance'], state_of(step)['importance']
    )


def test_a_rolled_back_run_saves_the_same_steps_again(run, opened):
  flip_in_arrays(run / '30')
  remove_record(run / '20')
  checkpoints = opened(run)
  assert_restores(checkpoints, 10)
  for step in (20, 30):
    checkpoints.save(step, state_of(step), {'at': step}, eval_loss=None)
  checkpoints.wait()
  assert checkpoints.steps() == [10, 20, 30]
  assert_restores(checkpoints, 30)
  assert {'20.damaged', '30.damaged'} <= {x.name for x in run.iterdir()}


def test_the_same_step_damaged_twice_is_kept_twice(run, opened):
  for _ in range(2):
    truncate(run / '30')
    checkpoints = opened(run)
    assert_restores(checkpoints, 20)
    checkpoints.save(30, state_of(30), {'at': 30}, eval_loss=None, wait=True)
  assert (run / '30.damaged').is_dir()
  assert (run / '30.damaged.2').is_dir()


def test_no_sound_step_left_is_an_error_for_good(run, opened):
  for step in (10, 20, 30):
    truncate(run / str(step))
  for _ in range(2):  # also the next time: a run never silently starts over
    with pytest.raises(errors.CheckpointError, match='no checkpoint is sound'):
      opened(run).restore_latest(state_of(0))
  assert sorted(x.name for x in run.iterdir()) == [
    '10.damaged', '20.damaged', '30.damaged',
  ]  # fmt: skip


def test_an_interrupted_first_save_is_no_checkpoint(tmp_path, opened):
  left = tmp_path / '10.orbax-checkpoint-tmp'
  (left / 'state').mkdir(parents=True)
  checkpoints = opened(tmp_path)
  assert checkpoints.restore_latest(state_of(0)) is None
  assert not left.exists()


def test_damaged_parameters_are_not_started_from(run):
  flip_in_arrays(run / '30')
  with pytest.raises(errors.CheckpointError, match=str(run / '30')):
    saved.load_params(run / '30', state_of(0)['params'])
  assert (run / '30').is_dir()  # of another run: left alone


def test_damaged_steps_do_not_count_as_kept(run, opened):
  for damage, step in ((remove_record, 20), (a_file_of_that_name, 30)):
    damage(run / str(step))
  checkpoints = opened(run, keep=2)
  for step in (40, 50):
    checkpoints.save(step, state_of(step), {'at': step}, eval_loss=None)
  checkpoints.wait()
  assert checkpoints.steps() == [20, 30, 40, 50]  # 10 went, they stay


def test_a_file_instead_of_the_directory(tmp_path):
  (tmp_path / 'checkpoints').write_text('')
  with pytest.raises(errors.CheckpointError, match='checkpoints: cannot be'):
    checkpoint.Checkpoints(tmp_path / 'checkpoints', keep=1, keep_best=False)


def test_a_failing_save_warns_and_the_next_one_tries_anew(
  tmp_path, opened, capfd
):
  checkpoints = opened(tmp_path / 'checkpoints')
  checkpoints.save(10, state_of(10), {'at': 10}, eval_loss=None, wait=True)
  (tmp_path / 'checkpoints').rename(tmp_path / 'away')
  (tmp_path / 'checkpoints').write_text('in the way')
  checkpoints.save(20, state_of(20), {'at': 20}, eval_loss=None)
  with pytest.raises(errors.CheckpointError, match='20 was not saved: '):
    checkpoints.wait()
  (tmp_path / 'checkpoints').unlink()
  (tmp_path / 'away').rename(tmp_path / 'checkpoints')
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith('warning: checkpoint 20 was not saved: ')
  checkpoints.save(30, state_of(30), {'at': 30}, eval_loss=None, wait=True)
  assert checkpoints.steps() == [10, 30]
  assert_restores(checkpoints, 30)


def test_a_step_that_exists_is_not_overwritten(run, opened, capfd):
  checkpoints = opened(run)
  checkpoints.save(20, state_of(99), {}, eval_loss=None)
  assert 'checkpoint 20 was not saved' in capfd.readouterr().err
  params = saved.load_params(run / '20', state_of(0)['params'])
  np.testing.assert_array_equal(params['w'], state_of(20)['params']['w'])


def test_too_little_space_is_said_before_anything_is_written(
  tmp_path, opened, capfd, monkeypatch
):
  checkpoints = opened(tmp_path)
  usage = shutil.disk_usage(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    checkpoints.save(10, state_of(10), {'at': 10}, eval_loss=None)
    assert capfd.readouterr().err == (
      'warning: checkpoint 10 was not saved: 0.0 MB needed, 0.0 MB free on the '
      'disk\n'
    )
    assert list(tmp_path.iterdir()) == []
  checkpoints.save(20, state_of(20), {'at': 20}, eval_loss=None, wait=True)
  assert checkpoints.steps() == [20]


_FULL_DISK = """
import pathlib, resource, sys
import numpy as np
from td_flax import checkpoint, errors

directory = pathlib.Path(sys.argv[1])
checkpoints = checkpoint.Checkpoints(directory, keep=3, keep_best=True)
rng = np.random.default_rng(0)
state = {'w': rng.normal(size=[300, 300])}
checkpoints.save(1, state, {}, eval_loss=None, wait=True)
unlimited = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited))
checkpoints.save(2, state, {}, eval_loss=None)
print('training goes on')
try:
  checkpoints.wait()
except errors.CheckpointError as error:
  print('told')
resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
checkpoints.save(3, state, {}, eval_loss=None, wait=True)
print(checkpoints.steps(), sorted(x.name for x in directory.iterdir()))
checkpoints.close()
"""


def test_files_that_cannot_grow_do_not_end_the_training(tmp_path):
  run = subprocess.run(
    [sys.executable, '-c', _FULL_DISK, str(tmp_path)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.splitlines() == [
    'training goes on',
    'told',
    "[1, 3] ['1', '3']",
  ]
  (line,) = run.stderr.splitlines()
  assert line.startswith('warning: checkpoint 2 was not saved: ')


_KILLED = """
import os, pathlib, signal, sys
import numpy as np
from td_flax import checkpoint

checkpoints = checkpoint.Checkpoints(
  pathlib.Path(sys.argv[1]), keep=3, keep_best=True
)
checkpoints.save(10, {'w': np.arange(9)}, {}, eval_loss=None, wait=True)

def kill_at_the_end(event, arguments):
  # All is written, and the directory is about to get its name.
  if event == 'os.rename' and os.path.basename(arguments[1]) == '20':
    os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill_at_the_end)
checkpoints.save(20, {'w': np.zeros(9)}, {}, eval_loss=None, wait=True)
"""


def test_a_run_killed_while_saving_has_its_last_checkpoint(tmp_path, opened):
  run = subprocess.run(
    [sys.executable, '-c', _KILLED, str(tmp_path)], timeout=120, check=False
  )
  assert run.returncode == -signal.SIGKILL
  checkpoints = opened(tmp_path)
  step, state, _ = checkpoints.restore_latest({'w': np.arange(9)})
  assert step == 10
  np.testing.assert_array_equal(state['w'], np.arange(9))
  assert [x.name for x in tmp_path.iterdir()] == ['10']
