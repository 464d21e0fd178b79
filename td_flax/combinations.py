"""Which values of a config cannot work together."""

import re
from typing import TYPE_CHECKING, Any

from td_flax import errors
from td_flax.dropping import policies
from td_flax.tasks import glue

if TYPE_CHECKING:
  from td_flax.config import Config


_OTHER_TASKS = 'squad_v1.1', 'squad_v2.0', 'classify', 'regress', 'tag'


def check(config: 'Config', values: dict[str, Any]) -> None:
  """Checks what one value says of another.

  Args:
    config: every value of which is valid by itself.
    values: the same by dotted key.

  Raises:
    errors.ConfigError: names the key, its value and what would be valid.
  """

  def require(holds: bool, key: str, valid: str) -> None:
    if not holds:
      raise errors.ConfigError(f'{key}={values[key]!r}: must be {valid}')

  data, model, train = config.data, config.model, config.train
  n = data.sequence_length
  valid = '', *glue.TASKS, *_OTHER_TASKS
  require(
    config.task.name in valid,
    'task.name',
    f'one of {", ".join(valid[1:])}, or empty for pretraining',
  )
  require(
    bool(data.files.strip()),
    'data.files',
    "a comma list of SPEC[=WEIGHT], for example 'my_texts/*.jsonl.xz'",
  )
  require(
    bool(data.eval_files) or data.eval_fraction > 0,
    'data.eval_fraction',
    'above 0, or data.eval_files set: evaluation needs held-out text',
  )
  require(
    n <= model.max_positions,
    'data.sequence_length',
    f'at most model.max_positions={model.max_positions}',
  )
  require(
    model.hidden_dim % model.num_heads == 0,
    'model.num_heads',
    f'a divisor of model.hidden_dim={model.hidden_dim}',
  )
  require(
    model.init != 'local' or model.hidden_dim // model.num_heads % 2 == 0,
    'model.init',
    'random where model.hidden_dim / model.num_heads is odd: sines and cosines '
    'come in pairs',
  )
  require(
    train.batch_size % train.microbatches == 0,
    'train.microbatches',
    f'a divisor of train.batch_size={train.batch_size}',
  )
  for key, off in (
    ('policy', 'none'),
    ('stages', ''),
    ('consistency_every', 0),
  ):
    require(
      not config.task.name or getattr(config.drop, key) == off,
      f'drop.{key}',
      f'{off!r}: fine-tuning sends all tokens through all layers',
    )
  names = policies.names()
  require(
    config.drop.policy in names, 'drop.policy', f'one of {", ".join(names)}'
  )
  policy = policies.load(config.drop.policy)
  policy.check(config, require)
  require(
    not (config.drop.consistency_every and policy.own_geometry),
    'drop.consistency_every',
    f'0 with drop.policy={config.drop.policy}: a full pass is no reference for '
    'what that trains',
  )
  require(
    not config.drop.consistency_every or train.predicted_only_last_layer,
    'drop.consistency_every',
    '0 without train.predicted_only_last_layer',
  )
  if train.profile_steps:
    steps = re.fullmatch(r'(\d{1,10}):(\d{1,10})', train.profile_steps)
    require(
      bool(steps) and int(steps[1]) < int(steps[2]) <= train.num_steps,
      'train.profile_steps',
      "two steps START:STOP up to train.num_steps, for example '10:13'",
    )
  intervals = config.checkpoint.every, config.eval.every
  require(
    not config.checkpoint.keep_best or max(intervals) % min(intervals) == 0,
    'checkpoint.every',
    f'a multiple or a divisor of eval.every={config.eval.every}: the best '
    'checkpoint (checkpoint.keep_best) is one that was evaluated',
  )
