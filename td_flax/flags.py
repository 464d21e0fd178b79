"""Command lines with `--config`, and errors as one line and an exit code.

ml_collections and absl answer a misspelt key with a traceback and exit 1; here
every mistake on the command line is one line on stderr and exit 2, every other
`UserError` one line and its own code.
"""

import difflib
import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from td_flax import config as config_lib
from td_flax import errors

_OVERRIDE = re.compile(r'--?(?:no)?config\.([^=]+)')
_RAISED = re.compile(
  r'flag (--config=\S+): .*Traceback.*?(\w+Error: .*)', re.DOTALL
)
_ILLEGAL = re.compile(r'flag --(?:config\.)?([^=]+)=(.*?): (.*)', re.DOTALL)


class Schema(Protocol):
  """What config files describe; the module `td_flax.config` is the usual one.

  Attributes:
    EXAMPLE: such a file.
  """

  EXAMPLE: str

  def check_key(self, key: str) -> None:
    """Refuses a dotted key that does not exist."""

  def type_name(self, key: str) -> str:
    """What a value of `key` is, in words."""

  def load(self, raw: ml_collections.ConfigDict) -> Any:
    """The typed, checked content of a file."""


def config_flag(schema: Schema = config_lib) -> None:
  """Defines `--config=FILE` and its overrides `--config.SECTION.KEY=VALUE`."""
  config_flags.DEFINE_config_file(
    'config', None, f'A file under configs/, for example {schema.EXAMPLE}.'
  )


def load(schema: Schema = config_lib) -> Any:
  """The checked config that the command line asks for.

  Args:
    schema: what it is a config of.

  Returns:
    What `schema.load` makes of it: a `config.Config` by default.

  Raises:
    errors.ConfigError: no `--config`, or a config that cannot work.
  """
  raw = flags.FLAGS.config
  if raw is None:
    raise errors.ConfigError(
      f'--config: missing; for example --config={schema.EXAMPLE}'
    )
  if not isinstance(raw, ml_collections.ConfigDict):
    file = config_flags.get_config_filename(flags.FLAGS['config'])
    problem = 'get_config() returns no ConfigDict'
    # ml_collections keeps what it could not read as an object of its error.
    if isinstance(error := getattr(raw, '_error', None), OSError):
      is_there = os.path.isfile(file.partition(':')[0])
      problem = errors.named(error) if is_there else 'no such file'
    raise errors.ConfigError(f'--config={file}: {problem}')
  return schema.load(raw)


def load_pretraining() -> config_lib.Config:
  """The checked config of a pretraining.

  Raises:
    errors.ConfigError: as `load`; or it is of a task to fine-tune on.
  """
  config = load()
  if config.task.name:
    raise errors.ConfigError(
      f'task.name={config.task.name!r}: is a task to fine-tune on, with '
      '`python -m td_flax.finetune`'
    )
  return config


def load_step() -> config_lib.Config:
  """The checked config of a pretraining whose step is one program.

  Its `data.vocab_size` is that of the tokenizer where one is given.

  Raises:
    errors.UserError: as `load_pretraining`; or its steps are of several
      programs; or the tokenizer cannot be read.
  """
  config = load_pretraining()
  if config.drop.stages or config.drop.consistency_every:
    raise errors.ConfigError(
      'drop.stages, drop.consistency_every: one program is looked at; set the '
      "values of a part itself, and both to their defaults: '' and 0"
    )
  from td_flax.data import tokenizer

  data = config.data
  if data.tokenizer in tokenizer.TRAINED_KINDS:
    return config
  size = tokenizer.load(data.tokenizer, lowercase=data.lowercase).vocab_size
  return config_lib.with_changes(config, {'data.vocab_size': size})


def given() -> dict[str, str]:
  """The arguments that the command line gives, by the names of their flags.

  Returns:
    One argument for each flag, `{'workdir': '--workdir=a', ...}`: `--config`,
    its overrides, the others.
  """
  # Flags are also known by their short names.
  named = {flags.FLAGS[name].name: flags.FLAGS[name] for name in flags.FLAGS}
  present = [name for name, flag in named.items() if flag.present]
  present.sort(key=lambda name: name.partition('.')[0] != 'config')
  return {name: named[name].serialize() for name in present}


def _parse(argv: list[str], schema: Schema) -> list[str]:
  """Parses `argv` for `app.run`; exits 2 on errors."""
  try:
    for argument in argv[1:]:
      if argument == '--':
        break
      override = _OVERRIDE.match(argument)
      if override:
        schema.check_key(override[1])
    rest = flags.FLAGS(argv)
    if rest[1:]:
      raise errors.ConfigError(
        f'{rest[1]}: unexpected argument; overrides look like '
        '--config.drop.keep=0.5'
      )
    return rest
  except errors.ConfigError as error:
    _exit(error)
  except flags.UnrecognizedFlagError as error:
    near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
    hint = f'; did you mean --{near[0]}?' if near else ''
    _exit(errors.ConfigError(f'--{error.flagname}: no such flag{hint}'))
  except flags.Error as error:
    _exit(errors.ConfigError(_value_error(str(error), schema)))
  except Exception as error:  # whatever the code of a config file can raise
    _exit(errors.ConfigError(f'{_config_file(argv)}: {_reason(error)}'))


def _value_error(message: str, schema: Schema) -> str:
  """Absl's message on a value, in the words `config.load` uses."""
  raised = _RAISED.fullmatch(message)
  if raised:  # by a config file, for example for want of its argument
    return f'{raised[1]}: {" ".join(raised[2].split())}'
  illegal = _ILLEGAL.fullmatch(message)
  if illegal and illegal[1] not in flags.FLAGS:  # a key of the config
    return (
      f'{illegal[1]}={illegal[2]!r}: must be {schema.type_name(illegal[1])}'
    )
  return ' '.join(message.split())


def _config_file(argv: list[str]) -> str:
  for argument, following in zip(argv, [*argv[1:], ''], strict=True):
    name, _, value = argument.lstrip('-').partition('=')
    if name == 'config':
      return f'--config={value or following}'
  return '--config'


def _reason(error: Exception) -> str:
  if isinstance(error, AttributeError) and error.name == 'get_config':
    return 'is no config file: it has no get_config()'
  return errors.named(error)


def _exit(error: errors.UserError) -> NoReturn:
  print(f'error: {error}', file=sys.stderr, flush=True)
  sys.exit(error.exit_code)


def run(main: Callable[[], Any], schema: Schema = config_lib) -> NoReturn:
  """Parses the command line and runs `main()`; never returns.

  Exit codes: 0 success, 1 a `UserError` of the run, 2 a mistake on the command
  line or in the config, 3 training that would fail again, 75 stopped by a
  signal with the state saved, 130 interrupted.
  """

  def guarded(argv: list[str]) -> None:
    del argv
    # jax reports every backend it does not find.
    logging.getLogger('jax').setLevel(logging.WARNING)
    try:
      main()
    except errors.UserError as error:
      _exit(error)
    except KeyboardInterrupt:
      print('interrupted', file=sys.stderr, flush=True)
      sys.exit(130)

  app.run(guarded, flags_parser=functools.partial(_parse, schema=schema))
