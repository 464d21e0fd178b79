"""TFDS text datasets, prepared as array_record, read without TensorFlow.

`tfds:NAME[/CONFIG][:VERSION][@SPLIT]` is the folder NAME/CONFIG/VERSION of
`data.tfds_dir`: its newest version and the split `train` when not given. Only
workers import TFDS; the parent reads the JSON files of the folder.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from td_flax import errors

PREFIX = 'tfds:'
BLOCK_BYTES = 8_000_000
_BATCH = 256  # records read at once
_VERSION = re.compile(r'\d+\.\d+\.\d+')
_SPEC = re.compile(
  rf'(?P<name>\w+)(?:/(?!{_VERSION.pattern}(?:@|$))(?P<config>[^/:@]+))?'
  rf'(?:[:/](?P<version>{_VERSION.pattern}))?(?:@(?P<split>\w+))?'
)
# wiki40b spells its structure as words between lines.
_MARKERS = re.compile(
  r'\s*_(?:START_ARTICLE|START_SECTION|START_PARAGRAPH|NEWLINE)_\s*'
)


@dataclasses.dataclass(frozen=True)
class Name:
  """What stands behind `tfds:`; None where it is left open."""

  name: str
  config: str | None
  version: str | None
  split: str | None

  def folder(self, tfds_dir: str) -> pathlib.Path:
    """`<tfds_dir>/<name>[/<config>]`, which holds the versions.

    A dataset of which exactly one config is there needs no config's name.
    """
    root = tfds_dir or os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
    folder = pathlib.Path(root).expanduser() / self.name
    if self.config:
      return folder / self.config
    inside = [path for path in _subfolders(folder) if _subfolders(path)]
    if len(inside) == 1 and not _VERSION.fullmatch(inside[0].name):
      return inside[0]
    return folder

  def command(self, tfds_dir: str) -> str:
    """The command that generates or converts the dataset."""
    name = '/'.join(filter(None, (self.name, self.config)))
    name += f':{self.version}' if self.version else ''
    where = f' --tfds_dir={shlex.quote(tfds_dir)}' if tfds_dir else ''
    return f'python -m td_flax.tools.prepare --tfds={name}{where}'


def parse_name(text: str, key: str) -> Name:
  """Reads `wikipedia/20230601.en`, `lm1b:1.1.0`, `lm1b@test`.

  Raises:
    errors.ConfigError: it has another form.
  """
  match = _SPEC.fullmatch(text)
  if not match:
    raise errors.ConfigError(
      f'{key}: {text!r}: a TFDS dataset is NAME[/CONFIG][:VERSION][@SPLIT], '
      'for example wiki40b/en:1.3.0@train'
    )
  return Name(**match.groupdict())


def newest(folder: pathlib.Path, version: str | None) -> pathlib.Path | None:
  """The folder of `version`, or of the newest version that is there."""
  if version:
    path = folder / version
    return path if path.is_dir() else None
  versions = [x for x in _subfolders(folder) if _VERSION.fullmatch(x.name)]
  return max(
    versions, key=lambda x: [int(n) for n in x.name.split('.')], default=None
  )


def read_info(folder: pathlib.Path) -> dict[str, Any]:
  """`dataset_info.json` of a version's folder.

  Raises:
    errors.DataError: it is missing or damaged.
  """
  return _read_json(folder / 'dataset_info.json')


def is_array_record(info: dict[str, Any]) -> bool:
  """Whether the records can be read without TensorFlow."""
  formats = [info.get('fileFormat'), *info.get('alternativeFileFormats', [])]
  return 'array_record' in formats


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """One split of one version of a dataset."""

  spec: str
  weight: float | None
  folder: pathlib.Path
  full_name: str  # name[/config]/version
  split: str
  num_records: int
  num_bytes: int
  text_field: str
  block_bytes: int = BLOCK_BYTES

  def inventory(self) -> list[dict[str, Any]]:
    """One entry: the split, its size and number of records."""
    return [
      {
        'name': f'{self.full_name}@{self.split}',
        'bytes': self.num_bytes,
        'records': self.num_records,
      }
    ]

  def identities(self) -> list[str]:
    """The split's place."""
    return [f'{os.path.realpath(self.folder)}@{self.split}']

  def blocks(self) -> Iterator['TfdsBlock']:
    """Ranges of records of about `block_bytes`."""
    record_bytes = max(self.num_bytes / max(self.num_records, 1), 1)
    step = max(1, int(self.block_bytes / record_bytes))
    for start in range(0, self.num_records, step):
      stop = min(start + step, self.num_records)
      yield TfdsBlock(
        f'{PREFIX}{self.full_name}@{self.split}:{start}-{stop}',
        self.folder,
        self.split,
        start,
        stop,
        self.text_field,
        int((stop - start) * record_bytes),
      )


@dataclasses.dataclass(frozen=True)
class TfdsBlock:
  """Records `start` to `stop` of a split, in the order of its files."""

  name: str
  folder: pathlib.Path
  split: str
  start: int
  stop: int
  text_field: str
  num_bytes: int

  def documents(self) -> Iterator[str]:
    """Reads and decodes; raises errors.DataError with the record's number."""
    for index, value in enumerate(self._values()):
      if isinstance(value, bytes):
        try:
          value = value.decode('utf-8')
        except UnicodeDecodeError as error:
          raise errors.DataError(
            f'{self.place(index)}: field {self.text_field!r}: {error}'
          ) from error
      if not isinstance(value, str):
        raise errors.DataError(
          f'{self.place(index)}: field {self.text_field!r} must be text, is a '
          f'{type(value).__name__}; set text_field'
        )
      if '_START_' in value:
        value = _MARKERS.sub('\n', value).strip()
      yield value

  def place(self, index: int) -> str:
    """The folder and the record's number."""
    number = self.start + index
    return f'{self.folder}: record {number:,} of split {self.split}'

  def _values(self) -> Iterator[Any]:
    split = f'{self.split}[{self.start}:{self.stop}]'
    try:
      source = _builder(self.folder).as_data_source(split)
      for start in range(0, len(source), _BATCH):
        keys = range(start, min(start + _BATCH, len(source)))
        for example in source.__getitems__(keys):
          yield example[self.text_field]
    except RuntimeError as error:  # array_record knows no other
      raise errors.DataError(f'{self.folder}: {error}') from error


@functools.cache
def _builder(folder: pathlib.Path) -> Any:
  import tensorflow_datasets as tfds  # a second: in workers only

  return tfds.builder_from_directory(folder, file_format='array_record')


def find(
  spec: str, weight: float | None, text_field: str, tfds_dir: str, key: str
) -> TfdsSource:
  """The source that `tfds:...` names.

  Raises:
    errors.ConfigError: `spec` has another form, or the dataset is without the
      split or the field.
    errors.DataError: the dataset is not there or in another format; names the
      command that prepares it.
  """
  found = _locate(spec, tfds_dir, key)
  if text_field not in found.fields:
    raise errors.ConfigError(
      f'{key}: {spec}: no field {text_field!r}; set text_field to one of '
      f'{", ".join(found.fields) or "its fields (it has none)"}'
    )
  return TfdsSource(
    spec=spec,
    weight=weight,
    folder=found.folder,
    full_name=found.full_name,
    split=found.split['name'],
    num_records=sum(map(int, found.split.get('shardLengths', []))),
    num_bytes=int(found.split.get('numBytes', 0)),
    text_field=text_field,
  )


def examples(spec: str, tfds_dir: str, key: str) -> list[dict[str, Any]]:
  """All examples of a split, whole, with text for bytes.

  Args:
    spec: `tfds:NAME...@SPLIT`.
    tfds_dir: where the datasets lie.
    key: the config key that errors name.

  Raises:
    errors.UserError: as in `find`.
  """
  found = _locate(spec, tfds_dir, key)
  try:
    source = _builder(found.folder).as_data_source(found.split['name'])
    return [_text(source[i]) for i in range(len(source))]
  except RuntimeError as error:  # array_record knows no other
    raise errors.DataError(f'{found.folder}: {error}') from error


def _text(value: Any) -> Any:
  """`value` with every bytes in it decoded."""
  if isinstance(value, dict):
    return {name: _text(x) for name, x in value.items()}
  if isinstance(value, bytes):
    return value.decode()
  is_objects = isinstance(value, np.ndarray) and value.dtype.kind == 'O'
  if is_objects or isinstance(value, list):
    return [_text(x) for x in value]
  return value


class _Found(NamedTuple):
  """A prepared dataset: its folder and name, one of its splits, its fields."""

  folder: pathlib.Path
  full_name: str  # name[/config]/version
  split: dict[str, Any]
  fields: dict[str, Any]


def _locate(spec: str, tfds_dir: str, key: str) -> _Found:
  name = parse_name(spec.removeprefix(PREFIX), key)
  base = name.folder(tfds_dir)
  folder = newest(base, name.version)
  if folder is None:
    there = ', '.join(path.name for path in _subfolders(base))
    raise errors.DataError(
      f'{key}: {spec}: no {name.version or "version"} in {base}'
      + (f' (there is {there})' if there else '')
      + f'; generate it with `{name.command(tfds_dir)}`'
    )
  info = read_info(folder)
  if not is_array_record(info):
    raise errors.DataError(
      f'{key}: {spec}: {folder} holds {info.get("fileFormat", "tfrecord")} '
      'files, which need TensorFlow; convert them to array_record with '
      f'`{name.command(tfds_dir)}`'
    )
  splits = {split['name']: split for split in info.get('splits', [])}
  split = name.split or 'train'
  if split not in splits:
    raise errors.ConfigError(
      f'{key}: {spec}: no split {split!r}; write '
      f'{spec.partition("@")[0]}@SPLIT with one of '
      f'{", ".join(splits) or "its splits (it has none)"}'
    )
  features = _read_json(folder / 'features.json')
  fields = features.get('featuresDict', {}).get('features', {})
  full_name = '/'.join(
    x for x in (name.name, info.get('configName'), folder.name) if x
  )
  return _Found(folder, full_name, splits[split], fields)


def _subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
  if not folder.is_dir():
    return []
  return sorted(path for path in folder.iterdir() if path.is_dir())


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    raise errors.DataError(
      f'{path}: not a dataset prepared by TFDS: {error}'
    ) from error
