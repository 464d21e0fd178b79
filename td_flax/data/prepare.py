"""Corpora become a tokenizer and a packed dataset: in parallel, resumable.

The order: train the tokenizer on a sample, write `build.json`, turn each block
of text into its shards and then its record, and when every block has a record,
write the manifest. What a kill leaves behind is never taken for more than it
is, and the same call continues from there. The result depends on the text and
the config alone, not on the number of workers or on interruptions.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from td_flax import artifacts, config, errors, layout, locks, progress
from td_flax.data import (
  blocks,
  corpora,
  dataset,
  sample,
  sentence_piece,
  tokenizer,
  workers,
)
from td_flax.data.vocabulary import Tokenizer

_BUILD = 'build.json'
_LISTED_WARNINGS = 10


def prepare(
  data: config.DataConfig,
  directory: pathlib.Path,
  *,
  num_workers: int | None = None,
) -> dataset.PackedDataset:
  """Opens the dataset in `directory`, after making what is missing of it.

  Args:
    data: what to read, and the rows it becomes.
    directory: where the dataset lies or shall lie.
    num_workers: processes; None is one per usable core.

  Returns:
    The dataset, verified.

  Raises:
    errors.ConfigError: a key of `data` cannot work.
    errors.DataError: the text, the tokenizer or the directory cannot be used.
    errors.Stopped: Ctrl-C or SIGTERM; the same call continues.
  """
  with _clear_errors(directory):
    if is_complete(data, directory):
      return dataset.load(directory)
    corpus = _find(data, directory)  # before anything is written
    directory.mkdir(parents=True, exist_ok=True)
    busy = errors.DataError(
      f'{directory}: another process is preparing this dataset; wait for it'
    )
    advice = 'start no second command that prepares it'
    with (
      locks.exclusive(directory, advice, busy),
      workers.pool(num_workers or workers.usable_cores()) as run,
    ):
      _build(data, corpus, directory, run)
    return dataset.load(directory)


def is_complete(data: config.DataConfig, directory: pathlib.Path) -> bool:
  """Whether `directory` holds the dataset of `data` with all its files.

  Raises:
    errors.ConfigError: `data.tokenizer` is no file.
    errors.DataError: it holds another dataset, or cannot be looked at.
  """
  with _clear_errors(directory):
    if not (directory / layout.MANIFEST).exists():
      return False
    dataset.check(directory, data)
    return not dataset.missing_files(directory)


@contextlib.contextmanager
def _clear_errors(directory: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise errors.DataError(
      f'{error.filename or directory}: {error.strerror or error}; finished '
      'blocks are kept; mend this, then run the same command again to continue'
    ) from error


@dataclasses.dataclass(frozen=True)
class _Corpus:
  """What a config names, and what identifies a build of it."""

  sources: list[corpora.Source]
  eval_sources: list[corpora.Source]
  wanted: dict[str, Any]


def _find(data: config.DataConfig, directory: pathlib.Path) -> _Corpus:
  try:
    sources, eval_sources = _parse(data)
    wanted = {
      'format_version': dataset.FORMAT_VERSION,
      'request': dataset.request(data),
      'sources': [_describe(source) for source in sources],
      'eval_sources': [_describe(source) for source in eval_sources],
      'sequence_length': data.sequence_length,
    }
  except errors.UserError as error:
    if not (directory / layout.MANIFEST).exists():
      raise
    # Packed rows need no text, but for those that were lost.
    lost = directory / dataset.missing_files(directory)[0]
    raise errors.DataError(
      f'{lost}: missing, and cannot be made again from its text: {error}'
    ) from error
  return _Corpus(sources, eval_sources, wanted)


def _build(
  data: config.DataConfig,
  corpus: _Corpus,
  directory: pathlib.Path,
  run: workers.Runner,
) -> None:
  held_out = 0.0 if corpus.eval_sources else data.eval_fraction
  total = None
  path = directory / _BUILD
  if path.exists():
    build = _resume(path, corpus.wanted)
  else:
    _refuse_foreign(directory)
    if data.tokenizer in tokenizer.TRAINED_KINDS:
      vocabulary, total = _train(data, corpus, held_out, run)
    else:
      vocabulary = tokenizer.load(data.tokenizer, lowercase=data.lowercase)
    tokenizer.save(vocabulary, directory / layout.TOKENIZER)
    build = corpus.wanted | {
      'tokenizer': {
        'fingerprint': vocabulary.fingerprint,
        'vocab_size': vocabulary.vocab_size,
        'special': vars(vocabulary.special),
      }
    }
    artifacts.write_json(path, build, sort_keys=True)
  job = blocks.Job(
    directory=directory,
    build=artifacts.fingerprint(build),
    tokenizer=build['tokenizer']['fingerprint'],
    sequence_length=data.sequence_length,
    seed=data.seed,
  )
  parts = [(i, held_out, x) for i, x in enumerate(corpus.sources)]
  parts += [(i, 1.0, x) for i, x in enumerate(corpus.eval_sources)]
  with progress.Progress(total and total / 1e6, 'packing', 'MB') as bar:
    records = _pack(job, parts, run, bar)
    _report(records, bar)
  _finish(data, directory, build, records)


def _parse(
  data: config.DataConfig,
) -> tuple[list[corpora.Source], list[corpora.Source]]:
  def parse(key: str, specs: str) -> list[corpora.Source]:
    return corpora.parse(
      specs, text_field=data.text_field, tfds_dir=data.tfds_dir, key=key
    )

  sources = parse('data.files', data.files)
  if not data.eval_files:
    return sources, []
  eval_sources = parse('data.eval_files', data.eval_files)
  trained = {x for source in sources for x in source.identities()}
  for source in eval_sources:
    if source.weight is not None:
      raise errors.ConfigError(
        f'data.eval_files={data.eval_files!r}: must have no weights; held-out '
        'text is read as it is'
      )
    if both := trained.intersection(source.identities()):
      raise errors.ConfigError(
        f'data.eval_files={data.eval_files!r}: must share nothing with '
        f'data.files, but {min(both)} is in both'
      )
  return sources, eval_sources


def _describe(source: corpora.Source) -> dict[str, Any]:
  return {
    'spec': source.spec,
    'weight': source.weight,
    'inventory': source.inventory(),
  }


def _resume(path: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
  """The unfinished build, if it is one of the same text for the same keys."""
  mend = f'delete {path.parent} and run the same command again'
  build = dataset.read_record(path, mend)
  different = dataset.differences(build['request'], wanted['request'])
  wanted = json.loads(json.dumps(wanted))  # as it would have been read
  if not different and any(build[key] != wanted[key] for key in wanted):
    different = 'the files named by data.files or data.eval_files have changed'
  if different:
    raise errors.DataError(
      f'{path.parent}: holds an unfinished dataset for another config: '
      f'{different}; set data.dir to another directory, or delete this one'
    )
  return build


def _refuse_foreign(directory: pathlib.Path) -> None:
  # A build killed before `build.json` leaves at most these.
  ours = {layout.TOKENIZER, f'{_BUILD}.tmp'}
  foreign = sorted({path.name for path in directory.iterdir()} - ours)
  if foreign:
    raise errors.DataError(
      f'{directory}: must be a new or empty directory or hold a dataset, but '
      f'holds {foreign[0]}; set data.dir to another directory'
    )


def _train(
  data: config.DataConfig,
  corpus: _Corpus,
  held_out: float,
  run: workers.Runner,
) -> tuple[Tokenizer, int]:
  """Trains on the sample; also counts the bytes of all blocks."""
  drawn = sample.Sample(data.tokenizer_sample_mb * 10**6)
  num_bytes = num_train = num_eval = 0

  def tasks() -> Iterator[tuple[int, tuple]]:
    for source in corpus.sources:
      for block in source.blocks():
        below = drawn.below  # all that this block can still contribute
        yield block.num_bytes, (block, data.seed, held_out, below)

  with progress.Progress(None, 'sampling', 'MB') as bar:
    for size, result in run(blocks.sample_block, tasks()):
      num_bytes += size
      num_train += result.num_train
      num_eval += result.num_eval
      for key, text in result.documents:
        drawn.add(key, text)
      bar.update(size / 1e6)
    for source in corpus.eval_sources:
      num_bytes += sum(block.num_bytes for block in source.blocks())
  _require(data, None, num_train, 1 if data.eval_files else num_eval)
  texts = drawn.texts()
  total = sum(len(text.encode()) for text in texts) / 1e6
  with progress.Progress(total, 'tokenizer', 'MB') as bar:

    def fed() -> Iterator[str]:
      for text in texts:
        yield text
        bar.update(len(text.encode()) / 1e6)
      bar.write('tokenizer: all text is read; merging')

    vocabulary = sentence_piece.train(
      fed(),
      kind=data.tokenizer,
      vocab_size=data.vocab_size,
      lowercase=data.lowercase,
    )
  return vocabulary, num_bytes


def _pack(
  job: blocks.Job,
  parts: list[tuple[int, float, corpora.Source]],
  run: workers.Runner,
  bar: progress.Progress,
) -> list[dict[str, Any]]:
  """The records of all blocks in order; packs those that have none."""
  (job.directory / layout.BLOCKS).mkdir(exist_ok=True)
  records: dict[int, dict[str, Any]] = {}

  def tasks() -> Iterator[tuple[tuple[int, int], tuple]]:
    number = 0
    for source, held_out, text in parts:
      for block in text.blocks():
        record = blocks.finished(job, number)
        if record is None:
          task = (job, number, source, held_out, block)
          yield (number, block.num_bytes), task
        else:
          records[number] = record
          bar.update(block.num_bytes / 1e6)
        number += 1

  for (number, num_bytes), record in run(blocks.pack_block, tasks()):
    records[number] = record
    bar.update(num_bytes / 1e6)
  return [records[number] for number in sorted(records)]


def _report(records: list[dict[str, Any]], bar: progress.Progress) -> None:
  long = [x for record in records for x in record['long_documents']]
  for where in long[:_LISTED_WARNINGS]:
    bar.write(f'warning: {where}; it is encoded in parts')
  if len(long) > _LISTED_WARNINGS:
    bar.write(f'warning: {len(long) - _LISTED_WARNINGS} more such documents')
  empty = sum(
    _summed(records, split)['empty_documents'] for split in dataset.SPLITS
  )
  if empty:
    first = next(filter(None, (x['first_empty_document'] for x in records)))
    bar.write(
      f'warning: {first}: a document holds nothing to encode; left out '
      f'({empty:,} such documents in all)'
    )


def _finish(
  data: config.DataConfig,
  directory: pathlib.Path,
  build: dict[str, Any],
  records: list[dict[str, Any]],
) -> None:
  """Writes the unigram counts and, last of all, the manifest."""
  splits = {split: _summed(records, split) for split in dataset.SPLITS}
  _require(data, directory, splits['train']['rows'], splits['eval']['rows'])
  served = {shard['source'] for shard in splits['train']['shards']}
  for i, source in enumerate(build['sources']):
    if i not in served:
      raise errors.DataError(
        f'data.files: {source["spec"]} holds no text to train on; remove it '
        f'and delete {directory}'
      )
  counts = np.zeros(build['tokenizer']['vocab_size'], np.int64)
  files = [record['counts'] for record in records if record['counts']]
  artifacts.verify(directory, files)  # a resumed build looked at sizes only
  for item in files:
    counts += np.load(directory / item['file'])
  written = artifacts.write_atomically(directory / dataset.COUNTS, counts)
  manifest = build | {
    'splits': splits,
    'unigram_counts': {'file': dataset.COUNTS} | written,
  }
  path = directory / layout.MANIFEST
  if path.exists() and dataset.read_manifest(directory) != manifest:
    raise errors.DataError(
      f'{directory}: what was made again differs from what was lost: the text '
      'has changed; set data.dir to another directory, or delete this one'
    )
  artifacts.write_json(path, manifest, sort_keys=True)


def _summed(records: list[dict[str, Any]], split: str) -> dict[str, Any]:
  parts = [record['splits'][split] for record in records]
  totals = {
    key: sum(part[key] for part in parts)
    for key in ('rows', 'tokens', 'documents', 'empty_documents', 'text_bytes')
  }
  shards = [
    part['shard'] | {'rows': part['rows'], 'source': record['source']}
    for record, part in zip(records, parts, strict=True)
    if part['shard']
  ]
  return totals | {'shards': shards}


def _require(
  data: config.DataConfig,
  unfinished: pathlib.Path | None,
  num_train: int,
  num_eval: int,
) -> None:
  """Refuses a corpus without train or without held-out text.

  Args:
    data: the config.
    unfinished: where a build lies that another value would have to replace.
    num_train: documents or rows.
    num_eval: documents or rows.
  """
  if not num_train and (data.eval_files or not num_eval):
    raise errors.DataError(f'data.files={data.files!r}: holds no text')
  if not num_eval and data.eval_files:
    raise errors.DataError(
      f'data.eval_files={data.eval_files!r}: holds no text'
    )
  if num_train and num_eval:
    return
  held_out, mend = ('no', 'raise') if num_train else ('every', 'lower')
  delete = f' after deleting {unfinished}' if unfinished else ''
  raise errors.ConfigError(
    f'data.eval_fraction={data.eval_fraction}: holds out {held_out} document; '
    f'{mend} it or set data.eval_files{delete}'
  )
