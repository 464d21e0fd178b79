"""Makes TFDS datasets readable without TensorFlow: generates or converts them.

Most TFDS builders write TFRecord files unless told otherwise, and many folders
were written by them. A TFRecord file is a sequence of

    length uint64 | crc32c of the length | data | crc32c of the data

and an array_record file holds the same data in another frame, so converting
needs no TensorFlow. The checksum of each length is verified, and the number of
records; the checksum of the data is not, which would take Python hours.
"""

import contextlib
import difflib
import importlib
import json
import os
import pathlib
import re
import shutil
import struct
from collections.abc import Collection, Iterator
from typing import Any

from td_flax import errors, extras, locks, progress
from td_flax.data import tfds_source

RECORDS_PER_SHARD = 10_000  # single reads cost time per record of the shard
_HEADER = struct.Struct('<QI')
_TRAILER_BYTES = 4
_CLASS = re.compile(r'^class (\w+)\(', re.MULTILINE)


def make_readable(name: str, tfds_dir: str) -> pathlib.Path:
  """Converts the dataset, or generates it where it is not there.

  Args:
    name: NAME[/CONFIG][:VERSION], as behind `tfds:`.
    tfds_dir: where TFDS datasets lie; '' is TFDS's own default.

  Returns:
    The folder of the dataset's version.

  Raises:
    errors.ConfigError: `name` has another form, or TFDS has no such dataset.
    errors.DataError: the dataset cannot be downloaded, needs a package that is
      missing, its files are damaged, or another process is at it.
  """
  parsed = tfds_source.parse_name(name.removeprefix('tfds:'), '--tfds')
  try:
    base = parsed.folder(tfds_dir)
    if not base.is_dir():
      return generate(parsed, tfds_dir)
    busy = errors.DataError(
      f'{base}: another process is making this dataset readable; wait for it'
    )
    advice = 'start no second command that makes it readable'
    with locks.exclusive(base, advice, busy):
      _undo_interrupted(base)
      folder = tfds_source.newest(base, parsed.version)
      if folder is None:
        return generate(parsed, tfds_dir)
      if not tfds_source.is_array_record(tfds_source.read_info(folder)):
        convert(folder)
      return folder
  except OSError as error:
    raise errors.DataError(f'--tfds={name}: {error}') from error


def generate(name: tfds_source.Name, tfds_dir: str) -> pathlib.Path:
  """Downloads a dataset and writes it as array_record.

  An interrupted call leaves what it downloaded to the next one.

  Raises:
    errors.ConfigError: see `make_readable`.
    errors.DataError: see `make_readable`.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download import download_manager, util

  label = '/'.join(filter(None, (name.name, name.config)))
  label += f':{name.version}' if name.version else ''
  try:
    _check_config(name, _builder_class(name.name).builder_configs)
    builder = tfds.builder(
      label,
      data_dir=os.path.expanduser(tfds_dir) or None,
      file_format='array_record',
    )
    if isinstance(builder, tfds.core.BeamBasedBuilder):
      importlib.import_module('apache_beam')
    builder.download_and_prepare(
      # The public bucket holds tfrecord folders.
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  except ImportError as error:
    module = (error.name or '').partition('.')[0]
    what = f'pip install {module}' if module else str(error)
    needed = f'a package that is missing: {what}'
    if module == 'apache_beam':
      needed = extras.missing('beam')
    raise errors.DataError(
      f'tfds:{label}: its generation needs {needed}'
    ) from error
  except (
    OSError,
    util.DownloadError,
    download_manager.NonMatchingChecksumError,
  ) as error:
    raise errors.DataError(
      f'tfds:{label}: cannot be downloaded or written: '
      f'{errors.one_line(error)}; run the same command again to continue with '
      'what is there'
    ) from error
  except (AssertionError, ValueError, RuntimeError) as error:
    # TFDS's ways to say: unknown version, or files to be fetched by hand.
    raise errors.DataError(f'tfds:{label}: {errors.one_line(error)}') from error
  return pathlib.Path(builder.data_path)


def _check_config(name: tfds_source.Name, valid: Collection[str]) -> None:
  if not name.config or name.config in valid:
    return
  near = difflib.get_close_matches(name.config, valid, n=5, cutoff=0)
  raise errors.ConfigError(
    f'tfds:{name.name}/{name.config}: no such config; '
    + (
      f'the nearest of {len(valid)}: {", ".join(near)}' if near else 'none has'
    )
  )


def _builder_class(name: str) -> Any:
  """The class that generates `name`, whose module may have to be imported.

  TFDS does it by itself for some datasets; for the others it imports all, and
  gives up at the first one that wants TensorFlow.
  """
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import naming, registered

  root = pathlib.Path(tfds.__file__).parent
  by_name = {
    naming.camelcase_to_snakecase(cls): path.relative_to(root).with_suffix('')
    for pattern in ('*/*.py', '*/*/*.py')
    for path in root.glob(pattern)
    if not path.stem.endswith('_test')
    for cls in _CLASS.findall(path.read_text('utf-8'))
  }
  by_name |= {path.name: None for path in (root / 'datasets').glob('[!_]*')}
  if module := by_name.get(name):
    importlib.import_module('.'.join((tfds.__name__, *module.parts)))
  try:
    return tfds.builder_cls(name)
  except registered.DatasetNotFoundError as error:
    near = difflib.get_close_matches(name, by_name, n=1)
    raise errors.ConfigError(
      f'tfds:{name}: TFDS {tfds.__version__} has no such dataset'
      + (f'; did you mean {near[0]}?' if near else '')
    ) from error


def convert(folder: pathlib.Path) -> None:
  """Turns a version's tfrecord folder into an array_record one.

  The original is kept beside it, as `<version>.tfrecord`.

  Raises:
    errors.DataError: a file is missing, damaged, or has another number of
      records than `dataset_info.json` says, or the disk is full. The folder is
      then as it was.
  """
  info = tfds_source.read_info(folder)
  original = folder.with_name(f'{folder.name}.tfrecord')
  if original.exists():
    raise errors.DataError(
      f'{original} exists already; move it away to convert {folder}'
    )
  if info.get('fileFormat', 'tfrecord') != 'tfrecord':
    raise errors.DataError(
      f'{folder}: holds {info["fileFormat"]} files; only tfrecord is converted'
    )
  # TFDS too calls what is not finished so; ours may be left by a kill.
  fresh = folder.with_name(f'incomplete.{folder.name}.array_record')
  shutil.rmtree(fresh, ignore_errors=True)
  try:
    fresh.mkdir()
    _write(folder, fresh, info)
    folder.rename(original)
    fresh.rename(folder)
  except (OSError, RuntimeError) as error:  # array_record raises the latter
    raise errors.DataError(
      f'{folder}: cannot be converted, and is as it was: '
      f'{errors.one_line(error)}'
    ) from error
  finally:
    shutil.rmtree(fresh, ignore_errors=True)  # gone already where all went well
    _undo_interrupted(folder.parent)


def _undo_interrupted(base: pathlib.Path) -> None:
  """Gives back an original that was moved away and not replaced."""
  for original in base.glob('*.tfrecord'):
    folder = original.with_suffix('')
    if original.is_dir() and not folder.exists():
      original.rename(folder)


def _write(
  folder: pathlib.Path, fresh: pathlib.Path, info: dict[str, Any]
) -> None:
  total = sum(
    int(n) for split in info['splits'] for n in split.get('shardLengths', [])
  )
  with progress.Progress(total, 'converting', 'records') as bar:
    for split in info['splits']:
      records = _split_records(folder, info, split)
      lengths = [int(n) for n in split.get('shardLengths', [])]
      split['shardLengths'] = [
        str(n)
        for n in _write_split(
          fresh, f'{info["name"]}-{split["name"]}', records, sum(lengths), bar
        )
      ]
      split.pop('filepathTemplate', None)  # TFDS's default, from here on
  for path in folder.iterdir():
    if path.is_file() and '.tfrecord' not in path.name:
      shutil.copy2(path, fresh / path.name)
  info['fileFormat'] = 'array_record'
  (fresh / 'dataset_info.json').write_text(json.dumps(info, indent=2))
  shutil.copymode(folder, fresh)


def _split_records(
  folder: pathlib.Path, info: dict[str, Any], split: dict[str, Any]
) -> Iterator[bytes]:
  """The records of a split's files, in order."""
  template = split.get(
    'filepathTemplate', '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
  )
  lengths = [int(n) for n in split.get('shardLengths', [])]
  for i, expected in enumerate(lengths):
    path = folder / template.format(
      DATASET=info['name'],
      SPLIT=split['name'],
      FILEFORMAT='tfrecord',
      SHARD_INDEX=f'{i:05d}',
      NUM_SHARDS=f'{len(lengths):05d}',
      SHARD_X_OF_Y=f'{i:05d}-of-{len(lengths):05d}',
    )
    count = 0
    for record in read_tfrecord(path):
      yield record
      count += 1
    if count != expected:
      raise errors.DataError(
        f'{path}: holds {count:,} records; {folder}/dataset_info.json says '
        f'{expected:,}'
      )


def _write_split(
  fresh: pathlib.Path,
  prefix: str,
  records: Iterator[bytes],
  total: int,
  bar: progress.Progress,
) -> list[int]:
  """Writes shards of at most RECORDS_PER_SHARD; returns their lengths."""
  from array_record.python import array_record_module

  num_shards = -(-total // RECORDS_PER_SHARD)
  lengths = [
    min(RECORDS_PER_SHARD, total - start)
    for start in range(0, total, RECORDS_PER_SHARD)
  ]
  for i, length in enumerate(lengths):
    path = fresh / f'{prefix}.array_record-{i:05d}-of-{num_shards:05d}'
    with contextlib.closing(
      array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    ) as writer:
      for _ in range(length):
        writer.write(next(records))
        bar.update(1)
  for _ in records:  # runs the check of the last file's count
    pass
  return lengths


def read_tfrecord(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of a TFRecord file.

  Raises:
    errors.DataError: it is missing, truncated, or a length is damaged.
  """
  try:
    with open(path, 'rb') as file:
      while header := file.read(_HEADER.size):
        start = file.tell() - len(header)
        data = b''
        if len(header) == _HEADER.size:
          length, checksum = _HEADER.unpack(header)
          if masked_crc32c(header[:8]) != checksum:
            raise errors.DataError(
              f'{path}: damaged record at byte {start:,}: the checksum of its '
              'length is wrong'
            )
          data = file.read(length + _TRAILER_BYTES)
        if len(header) < _HEADER.size or len(data) < length + _TRAILER_BYTES:
          raise errors.DataError(
            f'{path}: truncated in the record at byte {start:,}'
          )
        yield data[:-_TRAILER_BYTES]
  except OSError as error:
    raise errors.DataError(f'{path}: {error.strerror or error}') from error


def _crc32c_table() -> list[int]:
  table = []
  for crc in range(256):
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    table.append(crc)
  return table


_TABLE = _crc32c_table()


def masked_crc32c(data: bytes) -> int:
  """The Castagnoli checksum, rotated and shifted as TFRecord stores it."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
  crc ^= 0xFFFFFFFF
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
