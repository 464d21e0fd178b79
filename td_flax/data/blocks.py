"""What a worker process does with a block of text.

One block becomes at most one shard per split, a file of unigram counts and,
written last, a small record. A record says that its block is finished.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from td_flax import artifacts, errors, layout
from td_flax.data import corpora, dataset, packing
from td_flax.data.vocabulary import Tokenizer

# A longer document is worth a warning: it is rarely meant.
_LONG_BYTES = 10**7
# Texts are encoded in parts of so many characters, cut at white space:
# SentencePiece needs 50 bytes and more for each.
_PART_CHARS = 10**6
# What one document gives to the tokenizer's sample: a tenth of the smallest
# sample, with 4 bytes per character less than half of it.
_SAMPLED_CHARS = 10**5
# Counting turns ids into int64: four times their size, so not all at once.
_COUNTED_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class Job:
  """What all blocks of a build have in common.

  Attributes:
    directory: the dataset's.
    build: fingerprint of request, sources and tokenizer.
    tokenizer: the tokenizer's fingerprint.
    sequence_length: N.
    seed: draws the held-out documents.
  """

  directory: pathlib.Path
  build: str
  tokenizer: str
  sequence_length: int
  seed: int


@dataclasses.dataclass(frozen=True)
class Sampled:
  """What a block offers to the tokenizer's sample.

  Attributes:
    documents: hash and beginning of the train documents of interest.
    num_train: train documents of the block.
    num_eval: held-out documents of the block.
  """

  documents: list[tuple[int, str]]
  num_train: int
  num_eval: int


def document_key(text: str, seed: int) -> int:
  """A number of 64 bits that only the text and the seed decide about."""
  digest = hashlib.blake2b(text.encode(), digest_size=8, key=b'%d' % seed)
  return int.from_bytes(digest.digest(), 'big')


def is_held_out(key: int, fraction: float) -> bool:
  """Whether the document with this key is among the held-out ones."""
  return key < fraction * 2**64


def sample_block(
  block: corpora.Block, seed: int, held_out: float, below: int
) -> Sampled:
  """Finds a block's train documents with the smallest keys.

  Args:
    block: the text; its blank documents count for nothing.
    seed: of the keys.
    held_out: the share of held-out documents.
    below: keys from here on are of no interest.
  """
  count = collections.Counter()
  found = []
  for text in filter(str.strip, block.documents()):
    key = document_key(text, seed)
    train = not is_held_out(key, held_out)
    count[train] += 1
    if train and key < below:
      found.append((key, text[:_SAMPLED_CHARS]))
  return Sampled(found, count[True], count[False])


def pack_block(
  job: Job, number: int, source: int, held_out: float, block: corpora.Block
) -> dict[str, Any]:
  """Turns a block into files; returns its record.

  Args:
    job: the build.
    number: the block's place among all blocks.
    source: the source's place in its list.
    held_out: the share of documents that are held out; 1 is all of them.
    block: the text.

  Raises:
    errors.DataError: the text or the tokenizer is damaged.
    OSError: a file cannot be written.
  """
  vocabulary = _load_tokenizer(job.directory, job.tokenizer)
  packers = {
    split: packing.Packer(job.sequence_length, vocabulary.special)
    for split in dataset.SPLITS
  }
  totals = {split: collections.Counter() for split in dataset.SPLITS}
  long_documents, empty = [], []
  for i, (text, ids) in enumerate(_encode(block.documents(), vocabulary)):
    num_bytes = len(text.encode())
    key = document_key(text, job.seed)
    split = 'eval' if is_held_out(key, held_out) else 'train'
    packers[split].add(ids)
    totals[split]['text_bytes'] += num_bytes
    totals[split]['documents' if len(ids) else 'empty_documents'] += 1
    if not len(ids):
      empty.append(i)
    if num_bytes > _LONG_BYTES:
      long_documents.append(
        f'{block.place(i)}: a document of {num_bytes / 1e6:.1f} MB begins with '
        f'{text[:40]!r}'
      )
  record = {
    'build': job.build,
    'source': source,
    'long_documents': long_documents,
    'first_empty_document': block.place(empty[0]) if empty else None,
    'counts': None,
    'splits': {},
  }
  for split, packer in packers.items():
    rows = packer.finish()
    shard = None
    if len(rows):
      shard = _write(job, f'{split}-{number:05d}.npy', rows)
    counts = _count(rows, vocabulary.vocab_size)
    if split == 'train' and len(rows):
      record['counts'] = _write(
        job, f'{layout.BLOCKS}/{number:05d}.counts.npy', counts
      )
    record['splits'][split] = {
      'shard': shard,
      'rows': len(rows),
      'tokens': rows.size - int(counts[vocabulary.special.pad]),
      **{
        total: totals[split][total]
        for total in ('documents', 'empty_documents', 'text_bytes')
      },
    }
  artifacts.write_atomically(
    job.directory / _record_file(number),
    json.dumps(record, sort_keys=True).encode(),
  )
  return record


def finished(job: Job, number: int) -> dict[str, Any] | None:
  """The record of a block; None if the block is still to be packed.

  Raises:
    errors.DataError: the record belongs to another build.
  """
  path = job.directory / _record_file(number)
  try:
    record = json.loads(path.read_bytes())
  except (FileNotFoundError, ValueError):
    return None
  if record['build'] != job.build:
    raise errors.DataError(
      f'{path}: belongs to another dataset; delete {job.directory} and run the '
      'same command again'
    )
  files = [part['shard'] for part in record['splits'].values()]
  for file in filter(None, [record['counts'], *files]):
    written = job.directory / file['file']
    if not written.exists() or written.stat().st_size != file['bytes']:
      return None
  return record


def _count(rows: np.ndarray, vocab_size: int) -> np.ndarray:
  """How often each id occurs, uint32 [V]."""
  counts = np.zeros(vocab_size, np.uint32)
  for start in range(0, len(rows), _COUNTED_ROWS):
    ids = rows[start : start + _COUNTED_ROWS].reshape(-1)
    counts += np.bincount(ids, minlength=vocab_size).astype(np.uint32)
  return counts


def _write(job: Job, file: str, array: np.ndarray) -> dict[str, Any]:
  return {'file': file} | artifacts.write_atomically(
    job.directory / file, array
  )


def _record_file(number: int) -> str:
  return f'{layout.BLOCKS}/{number:05d}.json'


@functools.cache
def _load_tokenizer(directory: pathlib.Path, fingerprint: str) -> Tokenizer:
  return dataset.load_tokenizer(directory, fingerprint)


def _encode(
  documents: Iterable[str], vocabulary: Tokenizer
) -> Iterator[tuple[str, np.ndarray]]:
  """Encodes documents in their order, many short ones at once."""
  batch, num_chars = [], 0
  for text in documents:
    batch.append(text)
    num_chars += len(text)
    if num_chars >= _PART_CHARS:
      yield from _encode_batch(batch, vocabulary)
      batch, num_chars = [], 0
  yield from _encode_batch(batch, vocabulary)


def _encode_batch(
  texts: list[str], vocabulary: Tokenizer
) -> Iterator[tuple[str, np.ndarray]]:
  short = [text for text in texts if len(text) <= _PART_CHARS]
  encoded = iter(vocabulary.encode_batch(short))
  for text in texts:
    if len(text) <= _PART_CHARS:
      yield text, next(encoded)
    else:
      ids = [vocabulary.encode_batch([part])[0] for part in _parts(text)]
      yield text, np.concatenate(ids)


def _parts(text: str) -> Iterator[str]:
  """Cuts a text, at white space if there is any, into parts to be encoded."""
  start = 0
  while len(text) - start > _PART_CHARS:
    stop = start + _PART_CHARS
    space = max(text.rfind(mark, start + 1, stop) for mark in ' \n')
    stop = space if space > 0 else stop
    yield text[start:stop]
    start = stop
  yield text[start:]
