"""A packed dataset on disk: shards of rows, a manifest, memory-mapped reading.

    manifest.json             what it is, of what, and a checksum per file
    unigram_counts.npy        int64 [V], ids of the train rows, special ones too
    tokenizer/                tokenizer.model or tokenizer.json
    train-00000.npy ...       uint16 [rows, N], one per block of text
    eval-00000.npy ...
    build.json, blocks/       what `prepare` needs to make a lost shard again

The manifest's sha256 is the dataset's fingerprint.
"""

import dataclasses
import functools
import json
import mmap
import pathlib
import resource
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from td_flax import artifacts, config, errors, layout
from td_flax.data import corpora, sentence_piece, tokenizer, vocabulary

FORMAT_VERSION = 1
COUNTS = 'unigram_counts.npy'
SPLITS = ('train', 'eval')

_MAX_OPEN = 4096
# By these a `manifest.json` or `build.json` is known from another program's.
_KEYS = {'format_version', 'request', 'sources', 'eval_sources'}


class Rows:
  """The rows of a split, numbered through its shards.

  A corpus may have more shards than a process may open files, so they are
  opened when they are read, and those read last stay open.

  Args:
    open_shard: returns a shard by its number, uint16 [rows, N].
    sizes: rows of each shard; those of one source lie side by side.
    sources: the source of each shard.
    weights: the weight of each source, None where none is given.
    sequence_length: N.

  Attributes:
    ranges: per source, the numbers of its rows.
    weights: as given.
    sequence_length: N.
  """

  def __init__(
    self,
    open_shard: Callable[[int], np.ndarray],
    sizes: Sequence[int],
    sources: Sequence[int],
    weights: Sequence[float | None],
    sequence_length: int,
  ) -> None:
    self._shard = functools.lru_cache(_open_at_once())(open_shard)
    self._stops = np.cumsum([0, *sizes], dtype=np.int64)[1:]
    self._starts = self._stops - np.asarray(sizes, np.int64)
    self.sequence_length = sequence_length
    self.weights = tuple(weights)
    totals = [0] * len(weights)
    for size, source in zip(sizes, sources, strict=True):
      totals[source] += size
    stops = np.cumsum(totals).tolist()
    self.ranges = tuple(
      range(stop - size, stop) for size, stop in zip(totals, stops, strict=True)
    )

  def __len__(self) -> int:
    return int(self._stops[-1]) if len(self._stops) else 0

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Reads rows.

    Args:
      indices: whole numbers [B] from 0 to below `len(self)`, in any order.

    Returns:
      uint16 [B, N].

    Raises:
      IndexError: an index is outside.
      errors.DataError: a shard cannot be read any more.
    """
    indices = np.asarray(indices, np.int64)
    if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
      raise IndexError(f'rows are numbered from 0 to {len(self) - 1}')
    rows = np.empty((len(indices), self.sequence_length), np.uint16)
    shards = np.searchsorted(self._stops, indices, side='right')
    places = indices - self._starts[shards]
    # Of a large corpus every row of a batch lies in another shard: a row at a
    # time is then four times as fast as all rows of a shard at once.
    for i, at in enumerate(zip(shards.tolist(), places.tolist(), strict=True)):
      shard, place = at
      rows[i] = self._shard(shard)[place]
    return rows


def _open_at_once() -> int:
  """How many shards of a split stay open: their maps hold a file each."""
  limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
  if limit == resource.RLIM_INFINITY:
    return _MAX_OPEN
  return min(limit // 4, _MAX_OPEN)  # two splits, and as much for all others


@dataclasses.dataclass(frozen=True)
class PackedDataset:
  """A verified dataset.

  Attributes:
    directory: where it lies.
    manifest: the content of `manifest.json`.
    tokenizer: the one that made its ids.
    train: the train rows.
    eval: the held-out rows.
    unigram_counts: int64 [V], how often each id occurs in the train rows.
  """

  directory: pathlib.Path
  manifest: dict[str, Any]
  tokenizer: vocabulary.Tokenizer
  train: Rows
  eval: Rows
  unigram_counts: np.ndarray

  @functools.cached_property
  def fingerprint(self) -> str:
    """sha256 of the manifest in canonical form, and so of all content."""
    return artifacts.fingerprint(self.manifest)


def request(data: config.DataConfig) -> dict[str, Any]:
  """The keys of `data` that decide about a dataset's content.

  Paths of output and of TFDS do not. A given tokenizer counts by its content,
  and then the keys of its training do not count.

  Raises:
    errors.ConfigError: the given tokenizer is no file.
    errors.DataError: that file is no tokenizer.
  """
  fields = dataclasses.asdict(data)
  ignored = {'dir', 'tfds_dir'}
  if data.tokenizer not in tokenizer.TRAINED_KINDS:
    given = tokenizer.load(data.tokenizer, lowercase=data.lowercase)
    fields['tokenizer'] = f'sha256:{given.fingerprint}'
    ignored |= {'vocab_size', 'lowercase', 'tokenizer_sample_mb'}
  if data.eval_files:
    ignored.add('eval_fraction')
  return {
    f'data.{key}': value for key, value in fields.items() if key not in ignored
  }


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
  """Names the keys that differ, with both values; '' where none does."""
  keys = sorted(old.keys() | new.keys())
  return errors.differences((key, old.get(key), new.get(key)) for key in keys)


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  """Reads `manifest.json`.

  Raises:
    errors.DataError: there is none, or not one of this format.
  """
  mend = 'delete it and prepare the dataset again (finished shards are kept)'
  try:
    return read_record(directory / layout.MANIFEST, mend)
  except FileNotFoundError:
    raise errors.DataError(
      f'{directory}: holds no packed dataset ({layout.MANIFEST} is missing); '
      'make it with td_flax.tools.prepare'
    ) from None


def read_record(path: pathlib.Path, mend: str) -> dict[str, Any]:
  """Reads what says of a directory that it holds a dataset, or half of one.

  Args:
    path: of a `manifest.json` or `build.json`.
    mend: what to do where it is cut off.

  Raises:
    errors.DataError: it is damaged, of another format or of another program.
    OSError: it cannot be read.
  """
  try:
    content = json.loads(path.read_bytes())
  except ValueError:
    raise errors.DataError(f'{path}: damaged; {mend}') from None
  keys = content.keys() if isinstance(content, dict) else set()
  if 'format_version' in keys and content['format_version'] != FORMAT_VERSION:
    raise errors.DataError(
      f'{path}: format_version={content["format_version"]!r}, but this program '
      f'reads {FORMAT_VERSION}; prepare the dataset in another directory'
    )
  if not keys >= _KEYS:
    raise errors.DataError(
      f'{path.parent}: is no packed dataset ({path.name} is of another '
      'program); set data.dir to another directory'
    )
  return content


def check(directory: pathlib.Path, data: config.DataConfig) -> None:
  """Checks that the dataset in `directory` is the one that `data` asks for.

  Raises:
    errors.DataError: there is none; it was made with other keys, which are
      named; or a source file has another size than when it was packed.
  """
  manifest = read_manifest(directory)
  if differing := differences(manifest['request'], request(data)):
    raise errors.DataError(
      f'{directory}: was packed for another config: {differing}; set data.dir '
      'to another directory, or delete this one'
    )
  for key, packed in (
    ('data.files', manifest['sources']),
    ('data.eval_files', manifest['eval_sources']),
  ):
    if packed:
      _check_sources(directory, data, key, packed)


def _check_sources(
  directory: pathlib.Path,
  data: config.DataConfig,
  key: str,
  packed: list[dict[str, Any]],
) -> None:
  try:
    present = corpora.parse(
      getattr(data, key.removeprefix('data.')),
      text_field=data.text_field,
      tfds_dir=data.tfds_dir,
      key=key,
    )
    inventories = [source.inventory() for source in present]
  except errors.UserError:
    return  # the text is not there any more, and is not needed
  for old, source, inventory in zip(packed, present, inventories, strict=True):
    sizes: dict[str, set[int]] = {}
    for item in inventory:
      sizes.setdefault(_name(item), set()).add(item['bytes'])
    names = {_name(item) for item in old['inventory']}
    changed = [
      item['name']
      for item in old['inventory']
      if item['bytes'] not in sizes.get(_name(item), {item['bytes']})
    ]
    if names & sizes.keys():
      # With some of the packed text there, text of another name is new. With
      # none of it, the packed text is gone.
      changed += sorted(sizes.keys() - names)
    if changed:
      raise errors.DataError(
        f'{key}: {source.spec}: {changed[0]} was not there in this size when '
        f'{directory} was packed; set data.dir to another directory, or delete '
        'this one'
      )


def _name(item: dict[str, Any]) -> str:
  """What is the same text only if it has the same size."""
  # The embedded prose of another Python is another text, not a changed one.
  return ' '.join([item['name'], item.get('python', '')]).strip()


def missing_files(directory: pathlib.Path) -> list[str]:
  """The arrays of the manifest that are not there."""
  return [
    item['file']
    for item in _arrays(read_manifest(directory))
    if not (directory / item['file']).exists()
  ]


def load(directory: pathlib.Path) -> PackedDataset:
  """Opens a dataset and verifies all of it.

  Raises:
    errors.DataError: there is none, or a file is missing, truncated or damaged.
  """
  manifest = read_manifest(directory)
  artifacts.verify(directory, _arrays(manifest))
  expected = manifest['tokenizer']['fingerprint']
  return PackedDataset(
    directory=directory,
    manifest=manifest,
    tokenizer=load_tokenizer(directory, expected),
    train=_rows(directory, manifest, 'train'),
    eval=_rows(directory, manifest, 'eval'),
    unigram_counts=np.load(directory / COUNTS),
  )


def load_tokenizer(
  directory: pathlib.Path, fingerprint: str
) -> vocabulary.Tokenizer:
  """Opens the dataset's copy of its tokenizer.

  Raises:
    errors.DataError: it is missing, or not the one of this fingerprint.
  """
  folder = directory / layout.TOKENIZER
  mend = (
    'put the one that the rows were made with back, or delete the dataset and '
    'prepare it again'
  )
  path = tokenizer.find(folder)
  if path is None:
    raise errors.DataError(
      f'{folder / sentence_piece.SentencePiece.file}: missing; {mend}'
    )
  try:
    loaded = tokenizer.parse(path.name, path.read_bytes(), str(path))
  except errors.DataError as error:
    raise errors.DataError(f'{error}; {mend}') from error
  if loaded.fingerprint != fingerprint:
    raise errors.DataError(
      f'{path}: is another tokenizer, or damaged (fingerprint '
      f'{loaded.fingerprint[:12]}... instead of {fingerprint[:12]}...); {mend}'
    )
  return loaded


def _arrays(manifest: dict[str, Any]) -> list[dict[str, Any]]:
  shards = [x for split in SPLITS for x in manifest['splits'][split]['shards']]
  return [manifest['unigram_counts'], *shards]


def _rows(
  directory: pathlib.Path, manifest: dict[str, Any], split: str
) -> Rows:
  shards = manifest['splits'][split]['shards']
  sources = manifest['sources']
  if split == 'eval' and manifest['eval_sources']:
    sources = manifest['eval_sources']
  length = manifest['sequence_length']

  def open_shard(number: int) -> np.ndarray:
    return _open(directory / shards[number]['file'], shards[number], length)

  return Rows(
    open_shard,
    [x['rows'] for x in shards],
    [x['source'] for x in shards],
    [x['weight'] for x in sources],
    length,
  )


def _open(path: pathlib.Path, item: dict[str, Any], length: int) -> np.ndarray:
  """Maps a shard, uint16 [rows, N]; five times as fast as `np.load`."""
  try:
    with path.open('rb') as file:
      content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(content) != item['bytes']:
      raise ValueError(f'{len(content):,} bytes instead of {item["bytes"]:,}')
  except (OSError, ValueError) as error:
    raise errors.DataError(
      f'{path}: was whole when the dataset was opened, and cannot be read now: '
      f'{error}'
    ) from error
  ids = item['rows'] * length
  start = len(content) - 2 * ids  # behind the header of the .npy format
  return np.frombuffer(content, np.uint16, ids, start).reshape(-1, length)
