"""The files of a workdir, and the refusal of one that belongs to another run.

config.json        the config and the fingerprints the run was made with
metrics.jsonl      a row per logged step
summary.json       written at the end
checkpoints/       a folder per step
tokenizer/         tokenizer.model or tokenizer.json, a copy
tensorboard/       event files
data/              the packed dataset, unless `data.dir` says otherwise
.lock              held by the process that writes all of this
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from td_flax import artifacts, errors, locks
from td_flax import config as config_lib
from td_flax.data import tokenizer as tokenizer_lib
from td_flax.data.vocabulary import Tokenizer

# What a resumed run may change: nothing that changes what is learned.
_CHANGEABLE_SECTION = 'log.'
_CHANGEABLE = frozenset({
  'checkpoint.keep',
  'checkpoint.keep_best',
  'train.profile_steps',
  'data.dir',
  'data.tfds_dir',
  # A sweep grows by runs; those that are there stay what they are.
  'task.seeds',
  'task.grid',
})  # fmt: skip


class Workdir:
  """One run's folder.

  Args:
    path: the folder; need not exist.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    self.path = pathlib.Path(path)
    self.config_json = self.path / 'config.json'
    self.metrics_jsonl = self.path / 'metrics.jsonl'
    self.summary_json = self.path / 'summary.json'
    self.checkpoints = self.path / 'checkpoints'
    self.tokenizer = self.path / 'tokenizer'
    self.tensorboard = self.path / 'tensorboard'
    self.data = self.path / 'data'
    self._lock = self.path / '.lock'

  @contextlib.contextmanager
  def lock(self) -> Iterator[None]:
    """Keeps other processes out; makes the folder where it is missing.

    Process 0 holds it around everything that writes here, `check` included:
    what another process claims after a check is not seen. A file system
    without locks costs a warning.

    Raises:
      errors.CheckpointError: another process holds it, or the folder cannot
        be written.
    """
    busy = errors.CheckpointError(
      f'{self.path}: another process is using this workdir'
    )
    with contextlib.ExitStack() as stack:
      with self.clear_errors():
        self.path.mkdir(parents=True, exist_ok=True)
        lock = locks.exclusive(
          self._lock, 'start no second run in this workdir', busy
        )
        stack.enter_context(lock)
      yield

  def check(
    self, config: config_lib.Config, fingerprints: dict[str, str] | None = None
  ) -> None:
    """Refuses a folder that this run may not use; writes nothing.

    Args:
      config: the run's config.
      fingerprints: of the tokenizer and of the dataset, where they are known
        already.

    Raises:
      errors.CheckpointError: the folder belongs to a run with another config,
        tokenizer or dataset, or to none at all, or cannot be looked at.
    """
    with self.clear_errors():
      is_new = not self.config_json.exists()
    if is_new:
      self._refuse_foreign()
      return
    if differences := self._differences(config, fingerprints or {}):
      raise errors.CheckpointError(
        f'{self.path}: belongs to another run: {differences}; '
        'use another folder'
      )

  def claim(
    self,
    config: config_lib.Config,
    fingerprints: dict[str, str],
    tokenizer: Tokenizer,
  ) -> None:
    """Makes the folder this run's. One process only, with the `lock`.

    It replaces what is there: `check`, with the fingerprints, comes first.

    Args:
      config: the run's config.
      fingerprints: of what the config does not pin down, by name, such as
        `tokenizer` and `dataset`.
      tokenizer: saved in `tokenizer/`.

    Raises:
      errors.CheckpointError: the folder cannot be written.
    """
    content = {
      'config': config_lib.flatten(config),
      'fingerprints': fingerprints,
    }
    with self.clear_errors():
      tokenizer_lib.save(tokenizer, self.tokenizer)
      # Last: with it the folder is a workdir.
      artifacts.write_json(self.config_json, content)

  @contextlib.contextmanager
  def clear_errors(self) -> Iterator[None]:
    """Around what uses the folder: a full disk and the like are one line.

    Raises:
      errors.CheckpointError: instead of an OSError.
    """
    try:
      yield
    except OSError as error:
      raise errors.CheckpointError(
        f'{self.path}: cannot be used as a workdir: {error}'
      ) from error

  def _refuse_foreign(self) -> None:
    # A first run that was killed before `claim` leaves these.
    own = {
      self.data.name,
      self.tokenizer.name,
      self._lock.name,
      'config.json.tmp',
    }
    foreign = []
    with self.clear_errors(), contextlib.suppress(FileNotFoundError):
      foreign = sorted(x.name for x in self.path.iterdir() if x.name not in own)
    if foreign:
      raise errors.CheckpointError(
        f'{self.path}: not a workdir (no config.json) and not empty (holds '
        f'{foreign[0]}); use another folder'
      )

  def _differences(
    self, config: config_lib.Config, fingerprints: dict[str, str]
  ) -> str:
    """Where the run that made this folder differs; '' where it does not."""
    there = self._read()
    # A key that is younger than the workdir had the effect of its default.
    old = config_lib.flatten(config_lib.Config()) | there['config']
    new = config_lib.flatten(config)
    keys = sorted(old.keys() | new.keys())
    triples = [
      (key, old.get(key), new.get(key))
      for key in keys
      if not _is_changeable(key)
    ]
    triples += [
      (f'fingerprint of the {name}', there['fingerprints'].get(name), value)
      for name, value in fingerprints.items()
    ]
    return errors.differences(triples)

  def read(self) -> tuple[config_lib.Config, dict[str, str]]:
    """The config and the fingerprints of the run that made this folder.

    Raises:
      errors.CheckpointError: they cannot be read, or are of another version.
    """
    there = self._read()
    try:
      # A key that is younger than the workdir had the effect of its default.
      config = config_lib.with_changes(config_lib.Config(), there['config'])
    except (errors.ConfigError, KeyError, TypeError) as error:
      raise errors.CheckpointError(
        f'{self.config_json}: not a config of this version: {error}'
      ) from error
    return config, there['fingerprints']

  def summary(self) -> dict[str, Any] | None:
    """The content of `summary.json`; None before a run is finished.

    One that is cut off counts for nothing: the run makes it again.

    Raises:
      errors.CheckpointError: the folder cannot be looked at.
    """
    with (
      self.clear_errors(),
      contextlib.suppress(FileNotFoundError, ValueError),
    ):
      return json.loads(self.summary_json.read_bytes())
    return None

  def _read(self) -> dict[str, dict[str, Any]]:
    try:
      content = json.loads(self.config_json.read_bytes())
      return {key: dict(content[key]) for key in ('config', 'fingerprints')}
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise errors.CheckpointError(
        f'{self.config_json}: not readable as the config of a run '
        f'({type(error).__name__}: {error}); bring it back or use another '
        'workdir'
      ) from error


def pinned(config: config_lib.Config) -> dict[str, Any]:
  """What no resume may change of a config, by its full keys."""
  flat = config_lib.flatten(config)
  return {key: x for key, x in flat.items() if not _is_changeable(key)}


def _is_changeable(key: str) -> bool:
  return key.startswith(_CHANGEABLE_SECTION) or key in _CHANGEABLE
