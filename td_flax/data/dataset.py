"""A packed dataset on disk: shards of rows, a manifest, memory-mapped reading.

    manifest.json             what it is, of what, and a checksum per file
    unigram_counts.npy        int64 [V], ids of the train rows, special ones too
    tokenizer/tokenizer.model
    train-00000.npy ...       uint16 [rows, N], one per block of text
    eval-00000.npy ...
    build.json, blocks/       what `prepare` needs to make a lost shard again

The manifest's sha256 is the dataset's fingerprint.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from td_flax import config, errors
from td_flax.data import artifacts, corpora, tokenizer

FORMAT_VERSION = 1
MANIFEST = 'manifest.json'
COUNTS = 'unigram_counts.npy'
TOKENIZER = 'tokenizer'
SPLITS = ('train', 'eval')


class Rows:
  """The rows of a split, numbered through its memory-mapped shards.

  Args:
    shards: uint16 [rows, N] each, those of one source side by side.
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
    shards: Sequence[np.ndarray],
    sources: Sequence[int],
    weights: Sequence[float | None],
    sequence_length: int,
  ) -> None:
    self._shards = list(shards)
    self._stops = np.cumsum([len(x) for x in shards], dtype=np.int64)
    self.sequence_length = sequence_length
    self.weights = tuple(weights)
    sizes = [0] * len(weights)
    for shard, source in zip(shards, sources, strict=True):
      sizes[source] += len(shard)
    stops = np.cumsum(sizes).tolist()
    self.ranges = tuple(
      range(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)
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
    """
    indices = np.asarray(indices, np.int64)
    if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
      raise IndexError(f'rows are numbered from 0 to {len(self) - 1}')
    rows = np.empty((len(indices), self.sequence_length), np.uint16)
    if not indices.size:
      return rows
    shard_of = np.searchsorted(self._stops, indices, side='right')
    order = np.argsort(shard_of, kind='stable')
    shards, starts = np.unique(shard_of[order], return_index=True)
    for shard, picked in zip(shards, np.split(order, starts[1:]), strict=True):
      first = self._stops[shard] - len(self._shards[shard])
      rows[picked] = self._shards[shard][indices[picked] - first]
    return rows


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
  tokenizer: tokenizer.Tokenizer
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
    errors.DataError: the given tokenizer cannot be read.
  """
  fields = dataclasses.asdict(data)
  ignored = {'dir', 'tfds_dir'}
  if data.tokenizer not in tokenizer.TRAINED_KINDS:
    fields['tokenizer'] = f'sha256:{tokenizer.load(data.tokenizer).fingerprint}'
    ignored |= {'vocab_size', 'lowercase', 'tokenizer_sample_mb'}
  if data.eval_files:
    ignored.add('eval_fraction')
  return {
    f'data.{key}': value for key, value in fields.items() if key not in ignored
  }


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
  """Names the keys that differ, with both values; '' where none does."""
  return '; '.join(
    f'{key} is {old.get(key)!r} there and {new.get(key)!r} here'
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  )


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  """Reads `manifest.json`.

  Raises:
    errors.DataError: there is none, or not one of this format.
  """
  path = directory / MANIFEST
  try:
    manifest = json.loads(path.read_bytes())
    version = manifest['format_version']
  except FileNotFoundError:
    raise errors.DataError(
      f'{directory}: holds no packed dataset ({MANIFEST} is missing); make it '
      'with td_flax.tools.prepare'
    ) from None
  except (ValueError, TypeError, KeyError):
    raise errors.DataError(
      f'{path}: damaged; delete it and prepare the dataset again (finished '
      'shards are kept)'
    ) from None
  if version != FORMAT_VERSION:
    raise errors.DataError(
      f'{path}: format_version={version!r}, but this program reads '
      f'{FORMAT_VERSION}; prepare the dataset in another directory'
    )
  return manifest


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
  except errors.DataError:
    return  # the text is not there any more, and is not needed
  for old, source in zip(packed, present, strict=True):
    sizes: dict[str, set[int]] = {}
    for item in source.inventory():
      sizes.setdefault(_name(item), set()).add(item['bytes'])
    names = {_name(item) for item in old['inventory']}
    changed = [
      item['name']
      for item in old['inventory']
      if item['bytes'] not in sizes.get(_name(item), {item['bytes']})
    ]
    if names < sizes.keys():
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
) -> tokenizer.Tokenizer:
  """Opens the dataset's copy of its tokenizer.

  Raises:
    errors.DataError: it is missing, or not the one of this fingerprint.
  """
  path = directory / TOKENIZER / tokenizer.FILE
  mend = (
    'put the one that the rows were made with back, or delete the dataset and '
    'prepare it again'
  )
  if not path.exists():
    raise errors.DataError(f'{path}: missing; {mend}')
  model = path.read_bytes()
  found = hashlib.sha256(model).hexdigest()
  if found != fingerprint:
    raise errors.DataError(
      f'{path}: is another tokenizer, or damaged (sha256 {found[:12]}... '
      f'instead of {fingerprint[:12]}...); {mend}'
    )
  return tokenizer.Tokenizer(model, str(path))


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
  return Rows(
    [np.load(directory / x['file'], mmap_mode='r') for x in shards],
    [x['source'] for x in shards],
    [x['weight'] for x in sources],
    manifest['sequence_length'],
  )
