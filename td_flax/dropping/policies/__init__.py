"""One module a policy; `drop.policy` is the module's name."""

import importlib
import pkgutil
from typing import Any


def names() -> list[str]:
  """The policies there are: the modules beside this file."""
  modules = (module.name for module in pkgutil.iter_modules(__path__))
  return sorted(name for name in modules if name != 'base')


def load(name: str) -> Any:
  """The class `Policy` of the module `name`, a `base.Policy`."""
  return importlib.import_module(f'{__name__}.{name}').Policy
