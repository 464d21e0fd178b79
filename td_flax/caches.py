"""Where what can be made or copied again is kept, for a user on a machine."""

import os
import pathlib


def folder(name: str) -> pathlib.Path:
  """`$XDG_CACHE_HOME/td_flax/<name>`, by default below `~/.cache`.

  Raises:
    RuntimeError: there is no home directory.
  """
  # A relative path is to be ignored: XDG Base Directory Specification 0.8.
  caches = os.environ.get('XDG_CACHE_HOME', '')
  root = caches if os.path.isabs(caches) else pathlib.Path.home() / '.cache'
  return pathlib.Path(root, 'td_flax', name)
