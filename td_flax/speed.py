"""How fast a run trains: without compiling, evaluating and saving."""

import contextlib
import time
from collections.abc import Iterator


class Speed:
  """A clock that runs while the loop trains, and the steps it saw.

  Args:
    tokens_per_step: over all devices and processes.

  Attributes:
    compile_seconds: what compiling the train step took.
    data_seconds: what the loop waited for data.
  """

  def __init__(self, tokens_per_step: int):
    self._tokens_per_step = tokens_per_step
    self._since: float | None = None
    self._seconds = 0.0
    self._steps = 0
    self._window = (0, 0.0)  # steps and seconds at the latest `row`
    self.compile_seconds = 0.0
    self.data_seconds = 0.0

  @contextlib.contextmanager
  def compiling(self) -> Iterator[None]:
    """Times what it encloses as compilation."""
    begun = time.monotonic()
    yield
    self.compile_seconds = time.monotonic() - begun

  def start(self) -> None:
    """Lets the clock run."""
    self._since = time.monotonic()

  def _stop(self) -> None:
    self._seconds += time.monotonic() - self._since
    self._since = None

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Stops the clock; the device must have finished the steps so far."""
    self._stop()
    yield
    self.start()

  def add_step(self) -> None:
    """Counts a step."""
    self._steps += 1

  def row(self, waited: float) -> dict[str, float]:
    """The figures since the last row; call while paused.

    Args:
      waited: seconds the loop waited for data since then.

    Returns:
      `throughput/tokens_per_second` and `throughput/data_wait_share`.
    """
    self.data_seconds += waited
    steps, seconds = self._window
    self._window = (self._steps, self._seconds)
    steps, seconds = self._steps - steps, self._seconds - seconds
    return {
      'throughput/tokens_per_second': steps * self._tokens_per_step / seconds,
      'throughput/data_wait_share': waited / seconds,
    }

  def total(self) -> dict[str, float] | None:
    """The figures of all steps seen, None where there were none."""
    if not self._steps:
      return None
    return {
      'train_seconds': self._seconds,
      'tokens_per_second': self._steps * self._tokens_per_step / self._seconds,
      'data_wait_share': self.data_seconds / self._seconds,
      'compile_seconds': self.compile_seconds,
    }
