"""The next batch, on the device before it is needed."""

import time
from concurrent import futures
from types import TracebackType
from typing import Any, Self

from td_flax import parallel
from td_flax.data.pipeline import Pipeline


class Feed:
  """Reads one step ahead in a thread and puts its rows on the devices.

  A context manager. Nothing of it is saved: what it yields is a function of
  the step.

  Args:
    pipeline: the batches.
    engine: splits rows over devices.
    rows: the rows [start, stop) of a global batch that this process reads.
    start: the first step that will be asked for.
    stop: the step behind the last one.
  """

  def __init__(
    self,
    pipeline: Pipeline,
    engine: parallel.Engine,
    rows: tuple[int, int],
    start: int,
    stop: int,
  ):
    self._pipeline = pipeline
    self._engine = engine
    self._rows = rows
    self._stop = stop
    self._thread = futures.ThreadPoolExecutor(1, 'feed')
    self._next = self._thread.submit(self._read, start)
    self._waited = 0.0

  def _read(self, step: int) -> Any:
    return self._engine.split(self._pipeline.batch(step, *self._rows))

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    self._thread.shutdown(cancel_futures=True)

  def batch(self, step: int) -> Any:
    """The rows of `step`; steps must be asked for one after the other."""
    begun = time.monotonic()
    batch = self._next.result()
    self._waited += time.monotonic() - begun
    if step + 1 < self._stop:
      self._next = self._thread.submit(self._read, step + 1)
    return batch

  def take_waited(self) -> float:
    """Seconds the loop has waited for data since this was last asked."""
    waited, self._waited = self._waited, 0.0
    return waited
