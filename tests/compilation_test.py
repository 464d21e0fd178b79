import os
import pathlib
import subprocess
import sys

import pytest

# In a process of its own: JAX decides once about its cache.
COMPILE = """
import jax, sys
from td_flax import compilation
compilation.keep_programs()
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
with compilation.measured() as compiled:
  jax.jit(lambda x: x @ x + 1).lower(jax.ShapeDtypeStruct((8, 8), 'float32')) \
    .compile()
print(compiled.seconds > 0, compiled.from_cache)
"""


def compile_in_a_fresh_process(**environment):
  inherited = {
    name: value
    for name, value in os.environ.items()
    if name not in ('JAX_COMPILATION_CACHE_DIR', 'XDG_CACHE_HOME')
  }
  run = subprocess.run(
    [sys.executable, '-c', COMPILE],
    env=inherited | environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  return run.stdout.strip(), run.stderr


def programs(folder):
  return [path.name for path in folder.glob('*-cache')]


@pytest.mark.parametrize('variable', ['HOME', 'XDG_CACHE_HOME'])
def test_a_second_process_finds_what_the_first_one_compiled(tmp_path, variable):
  environment = {variable: str(tmp_path)}
  assert compile_in_a_fresh_process(**environment) == ('True 0', '')
  caches = tmp_path / '.cache' if variable == 'HOME' else tmp_path
  folder = caches / 'td_flax' / 'jax'
  assert len(programs(folder)) == 1
  assert folder.stat().st_mode & 0o077 == 0  # programs found here are run
  assert compile_in_a_fresh_process(**environment) == ('True 1', '')


def test_a_relative_folder_of_caches_does_not_count(tmp_path):
  compile_in_a_fresh_process(HOME=str(tmp_path), XDG_CACHE_HOME='relative')
  assert programs(tmp_path / '.cache' / 'td_flax' / 'jax')
  assert not pathlib.Path('relative').exists()


def test_the_folder_that_jax_was_told_is_left_to_jax(tmp_path):
  told = tmp_path / 'told'
  environment = {
    'XDG_CACHE_HOME': str(tmp_path / 'ours'),
    'JAX_COMPILATION_CACHE_DIR': str(told),
  }
  assert compile_in_a_fresh_process(**environment) == ('True 0', '')
  assert len(programs(told)) == 1
  assert not (tmp_path / 'ours').exists()


def test_an_empty_name_turns_the_cache_off(tmp_path):
  environment = {
    'XDG_CACHE_HOME': str(tmp_path),
    'JAX_COMPILATION_CACHE_DIR': '',
  }
  for _ in range(2):
    assert compile_in_a_fresh_process(**environment) == ('True 0', '')
  assert list(tmp_path.iterdir()) == []


def test_without_a_folder_that_can_be_written_there_is_no_cache(tmp_path):
  (tmp_path / 'td_flax').write_text('a file')
  out, err = compile_in_a_fresh_process(XDG_CACHE_HOME=str(tmp_path))
  assert out == 'True 0'
  (line,) = err.splitlines()
  assert line.startswith('compiled programs are not kept for later runs: ')
  assert str(tmp_path / 'td_flax') in line


def test_programs_used_longest_ago_make_room(tmp_path):
  from td_flax import compilation

  limit = compilation._MAX_BYTES
  sizes = {'old': limit // 4, 'used': limit // 2, 'new': limit // 2}
  for age, (name, size) in enumerate(sizes.items()):
    path = tmp_path / f'{name}-cache'
    with path.open('wb') as file:
      file.truncate(size)  # sparse: takes no room on the disk
    os.utime(path, (1e9 + age, 1e9))
  compilation._forget(tmp_path)
  assert sorted(programs(tmp_path)) == ['new-cache', 'used-cache']
