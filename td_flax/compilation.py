"""Compiled programs that outlive a process, and what compiling costs.

JAX keeps compiled programs in a folder. Their key holds the program, the
versions of JAX and of the compiler, the compiler's flags and the devices, for a
CPU also the instructions that it has: machines may share the folder, and what
is found there is what would be compiled.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from jax import monitoring

from td_flax import caches, errors, progress

# JAX can bound the folder too, but only with a package that it does not bring.
_MAX_BYTES = 4 * 10**9
_COMPILED = '/jax/core/compile/backend_compile_duration'
_FOUND = '/jax/compilation_cache/cache_hits'


def keep_programs() -> None:
  """Turns on JAX's persistent cache, in the user's folder of caches.

  What JAX was told already holds: `JAX_COMPILATION_CACHE_DIR` names another
  folder, and turns the cache off where it is empty. Without a folder that can
  be written there is no cache, which costs one line.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  try:
    directory = caches.folder('jax')
    # Programs found there are run: nobody else may put any there.
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=directory).close()
    _forget(directory)
  except (OSError, errors.ConfigError) as error:
    progress.write_line(
      f'compiled programs are not kept for later runs: {error}; set '
      'JAX_COMPILATION_CACHE_DIR to a folder that can be written'
    )
    return
  jax.config.update('jax_compilation_cache_dir', str(directory))


def _forget(directory: pathlib.Path) -> None:
  """Deletes the programs used longest ago, until the others fit."""
  found = []
  for path in directory.glob('*-cache'):
    with contextlib.suppress(FileNotFoundError):  # another process is faster
      stat = path.stat()
      found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
  room = _MAX_BYTES
  for _, size, path in sorted(found, reverse=True):
    room -= size
    if room < 0:
      path.unlink(missing_ok=True)


@dataclasses.dataclass
class Compiled:
  """What was compiled.

  Attributes:
    seconds: in the compiler, or reading from the cache; without tracing.
    from_cache: the programs that were found there.
  """

  seconds: float = 0.0
  from_cache: int = 0


@contextlib.contextmanager
def measured() -> Iterator[Compiled]:
  """Measures what is compiled in its context, by any thread."""
  compiled = Compiled()

  def add_seconds(event: str, seconds: float, **_: Any) -> None:
    if event == _COMPILED:
      compiled.seconds += seconds

  def add_found(event: str, **_: Any) -> None:
    if event == _FOUND:
      compiled.from_cache += 1

  monitoring.register_event_duration_secs_listener(add_seconds)
  monitoring.register_event_listener(add_found)
  try:
    yield compiled
  finally:
    monitoring.unregister_event_duration_listener(add_seconds)
    monitoring.unregister_event_listener(add_found)
