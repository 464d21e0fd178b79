"""How fast a run trains: without compiling, evaluating and saving."""

import contextlib
import time
from collections.abc import Iterator

from td_flax import compilation


class Speed:
  """A clock that runs while the loop trains, and the steps it saw.

  Args:
    peak_flops: what all devices could do in a second, in bfloat16 whatever
      the model computes in; None where nobody knows.

  Attributes:
    compile_seconds: what tracing and compiling the train step took.
    compile_cached: all compiled train steps were found in JAX's cache.
    eval_compile_seconds: what compiling the evaluation took, which happens in
      the first one.
    data_seconds: what the loop waited for data. The device may have been busy
      with earlier steps meanwhile: it waited for no longer than that.
  """

  def __init__(
    self,
    *,
    peak_flops: float | None,
  ):
    self._peak_flops = peak_flops
    self._since: float | None = None
    self._seconds = 0.0
    self._tokens = 0
    self._flops = 0
    self._window = (0, 0, 0.0)  # tokens, FLOPs, seconds at the latest `row`
    self._untold: dict[str, float] = {}  # of compiling, since then
    self.compile_seconds = 0.0
    self.compile_cached = False
    self.eval_compile_seconds = 0.0
    self.data_seconds = 0.0

  @contextlib.contextmanager
  def compiling(self, programs: int) -> Iterator[None]:
    """Times what it encloses as compilation of so many train steps."""
    begun = time.monotonic()
    with compilation.measured() as compiled:
      yield
    self.compile_seconds = time.monotonic() - begun
    self.compile_cached = compiled.from_cache >= programs
    self._untold['throughput/compile_seconds'] = self.compile_seconds

  @contextlib.contextmanager
  def evaluating(self) -> Iterator[None]:
    """Measures the compilation that an evaluation begins with, if any."""
    with compilation.measured() as compiled:
      yield
    if compiled.seconds:
      self.eval_compile_seconds += compiled.seconds
      self._untold['throughput/eval_compile_seconds'] = compiled.seconds

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

  def add_step(self, tokens: int, flops: int) -> None:
    """Counts a step: its tokens, [PAD] included, and FLOPs on all devices."""
    self._tokens += tokens
    self._flops += flops

  def row(self, waited: float) -> dict[str, float]:
    """The figures since the last row; call while paused.

    Args:
      waited: seconds the loop waited for data since then.

    Returns:
      `throughput/tokens_per_second`, `throughput/model_flops_per_second`,
      `throughput/mfu` where the peak is known, `throughput/data_wait_share`;
      also, in the row after it happened, `throughput/compile_seconds` and
      `throughput/eval_compile_seconds`.
    """
    self.data_seconds += waited
    tokens, flops, seconds = self._window
    self._window = (self._tokens, self._flops, self._seconds)
    figures = self._figures(
      self._tokens - tokens,
      self._flops - flops,
      self._seconds - seconds,
      waited,
    )
    row = {f'throughput/{name}': x for name, x in figures.items()}
    row |= self._untold
    self._untold = {}
    return row

  def total(self) -> dict[str, float] | None:
    """The figures of all steps seen, None where there were none."""
    if not self._tokens:
      return None
    return {
      'train_seconds': self._seconds,
      **self._figures(
        self._tokens, self._flops, self._seconds, self.data_seconds
      ),
      'compile_seconds': self.compile_seconds,
      'compile_cached': self.compile_cached,
      'eval_compile_seconds': self.eval_compile_seconds,
    }

  def _figures(
    self, tokens: int, flops: int, seconds: float, waited: float
  ) -> dict[str, float]:
    flops_per_second = flops / seconds
    figures = {
      'tokens_per_second': tokens / seconds,
      'model_flops_per_second': flops_per_second,
    }
    if self._peak_flops is not None:
      figures['mfu'] = flops_per_second / self._peak_flops
    return {**figures, 'data_wait_share': waited / seconds}
