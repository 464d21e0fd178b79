"""The typed border of files under `configs/compare/`, as `config` is of others.

A file starts from `default()`, sets `base` (a whole config of `td_flax.main`)
and names arms, each by what it changes, written as on a command line:

    config = settings.default()
    config.base.data.files = 'embedded'
    config.arms.half = "drop.policy=random drop.stages='10% policy=none; rest'"
    config.reference = 'half'
"""

import dataclasses
import math
import re
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from td_flax import combinations, errors, fields, stages
from td_flax import config as config_lib
from td_flax.config import Config, DropConfig
from td_flax.tasks import glue, recipe

EXAMPLE = 'configs/compare/smoke.py'
_DEFAULT = 'td_flax.compare.settings.default()'
PLAIN, RANDOM, SHALLOW = 'plain', 'random', 'shallow'
EQUAL_STEPS, EQUAL_TIME, TIME_TO_TARGET = PROTOCOLS = (
  'equal_steps',
  'equal_time',
  'time_to_target',
)
BLIMP = 'blimp'
SCORES = BLIMP, *glue.TASKS
_PLAIN = 'drop.policy=none drop.stages='  # whatever `base` drops
# The runs that are scored; the others of TIME_TO_TARGET end early.
SCORED = EQUAL_STEPS, EQUAL_TIME
# What an arm may change; the rest is the same for all arms, or the protocol's.
_OWN = 'drop.', 'model.', 'optimizer.', 'train.'
_NOT_OWN = (
  'model.attend_across_documents',  # evaluation would show it other context
  'model.restart_positions',
  'train.num_steps',
  'train.seed',
  'train.init_from',
  'train.batch_size',
  'train.predicted_only_last_layer',
)


@dataclasses.dataclass(frozen=True)
class _File:
  """What the file holds, as it is written."""

  name: str = 'comparison'
  base: Config = dataclasses.field(default_factory=Config)
  # Name -> 'KEY=VALUE ...', what an arm changes of `base`.
  arms: dict = dataclasses.field(default_factory=dict)
  # The arm that the controls `random` and `shallow` imitate.
  reference: str = ''
  # Runs of every arm at every length, with the seeds from `first_seed` on.
  seeds: int = fields.at_least(5, 1)
  first_seed: int = fields.at_least(0, 0)
  # Comma lists: protocols, and shares of plain's time for time_to_target, which
  # counts the runs of equal_steps too.
  protocols: str = ','.join(PROTOCOLS)
  budgets: str = '0.6,0.8'
  # Turns of every arm when its step time is measured, from 20 on in five
  # processes; of fewer than 3 the error of the ratio would not be known.
  timing_rounds: int = fields.at_least(20, 3)
  # Comma list of `SCORES`: what every run's final checkpoint is scored on.
  scores: str = ''
  # Folders of their data, as `td_flax.tools.evaluate` takes them.
  blimp_dir: str = ''
  glue_dir: str = ''
  # Pairs of each paradigm of BLiMP, from the first; 0 is all.
  blimp_limit: int = fields.at_least(0, 0)
  # Runs of fine-tuning of every run and task of GLUE, and how long they are.
  score_seeds: int = fields.at_least(1, 1)
  score_epochs: float = fields.above(3.0, 0)
  # Of these runs; small models want a higher one.
  score_learning_rate: float = fields.above(recipe.LEARNING_RATE, 0)


class Scores(NamedTuple):
  """What final checkpoints are scored on.

  Attributes:
    names: of `SCORES`, in that order; none where nothing is scored.
    blimp_dir: of BLiMP's .jsonl files.
    glue_dir: of GLUE's tasks.
    blimp_limit: pairs of each paradigm, from the first; 0 is all.
    seeds: runs of fine-tuning per task.
    epochs: of each of these.
    learning_rate: of each of these.
  """

  names: tuple[str, ...]
  blimp_dir: str
  glue_dir: str
  blimp_limit: int
  seeds: int
  epochs: float
  learning_rate: float

  @property
  def tasks(self) -> list[str]:
    """Those of GLUE."""
    return [name for name in self.names if name != BLIMP]


@dataclasses.dataclass(frozen=True)
class Settings:
  """A comparison.

  Attributes:
    name: its name.
    arms: every arm's config but for its length and its seed, by name: `plain`,
      those of the file, `random`. `shallow` depends on FLOPs: see `plan`.
    changes: what the file says that each of them changes of `base`.
    base: the config that they change.
    reference: the arm that the controls imitate.
    seeds: of the runs.
    protocols: of `PROTOCOLS`.
    budgets: ascending shares of plain's time, below 1.
    timing_rounds: turns of every arm when its step time is measured.
    scores: what final checkpoints are scored on.
  """

  name: str
  base: Config
  arms: dict[str, Config]
  changes: dict[str, str]
  reference: str
  seeds: tuple[int, ...]
  protocols: tuple[str, ...]
  budgets: tuple[float, ...]
  timing_rounds: int
  scores: Scores


def default() -> ml_collections.ConfigDict:
  """Every key at its default, and no arms."""
  return ml_collections.ConfigDict(dataclasses.asdict(_File()))


def all_keys() -> list[str]:
  """Every key in dotted form, but for those of arms."""
  own = [field.name for field in dataclasses.fields(_File)]
  own.remove('base')
  return [*own, *(f'base.{key}' for key in config_lib.all_keys())]


def check_key(key: str) -> None:
  """Refuses a dotted key that a command line cannot set."""
  if key.startswith('arms.'):
    raise errors.ConfigError(f'{key}: arms are set in the file')
  if key not in all_keys():
    raise fields.unknown_key(key, all_keys())


def type_name(key: str) -> str:
  """What a value of `key` is, in words."""
  if key.startswith('base.'):
    return config_lib.type_name(key.removeprefix('base.'))
  return fields.type_name(_File, key)


def load(raw: ml_collections.ConfigDict) -> Settings:
  """Checks every value of `raw`.

  Raises:
    errors.ConfigError: names the key, its value and what would be valid.
  """
  if 'base' not in raw:  # a config of `td_flax.main`
    raise errors.ConfigError(f'base: missing; start from {_DEFAULT}')
  file = fields.read(_File, raw.to_dict(), all_keys(), _DEFAULT)
  # What is compared is the end of training: nothing earlier is kept.
  checkpoint = dataclasses.replace(
    file.base.checkpoint, keep=1, keep_best=False
  )
  base = dataclasses.replace(file.base, checkpoint=checkpoint)
  try:
    combinations.check(base, config_lib.flatten(base))
  except errors.ConfigError as error:
    raise errors.ConfigError(f'base.{error}') from None
  if base.task.name:
    raise errors.ConfigError(
      f'base.task.name={base.task.name!r}: must be empty: arms are pretrained'
    )
  if not file.arms or SHALLOW in file.arms:
    raise errors.ConfigError(
      f'arms={sorted(file.arms)}: must name at least one arm, and not '
      f'{SHALLOW!r}, which is made from the reference'
    )
  if file.reference not in file.arms:
    raise errors.ConfigError(
      f'reference={file.reference!r}: must be one of {", ".join(file.arms)}'
    )
  changes = {PLAIN: _PLAIN, **file.arms}
  if dict(_pairs(changes[PLAIN])) != dict(_pairs(_PLAIN)):
    raise errors.ConfigError(f'arms.{PLAIN}: must be {_PLAIN!r}')
  arms = {name: _arm(base, name, text) for name, text in changes.items()}
  if RANDOM not in changes:
    text = _at_random(changes[file.reference], arms[file.reference].drop)
    try:
      changes[RANDOM], arms[RANDOM] = text, _arm(base, RANDOM, text)
    except errors.ConfigError as error:
      raise errors.ConfigError(
        f'{error} (made from reference={file.reference!r}; a file can name '
        'its own)'
      ) from None
  elif not _is_random(arms[RANDOM]):
    raise errors.ConfigError(
      f'arms.{RANDOM}={changes[RANDOM]!r}: must drop tokens by '
      'drop.policy=random only, in all of its parts'
    )
  protocols = _protocols(file.protocols, arms)
  return Settings(
    name=file.name,
    base=base,
    arms=arms,
    changes=changes,
    reference=file.reference,
    seeds=tuple(range(file.first_seed, file.first_seed + file.seeds)),
    protocols=protocols,
    budgets=_budgets(file.budgets, protocols),
    timing_rounds=file.timing_rounds,
    scores=_scores(file, protocols),
  )


def _arm(base: Config, name: str, text: Any) -> Config:
  """`base` with the changes of an arm."""
  try:
    if not re.fullmatch(r'[A-Za-z0-9_]+', name):
      raise errors.ConfigError('its name must be letters, digits and _')
    values = {}
    for key, value in _pairs(text):
      if key.startswith(_OWN) and key not in _NOT_OWN:
        values[key] = config_lib.parse(key, value)
      else:
        config_lib.check_key(key)
        raise errors.ConfigError(
          f'{key}: cannot differ between arms; set base.{key}'
        )
    config = config_lib.with_changes(base, values)
    stages.of(config)
    return config
  except errors.ConfigError as error:
    raise errors.ConfigError(f'arms.{name}: {error}') from None


def _is_random(config: Config) -> bool:
  policies = {part.config.drop.policy for part in stages.of(config)}
  return RANDOM in policies and policies <= {RANDOM, 'none'}


def _at_random(text: str, drop: DropConfig) -> str:
  """The changes of an arm, with chance in place of its choice of tokens."""
  pairs = dict(_pairs(text))
  if drop.policy != 'none':  # else only its parts drop
    pairs['drop.policy'] = 'random'
  if drop.stages:
    pairs['drop.stages'] = re.sub(
      r'policy=(?!none\b)\w+', 'policy=random', drop.stages
    )
  if drop.pool == 'weighted':  # by an importance that chance does not have
    pairs['drop.pool'] = 'mean'
  return shlex.join(f'{key}={value}' for key, value in pairs.items())


def _pairs(text: Any) -> list[tuple[str, str]]:
  try:
    pairs = [pair.partition('=') for pair in shlex.split(text)]
  except (ValueError, AttributeError, TypeError):  # a quote, or no text
    pairs = [('', '', '')]
  if not all(sign for _, sign, _ in pairs):
    raise errors.ConfigError(
      f"{text!r}: must be text KEY=VALUE ..., for example 'drop.keep=0.25 "
      "drop.policy=random', values with spaces in quotes"
    )
  return [(key, value) for key, _, value in pairs]


def _listed(key: str, text: str, parse: Callable, valid: str) -> tuple:
  """The items of a comma list, each of which `parse` accepts."""
  try:
    items = tuple(parse(item.strip()) for item in text.split(',') if item)
  except ValueError:
    items = ()
  if not items or len(set(items)) < len(items):
    raise errors.ConfigError(f'{key}={text!r}: must be {valid}')
  return items


def _protocols(text: str, arms: dict[str, Config]) -> tuple[str, ...]:
  valid = f'a comma list of {", ".join(PROTOCOLS)}'
  names = _listed('protocols', text, PROTOCOLS.index, valid)
  protocols = tuple(PROTOCOLS[i] for i in sorted(names))
  if protocols == (EQUAL_STEPS,):
    return protocols
  for name, config in arms.items():
    for part in filter(None, map(str.strip, config.drop.stages.split(';'))):
      length = part.split()[0]
      if not length.endswith('%') and length != 'rest':
        raise errors.ConfigError(
          f'arms.{name}: drop.stages: {part!r}: its length must be a share '
          '(10%) or rest, or protocols only equal_steps: runs of an arm have '
          'several lengths'
        )
  return protocols


def _budgets(text: str, protocols: tuple[str, ...]) -> tuple[float, ...]:
  if not text and (EQUAL_STEPS in protocols or TIME_TO_TARGET not in protocols):
    return ()

  def share(item: str) -> float:
    value = float(item)
    if not (math.isfinite(value) and 0 < value < 1):
      raise ValueError(item)
    return value

  valid = (
    'a comma list of different shares above 0, below 1; it may be empty where '
    'protocols names equal_steps, whose runs are shorter ones'
  )
  return tuple(sorted(_listed('budgets', text, share, valid)))


def _scores(file: _File, protocols: tuple[str, ...]) -> Scores:
  names: tuple[str, ...] = ()
  if file.scores:
    valid = f'a comma list of {", ".join(SCORES)}'
    found = _listed('scores', file.scores, SCORES.index, valid)
    names = tuple(SCORES[i] for i in sorted(found))
  scores = Scores(
    names,
    file.blimp_dir,
    file.glue_dir,
    file.blimp_limit,
    file.score_seeds,
    file.score_epochs,
    file.score_learning_rate,
  )
  if names and not set(protocols) & set(SCORED):
    raise errors.ConfigError(
      f'scores={file.scores!r}: protocols must name {" or ".join(SCORED)}, '
      'whose runs are scored'
    )
  for key, needs in ('blimp_dir', BLIMP in names), ('glue_dir', scores.tasks):
    if needs and not getattr(file, key):
      raise errors.ConfigError(
        f"{key}='': missing; scores={file.scores} needs it"
      )
  return scores
