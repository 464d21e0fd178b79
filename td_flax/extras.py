"""Extras: packages that only some uses need (`setup.py` lists them)."""

import types

from td_flax import progress


def missing(name: str) -> str:
  """What a line says that something needs: an extra, and how to install it."""
  return f"the extra `{name}`: pip install 'td_flax[{name}]'"


def pyplot(what: str) -> types.ModuleType | None:
  """`matplotlib.pyplot`, which draws to files only.

  Args:
    what: is not drawn without it.

  Returns:
    None, and a line on standard error, where it is not installed.
  """
  try:
    import matplotlib as mpl
  except ImportError:
    progress.write_line(f'{what}: not drawn; that needs {missing("plot")}')
    return None
  mpl.use('Agg')
  from matplotlib import pyplot

  return pyplot
