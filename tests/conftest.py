"""Eight CPU devices, strict broadcasting, deterministic property tests."""

import contextlib
import os
import subprocess
import tempfile

# Those of `tests/gpu` run with JAX_PLATFORMS=cuda,cpu.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
# The models here are tiny and compiling them is most of the work: compile
# without costly passes, and what several processes share only once.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
_CACHE = tempfile.TemporaryDirectory(prefix='td_flax_jax_cache_')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', _CACHE.name)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

import hypothesis
import jax
import numpy as np
import pytest
import support

from td_flax import checkpoint, mirror, workdir
from td_flax import config as config_lib
from td_flax.data.vocabulary import SpecialIds

jax.config.update('jax_numpy_rank_promotion', 'raise')
hypothesis.settings.register_profile(
  'project', derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile('project')


SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


@pytest.fixture
def special():
  return SPECIAL


def _make_config(**overrides):
  """A config small enough to compile in a second; keys as `drop__keep`."""
  raw = config_lib.default()
  small = {
    'data__sequence_length': 32,
    'model__num_layers': 3,
    'model__hidden_dim': 16,
    'model__num_heads': 2,
    'model__mlp_dim': 32,
    'model__max_positions': 32,
    'model__dropout': 0.0,
    'model__attention_dropout': 0.0,
    'drop__first_layer': 1,
    'drop__last_layer': 1,
    'optimizer__learning_rate': 1e-2,
    'train__num_steps': 100,
    'train__batch_size': 8,
  }
  for key, value in (small | overrides).items():
    section, name = key.split('__')
    raw[section][name] = value
  return config_lib.load(raw)


@pytest.fixture(scope='session')
def make_config():
  return _make_config


@pytest.fixture(scope='session')
def save_run():
  """Makes the workdir of a run that has a checkpoint of step 10."""

  def save(path, config, tokenizer, params):
    made = workdir.Workdir(path)
    prints = {'tokenizer': tokenizer.fingerprint, 'dataset': 'x'}
    made.claim(config, prints, tokenizer)
    saved = checkpoint.Checkpoints(made.checkpoints, keep=1, keep_best=False)
    saved.save(10, {'params': params}, {}, eval_loss=None, wait=True)
    saved.close()
    return made

  return save


@pytest.fixture
def start():
  """Starts commands; what is left of them at the test's end is killed."""
  with contextlib.ExitStack() as stack:

    def one(command, **options):
      defaults = {
        'cwd': support.ROOT,
        'stdout': subprocess.PIPE,
        'stderr': subprocess.PIPE,
        'text': True,
      }
      process = subprocess.Popen(command, **(defaults | options))
      stack.callback(process.communicate)
      stack.callback(process.kill)
      return process

    yield one


@pytest.fixture
def run_together(start):
  """Runs commands as the processes of one job."""

  def run(*commands, **options):
    port = support.free_ports()
    job = f'--coordinator=localhost:{port}', f'--num_processes={len(commands)}'
    processes = [
      start([*command, *job, f'--process_id={index}'], **options)
      for index, command in enumerate(commands)
    ]
    return [support.finish(process) for process in processes]

  return run


@pytest.fixture
def store(tmp_path, monkeypatch):
  """Makes gs:// a folder, which is empty."""
  monkeypatch.syspath_prepend(support.ROOT / 'tests/launch')
  import fake_bucket  # noqa: F401

  folder = tmp_path / 'store'
  folder.mkdir()
  monkeypatch.setenv('FAKE_GS', str(folder))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(mirror, '_SECONDS_TO_SETTLE', 0.0)
  return folder


@pytest.fixture
def make_rows():
  def make(count, length=32, vocab_size=300, seed=0):
    """Full rows of two documents each."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(5, vocab_size, (count, length)).astype(np.uint16)
    middle = length // 2
    rows[:, [0, middle + 1]] = SPECIAL.cls
    rows[:, [middle, -1]] = SPECIAL.sep
    return rows

  return make
