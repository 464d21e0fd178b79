"""Where what can be made or copied again is kept, for a user on a machine."""

import os
import pathlib

from td_flax import errors


def folder(name: str) -> pathlib.Path:
  """`$XDG_CACHE_HOME/td_flax/<name>`, by default below `~/.cache`.

  Raises:
    errors.ConfigError: there is no home directory, nor another.
  """
  # A relative path is to be ignored: XDG Base Directory Specification 0.8.
  caches = os.environ.get('XDG_CACHE_HOME', '')
  if os.path.isabs(caches):
    return pathlib.Path(caches, 'td_flax', name)
  try:
    return pathlib.Path.home() / '.cache/td_flax' / name
  except RuntimeError as error:
    raise errors.ConfigError(
      f'XDG_CACHE_HOME={caches}: must be an absolute path, since there is no '
      'home directory'
    ) from error
