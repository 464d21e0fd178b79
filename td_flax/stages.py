"""`drop.stages`: a run in parts that drop differently.

    drop.stages = '10% policy=none; 70% keep=0.25; rest policy=none'

Each part is a length (a share of `train.num_steps`, a number of steps, or once
`rest`) and what differs from the config in it: `policy`, `keep`, `first_layer`,
`last_layer`, `noise`, or `mask_rate`. The optimizer, its schedule and the
importance table go through all of them.
"""

import math
from typing import NamedTuple

from td_flax import config as config_lib
from td_flax import errors
from td_flax.config import Config
from td_flax.dropping import policies

_KEYS = {
  **{
    name: f'drop.{name}'
    for name in ('policy', 'keep', 'first_layer', 'last_layer', 'noise')
  },
  'mask_rate': 'train.mask_rate',
}
_FORM = (
  "must be LENGTH KEY=VALUE ..., for example '10% policy=none' (LENGTH: 10%, "
  f'1000 or rest; KEY: {", ".join(_KEYS)})'
)


class Stage(NamedTuple):
  """Steps `start` to below `stop` of a run, and the config of these steps."""

  start: int
  stop: int
  config: Config


def of(config: Config) -> tuple[Stage, ...]:
  """The parts of a run, in order; one where `drop.stages` is empty.

  Raises:
    errors.ConfigError: names the part and what would be valid.
  """
  num_steps = config.train.num_steps
  if not config.drop.stages.strip():
    return (Stage(0, num_steps, config),)
  texts = [text.strip() for text in config.drop.stages.split(';')]
  lengths, changes = zip(*map(_parsed, texts), strict=True)
  stops = _stops(lengths, num_steps)
  return tuple(
    Stage(start, stop, _changed(config, text, change))
    for start, stop, text, change in zip(
      [0, *stops], stops, texts, changes, strict=False
    )
  )


def _parsed(text: str) -> tuple[str, dict[str, str]]:
  """A part's length and its values by dotted key, as written."""
  length, *pairs = text.split() or ['']
  values = {}
  for pair in pairs:
    name, _, value = pair.partition('=')
    if name not in _KEYS or not value:
      raise errors.ConfigError(f'drop.stages: {text!r}: {_FORM}')
    if _KEYS[name] in values:
      raise errors.ConfigError(f'drop.stages: {text!r}: {name} is there twice')
    values[_KEYS[name]] = value
  return length, values


def _stops(lengths: tuple[str, ...], num_steps: int) -> list[int]:
  """The step at which each part ends; the last one is `num_steps`."""
  shares = [_share(length, num_steps) for length in lengths]
  if shares.count(None) > 1:
    raise errors.ConfigError('drop.stages: only one part can be the rest')
  left = num_steps - sum(share for share in shares if share is not None)
  steps = [left if share is None else share for share in shares]
  # Shares are rounded numbers, but never by so much that a step is missing.
  if None not in shares and abs(left) > min(1e-6 * num_steps, 0.4):
    raise errors.ConfigError(
      f'drop.stages: the parts are {sum(steps):.12g} steps long; must be '
      f'train.num_steps={num_steps}; one of them can be the rest'
    )
  ends = [round(sum(steps[: i + 1])) for i in range(len(steps))]
  for length, start, stop in zip(lengths, [0, *ends], ends, strict=False):
    if stop <= start:
      raise errors.ConfigError(
        f'drop.stages: {length!r} of train.num_steps={num_steps} is no step'
      )
  return ends


def _share(length: str, num_steps: int) -> float | None:
  """Steps, not rounded; None is what the others leave."""
  if length == 'rest':
    return None
  number = length.removesuffix('%')
  try:
    value = float(number) if length.endswith('%') else int(number)
    if not math.isfinite(value):
      raise ValueError(value)
  except ValueError:
    raise errors.ConfigError(f'drop.stages: {length!r}: {_FORM}') from None
  return value / 100 * num_steps if length.endswith('%') else value


def _changed(config: Config, text: str, values: dict[str, str]) -> Config:
  try:
    typed = {key: config_lib.parse(key, value) for key, value in values.items()}
    changed = config_lib.with_changes(config, typed | {'drop.stages': ''})
  except errors.ConfigError as error:
    raise errors.ConfigError(f'drop.stages: {text!r}: {error}') from None
  policy = changed.drop.policy
  if policy != config.drop.policy and policies.load(policy).has_table:
    raise errors.ConfigError(
      f'drop.stages: {text!r}: {policy} needs a table, and a run has only '
      f'the table of drop.policy: set drop.policy={policy}, and other policies '
      'in parts'
    )
  return changed
