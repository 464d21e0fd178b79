import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from td_flax import errors, metrics
from td_flax.workdir import Workdir


def step_metrics(loss=8.0, weight=4.0, correct=1.0, norm=2.0, skipped=0, run=0):
  return {
    'loss_sum': jnp.float32(loss),
    'weight': jnp.float32(weight),
    'correct_sum': jnp.float32(correct),
    'grad_norm': jnp.float32(norm),
    'learning_rate': jnp.float32(0.5),
    'skipped': jnp.int32(skipped),
    'skipped_run': jnp.int32(run),
  }


def filled(steps):
  window = metrics.Window()
  for values in steps:
    window.add(values)
  return window


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_means_are_sums_over_weights():
  window = filled(
    [
      step_metrics(loss=8, weight=4, correct=1, norm=7),
      step_metrics(loss=2, weight=1, correct=1, norm=3, skipped=0),
    ]
  )
  assert window.means() == {
    'train/loss': 2.0,
    'train/accuracy': 0.4,
    'train/grad_norm': 3.0,
    'train/learning_rate': 0.5,
    'train/skipped_updates': 0.0,
  }


def test_non_finite_steps_do_not_reach_the_mean():
  window = filled(
    [
      step_metrics(loss=8, weight=4, correct=1),
      step_metrics(loss=math.nan, weight=4, norm=math.inf, skipped=1, run=1),
      step_metrics(loss=math.inf, weight=4, norm=math.nan, skipped=2, run=2),
      step_metrics(loss=4, weight=4, correct=3, skipped=2, run=0),
    ]
  )
  row = window.means()
  assert row['train/loss'] == 1.5
  assert row['train/accuracy'] == 0.5
  assert row['train/skipped_updates'] == 2
  assert window.max_skipped_run == 2


def test_a_window_of_non_finite_steps_has_no_mean():
  window = filled([step_metrics(loss=math.nan, skipped=1, run=1)])
  assert math.isnan(window.means()['train/loss'])


def test_an_empty_window():
  window = metrics.Window()
  assert window.means() == {}
  assert window.max_skipped_run == 0
  assert window.to_json() == []


def test_clearing_starts_anew():
  window = filled([step_metrics(loss=8, run=3)])
  window.clear()
  window.add(step_metrics(loss=4))
  assert window.means()['train/loss'] == 1.0
  assert window.max_skipped_run == 0
  assert [row['loss_sum'] for row in window.fetch()] == [4]


@settings(max_examples=25)
@given(
  losses=st.lists(
    st.floats(0, 2.0**99, width=32) | st.just(math.nan), min_size=1, max_size=8
  ),
  data=st.data(),
)
def test_a_window_that_was_stored_gives_bitwise_the_same_row(losses, data):
  steps = [step_metrics(loss=x, weight=i + 0.1) for i, x in enumerate(losses)]
  cut = data.draw(st.integers(0, len(steps)))
  whole = filled(steps)
  stored = json.dumps(filled(steps[:cut]).to_json(), allow_nan=False)
  resumed = metrics.Window.from_json(json.loads(stored))
  for values in steps[cut:]:
    resumed.add(values)
  assert json.dumps(resumed.means()) == json.dumps(whole.means())
  assert resumed.max_skipped_run == whole.max_skipped_run


@pytest.fixture
def writer(tmp_path):
  made = []

  def open_(resume_step=None, tensorboard=False):
    made.append(
      metrics.Writer(
        Workdir(tmp_path), resume_step=resume_step, tensorboard=tensorboard
      )
    )
    return made[-1]

  yield open_
  for one in made:
    one.close()


def test_a_row_is_on_disk_when_it_is_written(tmp_path, writer):
  out = writer()
  out.write(0, {'eval/loss': 9.5})
  out.write(10, {'train/loss': np.float32(0.5), 'n': 3})
  assert (tmp_path / 'metrics.jsonl').read_text() == (
    '{"step": 0, "eval/loss": 9.5}\n{"step": 10, "train/loss": 0.5, "n": 3}\n'
  )


def test_rows_are_json_whatever_the_figures(tmp_path, writer):
  writer().write(1, {'a': math.nan, 'b': -math.inf, 'c': jnp.float32(2)})
  (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert line == '{"step": 1, "a": null, "b": null, "c": 2.0}'


def test_a_step_has_one_row(writer):
  out = writer()
  out.write(5, {'a': 1})
  for step in (5, 4):
    with pytest.raises(ValueError, match='after step 5'):
      out.write(step, {'a': 2})


@settings(max_examples=25)
@given(
  steps=st.sets(st.integers(0, 20)),
  resume=st.integers(0, 20),
  half=st.integers(0, 30),
)
def test_a_resumed_run_has_every_step_once(
  tmp_path_factory, steps, resume, half
):
  workdir = Workdir(tmp_path_factory.mktemp('run'))
  first = metrics.Writer(workdir, resume_step=None, tensorboard=False)
  for step in sorted(steps):
    first.write(step, {'a': step / 3})
  first.close()
  path = workdir.metrics_jsonl
  with path.open('a') as file:  # killed in the middle of a row
    file.write('{"step": 3, "train/loss": 0.25}'[:half])
  second = metrics.Writer(workdir, resume_step=resume, tensorboard=False)
  for step in range(resume + 1, 25):
    second.write(step, {'a': step / 3})
  second.close()
  expected = sorted(
    {x for x in steps if x <= resume} | {*range(resume + 1, 25)}
  )
  assert rows(path) == [{'step': x, 'a': x / 3} for x in expected]


def test_a_fresh_run_has_no_rows_of_another(tmp_path, writer):
  writer().write(4, {'a': 1})
  writer(resume_step=None).write(0, {'a': 2})
  assert rows(tmp_path / 'metrics.jsonl') == [{'step': 0, 'a': 2}]


def test_rows_wait_for_a_disk_that_is_full(tmp_path, writer, capfd):
  path = tmp_path / 'metrics.jsonl'
  out = writer()
  out.write(1, {'a': 1})
  path.rename(tmp_path / 'away')
  path.symlink_to('/dev/full')
  out.write(2, {'a': 2})
  out.write(3, {'a': 3})
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith(f'warning: {path}: cannot be written (No space left')
  path.unlink()
  with (tmp_path / 'away').open('a') as file:
    file.write('{"step": 2, "half')  # what a full disk leaves
  (tmp_path / 'away').rename(path)
  out.write(4, {'a': 4})
  assert rows(path) == [{'step': x, 'a': x} for x in (1, 2, 3, 4)]


def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path, writer, capfd):
  path = tmp_path / 'metrics.jsonl'
  path.mkdir()
  out = writer(resume_step=7)
  out.write(8, {'a': 1})
  assert len(capfd.readouterr().err.splitlines()) == 1
  path.rmdir()
  path.write_text('{"step": 7, "a": 0}\n{"step": 8, "a": 9}\n')
  out.write(9, {'a': 2})
  assert rows(path) == [
    {'step': 7, 'a': 0}, {'step': 8, 'a': 1}, {'step': 9, 'a': 2},
  ]  # fmt: skip


def events(directory):
  """Everything in the event files, oldest file first."""
  from tensorboardX.proto import event_pb2

  found = []
  for path in sorted(directory.iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')
      found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def test_tensorboard_gets_every_figure(tmp_path, writer):
  out = writer(tensorboard=True)
  out.write(3, {'train/loss': 1.5, 'train/grad_norm': math.nan})
  out.close()
  found = {
    (event.step, value.tag): value.simple_value
    for event in events(tmp_path / 'tensorboard')
    for value in event.summary.value
  }
  assert found[3, 'train/loss'] == 1.5
  assert math.isnan(found[3, 'train/grad_norm'])


def test_tensorboard_hides_what_a_resumed_run_does_again(tmp_path, writer):
  writer(tensorboard=True).write(5, {'a': 1})
  writer(resume_step=4, tensorboard=True).write(5, {'a': 2})
  starts = [
    event.step
    for event in events(tmp_path / 'tensorboard')
    if event.HasField('session_log')
  ]
  assert starts == [0, 5]
  assert len(list((tmp_path / 'tensorboard').iterdir())) == 2


# Its file is closed when it is collected, as tensorboardX cannot close it.
@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.parametrize('when', ['opening', 'writing', 'closing'])
def test_a_failing_tensorboard_never_stops_the_run(
  tmp_path, writer, capfd, monkeypatch, when
):
  if when == 'opening':
    (tmp_path / 'tensorboard').write_text('in the way')
  out = writer(tensorboard=True)
  out.write(1, {'a': 1})

  def fail(*args):
    raise OSError('no space')

  method = {'writing': 'write_event', 'closing': 'close'}.get(when)
  if method:
    kind = metrics.event_file_writer.EventsWriter
    monkeypatch.setattr(kind, method, fail)
  for step in range(2, 40):
    out.write(step, {'a': step})
  out.close()
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith('warning: TensorBoard is off from here on')
  assert len(rows(tmp_path / 'metrics.jsonl')) == 39


def test_rows_are_read_but_for_what_was_half_written(tmp_path, writer):
  writer().write(1, {'loss': math.nan})
  path = tmp_path / 'metrics.jsonl'
  whole = metrics.read(path)
  assert whole == [{'step': 1, 'loss': None}]
  with path.open('a') as file:
    file.write('{"step": 2, "lo')
  assert metrics.read(path) == whole
  path.unlink()
  with pytest.raises(errors.CheckpointError, match='No such file') as error:
    metrics.read(path)
  assert str(error.value).startswith(f'{path}: ')


def test_quantiles_are_those_of_the_updated_ids():
  table = np.concatenate([np.arange(101), np.full(99, 1e6)]).astype(np.float32)
  assert metrics.table_quantiles(table, table < 1e6) == {
    'importance/q05': 5.0,
    'importance/q25': 25.0,
    'importance/q50': 50.0,
    'importance/q75': 75.0,
    'importance/q95': 95.0,
    'importance/updated': 101 / 200,
  }


def test_quantiles_of_an_untouched_table():
  table = np.full(10, 10.0, np.float32)
  assert metrics.table_quantiles(table, np.zeros(10, bool)) == {
    'importance/updated': 0.0
  }
