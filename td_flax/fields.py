"""Dataclasses whose fields carry rules, and filling them from plain mappings.

The sections of `config` and of `compare.settings` are made of these. What is
refused is one line that names the key, the value and what would be valid.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any

from td_flax import errors

TYPES = {
  str: 'text',
  int: 'a whole number',
  float: 'a number',
  bool: 'true or false',
  dict: 'a section',
}


def rule(default: Any, valid: str, check: Callable[[Any], bool]) -> Any:
  """A dataclass field with a rule: `check(value)` and its wording."""
  return dataclasses.field(
    default=default, metadata={'valid': valid, 'check': check}
  )


def choice(default: str, *others: str) -> Any:
  """One of several words."""
  choices = (default, *others)
  return rule(default, f'one of {", ".join(choices)}', choices.__contains__)


def at_least(default: Any, low: float) -> Any:
  """A number from `low` on."""
  return rule(default, f'at least {low}', lambda x: x >= low)


def above(default: Any, low: float) -> Any:
  """A number above `low`."""
  return rule(default, f'above {low}', lambda x: x > low)


def share(default: float) -> Any:
  """A number in [0, 1)."""
  return rule(default, 'from 0 to below 1', lambda x: 0 <= x < 1)


def seed() -> Any:
  """A seed of random numbers."""
  # A key of jax.random holds 32 bits of it; more would fall away silently.
  return rule(0, 'from 0 to below 2**32', lambda x: 0 <= x < 2**32)


def type_name(cls: Any, name: str) -> str:
  """What a value of the field `name` of the dataclass `cls` is, in words."""
  types = {field.name: field.type for field in dataclasses.fields(cls)}
  return TYPES.get(types[name], 'a section')


def unknown_key(key: str, valid: list[str]) -> errors.ConfigError:
  """The error for a key that does not exist, with the nearest that does."""
  sections = sorted({name.partition('.')[0] for name in valid if '.' in name})
  if key in sections:
    return errors.ConfigError(f'{key}: is a section; set one of its keys')
  near = difflib.get_close_matches(key, valid, n=1)
  if not near:  # a right name in the wrong section, or without its section
    leaf = key.rpartition('.')[2]
    near = [name for name in valid if name.rpartition('.')[2] == leaf]
  near += difflib.get_close_matches(key, sections, n=1)
  if near:
    return errors.ConfigError(f'{key}: no such key; did you mean {near[0]}?')
  return errors.ConfigError(
    f'{key}: no such key; sections are {", ".join(sections)}'
  )


def read(
  cls: Any,
  values: dict[str, Any],
  valid: list[str],
  default: str,
  prefix: str = '',
) -> Any:
  """The dataclass `cls` of `values`, each checked by itself.

  Args:
    cls: a dataclass; its fields may be dataclasses too.
    values: by the name of the field, sections as mappings.
    valid: every dotted key there is.
    default: the function that makes values with no key missing.
    prefix: of the keys of `cls`, '' or one that ends in a dot.

  Raises:
    errors.ConfigError: an unknown key, a missing one, or a wrong value.
  """
  known = {field.name: field for field in dataclasses.fields(cls)}
  for name in values:
    if name not in known:
      raise unknown_key(prefix + name, valid)
  found = {}
  for name, field in known.items():
    key = prefix + name
    if name not in values:
      raise errors.ConfigError(f'{key}: missing; start from {default}')
    value = values[name]
    if dataclasses.is_dataclass(field.type):
      if not isinstance(value, dict):
        raise errors.ConfigError(f'{key}={value!r}: must be a section')
      found[name] = read(field.type, value, valid, default, f'{key}.')
    else:
      found[name] = _checked_value(key, value, field)
  return cls(**found)


def _checked_value(key: str, value: Any, field: dataclasses.Field) -> Any:
  is_int = isinstance(value, int) and not isinstance(value, bool)
  if field.type is float and is_int:
    value = float(value)
  if not isinstance(value, field.type) or (field.type is int and not is_int):
    raise errors.ConfigError(f'{key}={value!r}: must be {TYPES[field.type]}')
  if field.type is float and not math.isfinite(value):
    raise errors.ConfigError(f'{key}={value!r}: must be a finite number')
  check = field.metadata.get('check')
  if check is not None and not check(value):
    raise errors.ConfigError(
      f'{key}={value!r}: must be {field.metadata["valid"]}'
    )
  return value
