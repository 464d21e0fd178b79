"""Errors that people cause and can mend: one line and an exit code.

Everything else that escapes is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from typing import Any


class UserError(Exception):
  """Something outside the program is wrong; the message says what to do."""

  exit_code = 1


class ConfigError(UserError):
  """A key of the config, or the combination of several, is not valid."""

  exit_code = 2


class DataError(UserError):
  """A corpus, a tokenizer or a packed dataset cannot be used."""


class CheckpointError(UserError):
  """A checkpoint or a workdir cannot be used."""


class TrainingError(UserError):
  """Training would fail again, as after a run of non-finite losses."""

  exit_code = 3


class Stopped(UserError):
  """A signal asked for the end; the state is saved, the command resumes it."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h: try the same command again


def one_line(error: Exception, limit: int | None = None) -> str:
  """What an error says, in one line of at most `limit` characters."""
  return (' '.join(str(error).split()) or repr(error))[:limit]


def named(error: Exception, limit: int | None = None) -> str:
  """The same behind the name of the error's class."""
  return f'{type(error).__name__}: {one_line(error, limit)}'


def differences(triples: Iterable[tuple[str, Any, Any]]) -> str:
  """Names what differs, with both values; '' where nothing does.

  Args:
    triples: a name, the value that was found and the one that is wanted.
  """
  return '; '.join(
    f'{name}={there!r} there, {here!r} here'
    for name, there, here in triples
    if there != here
  )
