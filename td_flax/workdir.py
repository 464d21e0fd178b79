"""The files of a workdir, and the refusal of one that belongs to another run.

config.json        the config and the fingerprints the run was made with
metrics.jsonl      a row per logged step
summary.json       written at the end
checkpoints/       a folder per step
tokenizer/         tokenizer.model, a copy
tensorboard/       event files
data/              the packed dataset, unless `data.dir` says otherwise
"""

import json
import os
import pathlib
import shutil
from typing import Any

from td_flax import config as config_lib
from td_flax import errors

# What a resumed run may change: nothing that changes what is learned.
_CHANGEABLE_SECTION = 'log.'
_CHANGEABLE = frozenset({
  'name',
  'checkpoint.keep',
  'checkpoint.keep_best',
  'train.profile_steps',
  'data.dir',
  'data.tfds_dir',
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
        tokenizer or dataset, or to none at all.
    """
    if not self.config_json.exists():
      self._refuse_foreign()
      return
    there = self._read()
    config_there, prints_there = there['config'], there['fingerprints']
    # A key that is younger than the workdir had the effect of its default.
    old = config_lib.flatten(config_lib.Config()) | config_there
    new = config_lib.flatten(config)
    differences = [
      _difference(key, old.get(key), new.get(key))
      for key in sorted(old.keys() | new.keys())
      if not _is_changeable(key) and old.get(key) != new.get(key)
    ] + [
      _difference(f'fingerprint of the {name}', prints_there.get(name), value)
      for name, value in (fingerprints or {}).items()
      if prints_there.get(name) != value
    ]
    if differences:
      raise errors.CheckpointError(
        f'{self.path}: belongs to another run: {"; ".join(differences)}; '
        'use another --workdir'
      )

  def claim(
    self,
    config: config_lib.Config,
    fingerprints: dict[str, str],
    tokenizer_model: pathlib.Path,
  ) -> None:
    """Makes the folder this run's, once `check` accepts it. One process only.

    Args:
      config: the run's config.
      fingerprints: of what the config does not pin down, by name:
        `tokenizer` and `dataset`.
      tokenizer_model: copied to `tokenizer/tokenizer.model`.

    Raises:
      errors.CheckpointError: as `check`, or the folder cannot be written.
    """
    self.check(config, fingerprints)
    try:
      self.tokenizer.mkdir(parents=True, exist_ok=True)
      new = self.tokenizer / 'tokenizer.model.new'
      shutil.copyfile(tokenizer_model, new)
      new.replace(self.tokenizer / 'tokenizer.model')
      # Last: with it the folder is a workdir.
      content = {
        'config': config_lib.flatten(config),
        'fingerprints': fingerprints,
      }
      new = self.path / 'config.json.new'
      new.write_text(json.dumps(content, indent=2) + '\n')
      new.replace(self.config_json)
    except OSError as error:
      raise errors.CheckpointError(
        f'{self.path}: cannot be used as a workdir: {error}'
      ) from error

  def _refuse_foreign(self) -> None:
    # A first run that was killed before `claim` leaves these.
    own = {self.data.name, self.tokenizer.name, 'config.json.new'}
    try:
      foreign = sorted(x.name for x in self.path.iterdir() if x.name not in own)
    except FileNotFoundError:
      return
    except OSError as error:
      raise errors.CheckpointError(
        f'{self.path}: cannot be used as a workdir: {error.strerror}'
      ) from error
    if foreign:
      raise errors.CheckpointError(
        f'{self.path}: not a workdir (no config.json) and not empty (holds '
        f'{foreign[0]}); use another --workdir'
      )

  def _read(self) -> dict[str, dict[str, Any]]:
    try:
      content = json.loads(self.config_json.read_bytes())
      return {key: dict(content[key]) for key in ('config', 'fingerprints')}
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise errors.CheckpointError(
        f'{self.config_json}: not readable as the config of a run '
        f'({type(error).__name__}: {error}); bring it back or use another '
        '--workdir'
      ) from error


def _is_changeable(key: str) -> bool:
  return key.startswith(_CHANGEABLE_SECTION) or key in _CHANGEABLE


def _difference(key: str, there: Any, here: Any) -> str:
  return f'{key}={there!r} there, {here!r} here'
