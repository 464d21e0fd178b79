"""Signals of a process, and the end of its parent; imports no jax."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any


def restore(handlers: Mapping[int, Any]) -> None:
  """Puts back what `signal.signal` returned, by signal."""
  for number, handler in handlers.items():
    # None: it was not installed from Python and cannot be put back.
    signal.signal(number, signal.SIG_DFL if handler is None else handler)


def end_with_parent() -> None:
  """Ends this child process, from now on, when its parent has ended."""
  threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)  # threads of a pool or of jax would wait for ever
