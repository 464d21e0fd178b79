"""One module a policy; `drop.policy` is the module's name."""

import importlib
import pkgutil
from typing import Any


def names() -> list[str]:
  """The policies there are: the modules beside this file."""
  modules = (module.name for module in pkgutil.iter_modules(__path__))
  return sorted(name for name in modules if name != 'base')


def make(config: Any, vocab_size: int, special: Any) -> Any:
  """The policy that `config.drop.policy` names.

  Args:
    config: a `td_flax.config.Config`.
    vocab_size: ids there are; the table has one entry each.
    special: the tokenizer's `SpecialIds`.

  Returns:
    An instance of the module's `Policy`, a `base.Policy`.
  """
  module = importlib.import_module(f'{__name__}.{config.drop.policy}')
  return module.Policy(config, vocab_size, special)
