"""What is measured over a window of steps, and where it is written."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from td_flax import artifacts, errors, progress
from td_flax.workdir import Workdir

_QUANTILES = (5, 25, 50, 75, 95)


class Window:
  """The metrics of the steps between two logs.

  `add` keeps arrays on the device and waits for nothing; everything else
  waits for the steps that were added. Sums are float64 in the order of the
  steps, so that a window that was stored in a checkpoint and read back gives
  bitwise the row of one that never was.
  """

  def __init__(self) -> None:
    self._pending: list[dict[str, jax.Array]] = []
    self._rows: list[dict[str, float]] = []

  def add(self, metrics: dict[str, jax.Array]) -> None:
    """Takes the scalars that a train step returned."""
    self._pending.append(metrics)

  def fetch(self) -> list[dict[str, float]]:
    """The scalars of the window's steps, oldest first."""
    for metrics in jax.device_get(self._pending):
      self._rows.append({name: float(x) for name, x in metrics.items()})
    self._pending.clear()
    return self._rows

  def means(self) -> dict[str, float]:
    """The window as a row: `train/loss` and the like, NaN where undefined.

    Loss and accuracy are per predicted position; steps with a non-finite loss
    count for neither. The other figures are those of the last step.
    """
    rows = self.fetch()
    if not rows:
      return {}
    finite = [row for row in rows if math.isfinite(row['loss_sum'])]
    loss, correct, weight = (
      sum(row[name] for row in finite)
      for name in ('loss_sum', 'correct_sum', 'weight')
    )
    return {
      'train/loss': loss / weight if weight else math.nan,
      'train/accuracy': correct / weight if weight else math.nan,
      'train/grad_norm': rows[-1]['grad_norm'],
      'train/learning_rate': rows[-1]['learning_rate'],
      'train/skipped_updates': rows[-1]['skipped'],
    }

  @property
  def max_skipped_run(self) -> int:
    """The most updates that were skipped in a row, as of any step here."""
    return int(max((row['skipped_run'] for row in self.fetch()), default=0))

  def clear(self) -> None:
    """Starts the next window."""
    self._pending.clear()
    self._rows.clear()

  def to_json(self) -> list[dict[str, float | None]]:
    """The window as JSON, for a checkpoint that falls inside it."""
    return [_finite(row) for row in self.fetch()]

  @classmethod
  def from_json(cls, rows: list[dict[str, float | None]]) -> 'Window':
    """The window that `to_json` described."""
    window = cls()
    window._rows = [
      {name: math.nan if x is None else x for name, x in row.items()}
      for row in rows
    ]
    return window


class Writer:
  """Rows of metrics, to `metrics.jsonl` and to TensorBoard.

  Each step has one row. Logging never stops the training: a row that cannot
  be written is kept and tried again with the next one, after one warning;
  TensorBoard is given up at its first failure. Only one process may construct
  it.

  Args:
    workdir: of the run.
    resume_step: the step that the run goes on from: later rows of the run
      before it are cut. None is a fresh run: no row is left.
    tensorboard: also write TensorBoard's event files.
  """

  def __init__(
    self,
    workdir: Workdir,
    *,
    resume_step: int | None,
    tensorboard: bool,
  ) -> None:
    self._path = workdir.metrics_jsonl
    self._first_step = 0 if resume_step is None else resume_step + 1
    self._last_step = self._first_step - 1
    self._unwritten = ''
    self._size: int | None = None  # bytes of sound rows; None: not yet cut
    self._is_failing = False
    self._flush()
    self._events: event_file_writer.EventsWriter | None = None
    if tensorboard:
      self._try_events(lambda: self._open_events(workdir.tensorboard))

  def write(self, step: int, row: dict[str, float]) -> None:
    """Writes the row of `step`; non-finite figures become null.

    Args:
      step: later than that of every row so far.
      row: figures by name, such as `train/loss`.

    Raises:
      ValueError: `step` has a row already.
    """
    if step <= self._last_step:
      raise ValueError(f'a row of step {step} after step {self._last_step}')
    self._last_step = step
    line = json.dumps({'step': step, **_finite(row)}, allow_nan=False)
    self._unwritten += line + '\n'
    self._flush()
    if self._events is not None:
      self._try_events(lambda: self._write_row(step, row))

  def close(self) -> None:
    """Closes the files."""
    self._flush()
    if self._events is not None:
      self._try_events(self._events.close)
      self._events = None

  def _flush(self) -> None:
    try:
      if self._size is None:
        self._size = _cut_rows(self._path, self._first_step)
      if self._unwritten:
        with self._path.open('ab', buffering=0) as file:
          size = file.seek(0, os.SEEK_END)
          if size > self._size:  # half a row that a failed write left behind
            size = file.truncate(self._size)
          data = self._unwritten.encode()
          if file.write(data) < len(data):
            raise OSError('the disk is full')
        self._size = size + len(data)
        self._unwritten = ''
      self._is_failing = False
    except OSError as error:
      if not self._is_failing:  # one line, not one per row
        progress.write_line(
          f'warning: {self._path}: cannot be written ({error.strerror or error}'
          '); training goes on, rows are kept and tried again'
        )
      self._is_failing = True

  def _open_events(self, directory: pathlib.Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    # tensorboardX's SummaryWriter writes from a thread that dies of the first
    # error; a bounded queue then blocks the training. This is its writer of
    # files without the thread.
    self._events = event_file_writer.EventsWriter(
      str(directory / 'events'),
      # Two runs may start within the second that the name counts in.
      f'.{os.getpid()}.{len(list(directory.iterdir()))}',
    )
    # TensorBoard hides what earlier files say of this step and later ones.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write_event(self._first_step, session_log=start)
    self._events.flush()

  def _write_row(self, step: int, row: dict[str, float]) -> None:
    for name, value in row.items():
      self._write_event(step, summary=summary.scalar(name, value))
    self._events.flush()

  def _write_event(self, step: int, **content: Any) -> None:
    self._events.write_event(
      event_pb2.Event(step=step, wall_time=time.time(), **content)
    )

  def _try_events(self, action: Callable[[], Any]) -> None:
    try:
      action()
    except Exception as error:  # any kind: a logger never ends the training
      events, self._events = self._events, None
      if events is not None:
        with contextlib.suppress(Exception):  # one warning is enough
          events.close()
      progress.write_line(
        f'warning: TensorBoard is off from here on ({error}); training goes on'
      )


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a `metrics.jsonl`, without what a kill left half written.

  Raises:
    errors.CheckpointError: it is missing, or cannot be read.
  """
  try:
    lines = path.read_bytes().splitlines(keepends=True)
  except OSError as error:
    raise errors.CheckpointError(
      f'{path}: cannot be read ({error.strerror})'
    ) from error
  return [json.loads(line) for line in lines if _is_kept(line, math.inf)]


def table_quantiles(table: np.ndarray, updated: np.ndarray) -> dict[str, float]:
  """The importance table in six figures.

  Args:
    table: f32[V], the importance of every id.
    updated: bool[V], the ids whose importance was ever updated.

  Returns:
    `importance/q05` to `q95`, over the updated ids if there are any, and
    `importance/updated`, their share.
  """
  row = {}
  if updated.any():
    values = np.percentile(table[updated].astype(np.float64), _QUANTILES)
    for percent, value in zip(_QUANTILES, values, strict=True):
      row[f'importance/q{percent:02d}'] = float(value)
  row['importance/updated'] = float(updated.mean())
  return row


def _finite(row: dict[str, float]) -> dict[str, float | None]:
  """Python's numbers, None where not finite: JSON knows no others."""
  numbers = {
    name: x if isinstance(x, int) else float(x) for name, x in row.items()
  }
  return {name: x if math.isfinite(x) else None for name, x in numbers.items()}


def _cut_rows(path: pathlib.Path, first_step: int) -> int:
  """Drops rows from `first_step` on and unreadable ones; returns the size."""
  if not path.exists():
    return 0
  lines = path.read_bytes().splitlines(keepends=True)
  kept = b''.join(line for line in lines if _is_kept(line, first_step))
  if kept != b''.join(lines):
    artifacts.write_atomically(path, kept)
  return len(kept)


def _is_kept(line: bytes, first_step: float) -> bool:
  try:
    return line.endswith(b'\n') and json.loads(line)['step'] < first_step
  except (ValueError, KeyError, TypeError):
    return False  # half written when the run was killed
