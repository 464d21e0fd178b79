"""What a benchmark ran on; imports nothing that starts an accelerator."""

import contextlib
import pathlib
import platform


def cpu() -> str:
  """The processor's name."""
  with contextlib.suppress(OSError):  # not on every system
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()
