"""What tests of whole commands share: limits, waits, ports, figures."""

import json
import pathlib
import random
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Ends what hangs; nothing is expected to take so long on any machine.
TIMEOUT = 600  # seconds


def run(command, *, cwd=ROOT, timeout=TIMEOUT, **options):
  """A command that has ended: its exit code and what it said."""
  return subprocess.run(
    command,
    cwd=cwd,
    capture_output=True,
    text=True,
    timeout=timeout,
    check=False,
    **options,
  )


def finish(process):
  """Waits for a process: its exit code and what it said."""
  try:
    said = process.communicate(timeout=TIMEOUT)
  except subprocess.TimeoutExpired:
    process.kill()  # jax.distributed swallows SIGTERM
    pytest.fail(f'hangs: {process.communicate()}')
  return process.returncode, *said


def wait_until(condition, process=None):
  """Polls; fails if `process` ends first, and where it waits too long."""
  deadline = time.monotonic() + TIMEOUT
  while True:
    ended = process is not None and process.poll() is not None
    if condition():
      return
    if ended:
      pytest.fail(f'ended before: {process.communicate()}')
    if time.monotonic() > deadline:
      pytest.fail(f'not within {TIMEOUT} seconds')
    time.sleep(0.01)


def free_ports():
  """A port that is free, as is the one behind it.

  Below those that a system gives to whoever asks for any, from 32768.
  """
  draw = random.SystemRandom()  # others look for one at the same time
  while True:
    port = draw.randrange(20_000, 32_000, 2)
    try:
      for number in (port, port + 1):
        socket.create_server(('', number)).close()
    except OSError:
      continue
    return port


def is_running(pid):
  """Whether a process is there and no zombie."""
  try:
    status = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return status.rpartition(')')[2].split()[0] != 'Z'


def metrics(workdir):
  """The rows of `metrics.jsonl`."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]
