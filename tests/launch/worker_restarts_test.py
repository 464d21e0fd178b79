"""What a worker restarts, with a training that ends as it is told."""

import contextlib
import fcntl
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest
import support

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch'
pytestmark = pytest.mark.skipif(
  shutil.which('tmux') is None, reason='needs tmux'
)
# Takes the next of the exit codes; a negative one is a signal, `wait` waits
# for SIGTERM and ends with 75.
_TRAINING = """
import json, os, pathlib, signal, sys, time
codes = pathlib.Path('codes')
first, *rest = codes.read_text().split()
codes.write_text(' '.join(rest))
pathlib.Path('arguments').write_text(json.dumps(sys.argv[1:]))
print('training with', first, os.environ.get('XLA_FLAGS'), flush=True)
if first == 'wait':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  time.sleep(100)
if int(first) < 0:
  os.kill(os.getpid(), -int(first))
sys.exit(int(first))
"""


class Worker:
  """A worker.py in a checkout of its own, whose training is a stub."""

  def __init__(self, root):
    self.root = root
    self.folder = root / 'home' / 'bert' / 'worker-0'
    self.environment = {
      **os.environ, 'TMUX_TMPDIR': str(root), 'XLA_FLAGS': '--kept'
    }  # fmt: skip

  def run(self, verb, *arguments, told=('--index=0', '--count=2')):
    return support.run(
      [
        sys.executable, self.root / 'launch/worker.py', verb, 'bert',
        f'--home={self.root / "home"}', *told, *arguments,
      ],
      env=self.environment,
    )  # fmt: skip

  def start(self, codes, *arguments, **told):
    (self.root / 'codes').write_text(codes)
    done = self.run('start', '--port=8123', '--', '--config=c', **told)
    assert done.returncode == 0, done.stdout + done.stderr
    return done

  def state(self):
    return json.loads((self.folder / 'state.json').read_text())

  def until(self, *states):
    support.wait_until(lambda: self.state()['state'] in states)
    return self.state()

  def arguments(self):
    return json.loads((self.root / 'arguments').read_text())


@pytest.fixture
def worker(tmp_path):
  (tmp_path / 'launch').mkdir()
  (tmp_path / 'td_flax').mkdir()
  text = (LAUNCH / 'worker.py').read_text()
  hasty = text.replace('= 5, 300', '= 0.02, 0.1')
  assert hasty != text
  (tmp_path / 'launch/worker.py').write_text(hasty)
  (tmp_path / 'td_flax/__init__.py').touch()
  (tmp_path / 'td_flax/main.py').write_text(_TRAINING)
  made = Worker(tmp_path)
  yield made
  made.run('stop')


def test_restarts_until_it_is_done(worker):
  done = worker.start('75 1 -9 134 0')
  log = worker.folder / 'log'
  assert f'log: {log}' in done.stdout
  assert worker.until('done')['restarts'] == 4
  text = log.read_text()
  for line in ('exit code 75; restarting', 'killed by SIGKILL; restarting'):
    assert line in text
  assert 'training with 0 --kept' in text
  assert text.splitlines()[-1].endswith('done: exit code 0')
  assert 'worker 0: done for' in worker.run('status').stdout
  assert worker.run('logs').stdout.splitlines()[-1] == text.splitlines()[-1]


def test_nothing_secret_of_the_environment_is_kept(worker):
  worker.environment['GOOGLE_TOKEN'] = 'hunter2'
  worker.start('0')
  worker.until('done')
  for path in worker.folder.iterdir():
    assert 'hunter2' not in path.read_text()


@pytest.mark.parametrize('code', [2, 3])
def test_what_would_fail_again_is_not_restarted(worker, code):
  worker.start(f'{code} 0')
  assert worker.until('failed')['restarts'] == 0
  said = worker.run('status').stdout
  assert f'failed: exit code {code}; not restarted' in said


def test_gives_up_after_many_failures_in_a_row(worker):
  worker.start(' '.join(['1'] * 20))
  assert worker.until('failed')['restarts'] == 8


def test_stop_lets_it_save_and_start_goes_on(worker):
  worker.start('wait wait')
  worker.until('running')
  log = worker.folder / 'log'
  support.wait_until(lambda: 'training with' in log.read_text())
  assert (
    'runs already'
    in worker.run('start', '--port=8123', '--', '--config=c').stdout
  )
  other = worker.run('start', '--port=8123', '--', '--config=d')
  assert other.returncode == 1
  assert 'runs something else already; stop.sh first' in other.stdout
  assert worker.run('idle').returncode == 1
  done = worker.run('stop')
  assert done.returncode == 0
  assert 'stopped; run.sh resumes it' in done.stdout
  assert worker.run('idle').returncode == 0
  assert 'was not running' in worker.run('stop').stdout
  worker.start('0')
  worker.until('done')


def test_it_starts_though_others_ask_all_the_time_how_it_is(worker):
  worker.start('0')
  worker.until('done')
  over = threading.Event()

  def ask():
    with (worker.folder / 'lock').open() as file:
      while not over.is_set():
        fcntl.flock(file, fcntl.LOCK_SH)
        time.sleep(0.2)
        fcntl.flock(file, fcntl.LOCK_UN)
        time.sleep(0.05)

  asking = threading.Thread(target=ask)
  asking.start()
  try:
    worker.start('0')
    worker.until('done')
  finally:
    over.set()
    asking.join()


def test_it_starts_though_the_last_session_is_only_just_ending(worker):
  subprocess.run(
    ['tmux', 'new-session', '-d', '-s', 'td_flax-bert-0', 'sleep 2'],
    env=worker.environment,
    check=True,
  )
  worker.start('0')
  worker.until('done')


def test_several_processes_are_told_of_each_other(worker):
  worker.start('0')
  worker.until('done')
  assert worker.arguments() == [
    '--config=c', '--coordinator=localhost:8123', '--num_processes=2',
    '--process_id=0',
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('device', 'platforms', 'said'),
  [
    ('accel0', 'tpu,cpu', 'error: this machine has TPU chips and JAX sees'),
    ('vfio/0', 'tpu,cpu', 'error: this machine has TPU chips and JAX sees'),
    ('vfio/0', 'cpu', 'ready: '),
    ('vfio/vfio', 'tpu,cpu', 'ready: '),  # of the kernel; no device
  ],
)
def test_chips_that_jax_does_not_see_are_an_error(
  worker, device, platforms, said
):
  (worker.root / 'jax.py').write_text(
    'from types import SimpleNamespace as Of\n'
    '__version__ = "1"\n'
    'local_devices = lambda: [Of(platform="cpu", device_kind="cpu")]\n'
  )
  script = worker.root / 'launch/worker.py'
  devices = worker.root / 'dev'
  script.write_text(script.read_text().replace("'/dev'", repr(str(devices))))
  (devices / device).parent.mkdir(parents=True)
  (devices / device).touch()
  worker.environment['PYTHONPATH'] = str(worker.root)
  worker.environment['JAX_PLATFORMS'] = platforms
  done = worker.run('check')
  assert done.stdout.startswith(said), done.stdout + done.stderr
  assert done.returncode == said.startswith('error')


@contextlib.contextmanager
def metadata(**answers):
  """A metadata server."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      assert self.headers['Metadata-Flavor'] == 'Google'
      key = self.path.rpartition('/')[2].replace('-', '_')
      self.send_response(200)
      self.end_headers()
      self.wfile.write(answers[key].encode())

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(('localhost', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield f'localhost:{server.server_port}'
  finally:
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
  ('endpoints', 'expected'),
  [
    ('10.0.0.7', []),
    ('unknown:unknown:10.0.0.7,unknown:unknown:10.0.0.8', ['10.0.0.7']),
    ('host-0,host-1', ['host-0']),
  ],
)
def test_a_tpu_vm_says_which_worker_it_is(worker, endpoints, expected):
  answers = {
    'agent_worker_number': '0',
    'worker_network_endpoints': endpoints,
  }
  with metadata(**answers) as host:
    worker.environment['GCE_METADATA_HOST'] = host
    worker.start('0', told=())
    worker.until('done')
  count = endpoints.count(',') + 1
  assert worker.arguments() == [
    '--config=c',
    *(f'--coordinator={first}:8123' for first in expected),
    *([f'--num_processes={count}', '--process_id=0'] if expected else []),
  ]
