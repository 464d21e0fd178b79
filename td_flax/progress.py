"""A bar on a terminal, sparse lines elsewhere, both on standard error."""

import math
import os
import sys
import time
from types import TracebackType
from typing import Any, Self

import tqdm

_SECONDS_BETWEEN_LINES = 5.0
_SHARE_BETWEEN_LINES = 0.1
_SECONDS_BETWEEN_LINES_WITHOUT_TOTAL = 30.0


class Progress:
  """Shows how far a long piece of work is; a context manager.

  On a terminal it is a bar. Elsewhere it is at most one line per tenth of
  the total and per five seconds, and one when the work ends:

      packing: 40% 12.3/30.8 MB  3.1 MB/s  eta 6s

  Args:
    total: units of the whole work; None where nobody knows.
    desc: what the work is, one or two words.
    unit: what is counted; `MB` and other capitalised units are shown with one
      digit behind the point and may be updated by fractions.
    initial: units that were done before, in a resumed run; they do not count
      for the rate.
  """

  def __init__(
    self,
    total: float | None,
    desc: str,
    unit: str = 'it',
    *,
    initial: float = 0,
  ) -> None:
    self._total = total
    self._desc = desc
    self._unit = unit
    self._initial = initial
    self._done = initial
    self._figures: dict[str, Any] = {}
    self._bar: tqdm.tqdm | None = None

  def __enter__(self) -> Self:
    self._started = self._last_time = time.monotonic()
    self._last_done = self._done
    if _is_terminal():
      self._bar = _Bar(
        total=self._total,
        initial=self._initial,
        file=sys.stderr,
        dynamic_ncols=True,
        miniters=0,  # the default may skip redraws for minutes
        bar_format=self._bar_format(),
      )
      self._show()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._bar is not None:
      self._show()
      self._bar.close()
    else:
      self._line(time.monotonic())

  def update(self, n: float = 1) -> None:
    """Adds `n` units of finished work."""
    self._done += n
    if self._total is not None and math.isclose(self._done, self._total):
      self._done = self._total  # the sum of many fractions
    if self._bar is not None:
      self._bar.set_description_str(self._status(), refresh=False)
      self._bar.update(n)
      return
    now = time.monotonic()
    if self._is_due(now):
      self._line(now)

  def set(self, **figures: Any) -> None:
    """Shows `figures` beside the bar until they are set anew."""
    self._figures |= figures
    if self._bar is not None:
      self._bar.set_description_str(self._status(), refresh=False)

  def write(self, line: str) -> None:
    """`write_line`, for those who are given the bar to report to."""
    write_line(line)

  def _show(self) -> None:
    self._bar.set_description_str(self._status(), refresh=True)

  def _bar_format(self) -> str:
    # The text is ours on a terminal too; tqdm draws and places the bar.
    return '{desc}' if self._total is None else '{desc} {bar}'

  def _is_due(self, now: float) -> bool:
    if self._total is None:
      return now - self._last_time >= _SECONDS_BETWEEN_LINES_WITHOUT_TOTAL
    share = (self._done - self._last_done) / (self._total or 1)
    return (
      share >= _SHARE_BETWEEN_LINES
      and now - self._last_time >= _SECONDS_BETWEEN_LINES
      and self._done < self._total  # the last line is written at the end
    )

  def _line(self, now: float) -> None:
    self._last_time, self._last_done = now, self._done
    print(self._status(), file=sys.stderr, flush=True)

  def _status(self) -> str:
    elapsed = time.monotonic() - self._started
    rate = (self._done - self._initial) / elapsed if elapsed > 0 else 0.0
    done = self._amount(self._done)
    if self._total is None:
      parts = [f'{self._desc}: {done} {self._unit}']
    else:
      percent = 100 * self._done / self._total if self._total else 100.0
      total = self._amount(self._total)
      parts = [
        f'{self._desc}: {math.floor(percent)}% {done}/{total} {self._unit}'
      ]
    parts.append(f'{_rate(rate)} {self._unit}/s')
    left = 0 if self._total is None else self._total - self._done
    if left > 0 and rate > 0:
      parts.append(f'eta {_duration(left / rate)}')
    elif left <= 0:
      parts.append(f'in {_duration(elapsed)}')
    parts += [f'{name}={_figure(x)}' for name, x in self._figures.items()]
    return '  '.join(parts)

  def _amount(self, n: float) -> str:
    return f'{n:,.1f}' if self._unit[:1].isupper() else f'{round(n):,}'


class _Bar(tqdm.tqdm):
  """A bar without tqdm's watching thread: threads and forks do not mix."""

  monitor_interval = 0


def write_line(line: str) -> None:
  """Prints a line on standard error, above the bar where one is drawn."""
  tqdm.tqdm.write(line, file=sys.stderr)
  sys.stderr.flush()


def _is_terminal() -> bool:
  # A terminal inside a container may have no width: nothing can be drawn.
  return sys.stderr.isatty() and bool(
    os.get_terminal_size(sys.stderr.fileno()).columns
  )


def _rate(rate: float) -> str:
  return f'{rate:,.0f}' if rate >= 100 else f'{rate:.1f}'


def _duration(seconds: float) -> str:
  minutes, rest = divmod(max(1, round(seconds)), 60)
  if minutes == 0:
    return f'{rest}s'
  if minutes < 60:
    return f'{minutes}m{rest:02d}s'
  return f'{minutes // 60}h{minutes % 60:02d}m'


def _figure(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)
