"""Runs on each worker: trains in tmux, restarts what dies, says how it is.

    worker.py start NAME [--port=P] -- ARGUMENTS   of td_flax.main
    worker.py status|stop|idle NAME
    worker.py logs NAME [--follow]
    worker.py check                                 that JAX sees its devices

Where a machine is not told which worker it is (--index, --count), it asks the
metadata server of its TPU slice. Each worker has a folder HOME/NAME/worker-I:
job.json (what to run), state.json (how it is), log, stop (the wish to stop) and
lock (held by the process that supervises).

Restarts: after exit code 75 and crashes, with a growing delay; not after 0, nor
after 2 and 3, which a restart cannot mend. Nothing here imports td_flax.
"""

import argparse
import contextlib
import fcntl
import importlib.util
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEPT_ENVIRONMENT = ('JAX_', 'XLA_', 'LIBTPU_', 'PYTHONPATH')
# An attempt that lasted this long made progress: the count begins anew.
STEADY_SECONDS = 1800
MAX_FAILURES = 8  # in a row
FINAL = 2, 3  # exit codes of a mistake and of a training that diverged
SECONDS_TO_START = 60
SECONDS_TO_SAVE = 300  # after SIGTERM; then SIGKILL
# Enough for the other workers to be told before this one comes back.
FIRST_DELAY, LONGEST_DELAY = 5, 300


class Worker:
  """The files of a worker."""

  def __init__(self, name: str, index: int, home: pathlib.Path) -> None:
    self.name = name
    self.index = index
    self.folder = home / name / f'worker-{index}'
    self.job = self.folder / 'job.json'
    self.log = self.folder / 'log'
    self.wish = self.folder / 'stop'
    self._state = self.folder / 'state.json'

  def say(self, text: str) -> None:
    """One line, written at once: those of all workers mix."""
    os.write(1, f'worker {self.index}: {text}\n'.encode())

  def note(self, text: str) -> None:
    """A line of ours in the log of the training."""
    with self.log.open('a') as file:
      file.write(f'[{time.strftime("%Y-%m-%d %H:%M:%S")}] {text}\n')

  def set(self, state: str, **more: Any) -> None:
    """Writes the state whole: `status` may read at any moment."""
    content = {'state': state, 'since': time.time(), **more}
    part = self._state.with_suffix('.tmp')
    part.write_text(json.dumps(content))
    part.replace(self._state)

  def state(self) -> dict[str, Any]:
    """How it is; `lost` where its supervisor died with the machine."""
    try:
      state = json.loads(self._state.read_bytes())
    except FileNotFoundError:
      return {'state': 'idle', 'since': time.time()}
    if state['state'] in ('running', 'waiting') and not self.is_supervised():
      state['state'] = 'lost'
    return state

  def is_supervised(self) -> bool:
    """Whether a process holds the lock."""
    with contextlib.suppress(FileNotFoundError), self._lock('r') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
      except BlockingIOError:
        return True
    return False

  def hold(self) -> Any:
    """Takes the lock until the process ends."""
    file = self._lock('a')
    for _ in range(100):  # who asks whether it is held has it for a moment
      with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
      time.sleep(0.01)
    sys.exit(f'error: {self.folder}: another process runs it')

  def _lock(self, mode: str) -> Any:
    return (self.folder / 'lock').open(mode)


def start(worker: Worker, count: int, coordinator: str, job: list[str]) -> int:
  """Starts the supervisor in tmux; again with the same job changes nothing."""
  command = [sys.executable, '-m', 'td_flax.main', *job]
  if count > 1:
    command += [
      f'--coordinator={coordinator}',
      f'--num_processes={count}',
      f'--process_id={worker.index}',
    ]
  kept = {k: v for k, v in os.environ.items() if k.startswith(KEPT_ENVIRONMENT)}
  content = json.dumps({'command': command, 'environment': kept}, indent=2)
  worker.folder.mkdir(parents=True, exist_ok=True)
  if worker.is_supervised():
    if worker.job.read_text() == content:
      worker.say(f'runs already; log: {worker.log}')
      return 0
    worker.say('error: runs something else already; stop.sh first')
    return 1
  worker.job.write_text(content)
  worker.wish.unlink(missing_ok=True)
  worker.set('waiting', restarts=0)
  supervise = [sys.executable, __file__, 'supervise', worker.name]
  supervise += [f'--home={worker.folder.parents[1]}', f'--index={worker.index}']
  session = f'td_flax-{worker.name}-{worker.index}'
  until = time.monotonic() + SECONDS_TO_START
  try:
    # That of the last supervisor ends a moment after it has let go of the lock.
    while _has_session(session) and time.monotonic() < until:
      time.sleep(0.1)
    subprocess.run(
      ['tmux', 'new-session', '-d', '-s', session, shlex.join(supervise)],
      check=True,
    )
  except (FileNotFoundError, subprocess.CalledProcessError) as error:
    worker.set('idle')
    worker.say(f'error: tmux cannot start it: {error}')
    return 1
  while worker.state()['state'] == 'lost':  # nobody supervises it yet
    if time.monotonic() > until:
      worker.say(f'error: did not start in tmux; try: {shlex.join(supervise)}')
      return 1
    time.sleep(0.1)
  worker.say(f'started; log: {worker.log}; attach: tmux attach -t {session}')
  return 0


def _has_session(name: str) -> bool:
  command = ['tmux', 'has-session', '-t', f'={name}']
  return not subprocess.run(
    command, capture_output=True, check=False
  ).returncode


def supervise(worker: Worker) -> int:
  """Runs the job until it is done, is not to be restarted, or is stopped."""
  _held = worker.hold()  # until the process ends
  job = json.loads(worker.job.read_bytes())
  failures = restarts = 0
  while True:
    began = time.monotonic()
    worker.note(f'starting: {shlex.join(job["command"])}')
    with worker.log.open('a') as log:
      child = subprocess.Popen(
        job['command'],
        cwd=ROOT,
        env=os.environ | job['environment'],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
      )
    worker.set('running', restarts=restarts, pid=child.pid)
    code = _wait(worker, child)
    ended = _words(code)
    if code == 0 or worker.wish.exists():
      state = 'done' if code == 0 else 'stopped'
      worker.note(f'{state}: {ended}')
      worker.set(state, restarts=restarts)
      return 0
    if time.monotonic() - began > STEADY_SECONDS:
      failures = 0
    failures += 1
    if code in FINAL or failures > MAX_FAILURES:
      worker.note(f'failed: {ended}; not restarted')
      worker.set('failed', restarts=restarts, code=code)
      return 1
    delay = min(FIRST_DELAY * 2 ** (failures - 1), LONGEST_DELAY)
    restarts += 1
    worker.note(f'{ended}; restarting in {delay} seconds')
    worker.set('waiting', restarts=restarts, code=code)
    until = time.monotonic() + delay
    while time.monotonic() < until and not worker.wish.exists():
      time.sleep(0.2)
    if worker.wish.exists():
      worker.note('stopped')
      worker.set('stopped', restarts=restarts)
      return 0


def _wait(worker: Worker, child: subprocess.Popen) -> int:
  """The child's exit code; passes the wish to stop on to it."""
  asked = None
  while child.poll() is None:
    if asked is None and worker.wish.exists():
      asked = time.monotonic()
      child.send_signal(signal.SIGTERM)
    elif asked is not None and time.monotonic() - asked > SECONDS_TO_SAVE:
      child.kill()
    time.sleep(0.2)
  return child.returncode


def _words(code: int) -> str:
  if code < 0:
    return f'killed by {signal.Signals(-code).name}'
  return f'exit code {code}'


def status(worker: Worker) -> int:
  """Prints the state and the last line of the log."""
  state = worker.state()
  parts = [f'{state["state"]} for {time.time() - state["since"]:.0f}s']
  if state.get('restarts'):
    parts.append(f'restarts: {state["restarts"]}')
  if worker.log.exists():
    lines = worker.log.read_text(errors='replace').split('\n')
    last = next((line for line in reversed(lines) if line.strip()), '')
    parts += [f'log: {worker.log}', last.strip()[:200]]
  worker.say('; '.join(parts))
  return 0


def stop(worker: Worker) -> int:
  """Returns once the training has saved and ended."""
  if not worker.is_supervised():
    worker.say(f'was not running ({worker.state()["state"]})')
    return 0
  worker.wish.touch()
  while worker.is_supervised():
    time.sleep(0.2)
  worker.say(f'{worker.state()["state"]}; run.sh resumes it')
  return 0


def idle(worker: Worker) -> int:
  """0 where nothing runs."""
  return int(worker.is_supervised())


def logs(worker: Worker, follow: bool) -> int:
  """The end of the log."""
  if not worker.log.exists():
    worker.say('error: has no log; run.sh starts it')
    return 1
  command = ['tail', '-n', '40', *(['-F'] if follow else []), str(worker.log)]
  return subprocess.run(command, check=False).returncode


def check(home: pathlib.Path) -> int:
  """Prints one line that begins with `ready:` where JAX has its devices."""
  if sys.hexversion < 0x030B0000:
    print(f'error: Python 3.11 is needed, not {sys.version.split()[0]}')
    return 1
  if ROOT not in pathlib.Path(_package()).parents:
    print(f'error: td_flax is imported from {_package()}, not from {ROOT}')
    return 1
  ready = f'ready: {socket.gethostname()}: Python {sys.version.split()[0]}'
  folders = home.glob('*/worker-*')
  if any(
    Worker(x.parent.name, _index(x), home).is_supervised() for x in folders
  ):
    print(f'{ready}; training runs here, so the devices were not tried')
    return 0
  try:
    import jax
  except ImportError as error:
    print(f'error: {sys.executable}: {error}')
    return 1
  devices = jax.local_devices()
  chips = [
    chip
    for name in ('accel[0-9]*', 'vfio/[0-9]*')  # vfio/vfio is everywhere
    for chip in pathlib.Path('/dev').glob(name)
  ]
  wanted = os.environ.get('JAX_PLATFORMS') != 'cpu'
  if chips and wanted and devices[0].platform == 'cpu':
    print('error: this machine has TPU chips and JAX sees none')
    return 1
  print(
    f'{ready}, jax {jax.__version__}, {len(devices)} x {devices[0].device_kind}'
  )
  return 0


def _index(folder: pathlib.Path) -> int:
  return int(folder.name.rpartition('-')[2])


def _package() -> str:
  spec = importlib.util.find_spec('td_flax')
  return spec.origin if spec else 'nowhere'


def _metadata(key: str) -> str:
  """What the metadata server says about this TPU VM."""
  host = os.environ.get('GCE_METADATA_HOST', 'metadata.google.internal')
  request = urllib.request.Request(
    f'http://{host}/computeMetadata/v1/instance/attributes/{key}',
    headers={'Metadata-Flavor': 'Google'},
  )
  with urllib.request.urlopen(request, timeout=10) as answer:
    return answer.read().decode()


def main() -> int:
  """Does what the command line says."""
  parser = argparse.ArgumentParser(allow_abbrev=False)
  verbs = ['start', 'supervise', 'status', 'stop', 'idle', 'logs', 'check']
  parser.add_argument('verb', choices=verbs)
  parser.add_argument('name', nargs='?')
  parser.add_argument('--home', default=pathlib.Path.home() / '.td_flax')
  parser.add_argument('--index', type=int)
  parser.add_argument('--count', type=int)
  parser.add_argument('--port', type=int, default=8476)
  parser.add_argument('--follow', action='store_true')
  own, job = sys.argv[1:], []
  if '--' in own:
    at = own.index('--')
    own, job = own[:at], own[at + 1 :]
  args = parser.parse_args(own)
  home = pathlib.Path(args.home)
  if args.verb == 'check':
    return check(home)
  hosts = ['localhost'] * (args.count or 1)
  if args.index is None:
    args.index = int(_metadata('agent-worker-number'))
    endpoints = _metadata('worker-network-endpoints').split(',')
    hosts = [endpoint.rpartition(':')[2] for endpoint in endpoints]
  worker = Worker(args.name, args.index, home)
  if args.verb == 'start':
    return start(worker, len(hosts), f'{hosts[0]}:{args.port}', job)
  if args.verb == 'logs':
    return logs(worker, args.follow)
  verb = {'supervise': supervise, 'status': status, 'stop': stop, 'idle': idle}
  return verb[args.verb](worker)


if __name__ == '__main__':
  sys.exit(main())
