"""Measures how fast text becomes packed rows, against SentencePiece alone.

    python benchmarks/prepare_data.py --files='my_texts/*.jsonl.xz' [--kind=bpe]

Trains a tokenizer on the text, then times, from the start of the worker
processes to the verified dataset, the preparation with that tokenizer:
decompression, parsing, encoding, packing, writing, reading back. SentencePiece
alone encodes the beginning of the same text on one core, documents as they are
and line by line. Speeds are in MB (10^6 bytes of UTF-8) per second and core,
and per second of CPU time, which a busy machine distorts less.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import sentencepiece

from td_flax import config, errors
from td_flax.compare import machine
from td_flax.data import corpora, pipeline, prepare, sentence_piece, workers

_ALONE_BYTES = 10 * 10**6  # of text, for SentencePiece alone
_NUM_BATCHES = 200
_BATCH_SIZE = 512


def main() -> None:
  """Measures, prints the table and writes the JSON."""
  flags = _flags()
  data = config.DataConfig(
    files=flags.files,
    text_field=flags.text_field,
    tokenizer=flags.kind,
    vocab_size=flags.vocab_size,
    sequence_length=flags.sequence_length,
  )
  texts = _beginning(data)
  with tempfile.TemporaryDirectory(dir=flags.scratch) as scratch:
    result = _measure(data, texts, pathlib.Path(scratch), flags.workers)
  print(_table(result))
  if flags.json:
    pathlib.Path(flags.json).write_text(json.dumps(result, indent=2) + '\n')


def _flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--files', required=True, help='as in data.files')
  parser.add_argument('--text_field', default='text')
  parser.add_argument('--kind', default='bpe', help='bpe or unigram')
  parser.add_argument('--vocab_size', type=int, default=30_522)
  parser.add_argument('--sequence_length', type=int, default=512)
  parser.add_argument('--workers', type=int, default=workers.usable_cores())
  parser.add_argument('--scratch', help='directory for the temporary dataset')
  parser.add_argument('--json', help='file to write the result to')
  return parser.parse_args()


def _beginning(data: config.DataConfig) -> list[str]:
  texts, num_bytes = [], 0
  sources = corpora.parse(data.files, text_field=data.text_field, tfds_dir='')
  for block in sources[0].blocks():
    for text in block.documents():
      texts.append(text)
      num_bytes += len(text.encode())
      if num_bytes > _ALONE_BYTES:
        return texts
  return texts


def _measure(
  data: config.DataConfig,
  texts: list[str],
  scratch: pathlib.Path,
  num_workers: int,
) -> dict[str, Any]:
  with _timed() as training:
    vocabulary = sentence_piece.train(
      texts,
      kind=data.tokenizer,
      vocab_size=data.vocab_size,
      lowercase=data.lowercase,
    )
  model = vocabulary.save(scratch / 'tokenizer')
  mb = sum(len(text.encode()) for text in texts) / 1e6
  alone = sentencepiece.SentencePieceProcessor(model_file=str(model))
  with _timed() as documents:
    alone.encode(texts, num_threads=1)
  lines = [line for text in texts for line in text.split('\n')]
  with _timed() as by_line:
    alone.encode(lines, num_threads=1)
  with _timed() as ours:
    for text in texts:
      vocabulary.encode_batch([text])

  given = dataclasses.replace(data, tokenizer=str(model))
  with _timed() as preparing:
    packed = prepare.prepare(
      given, scratch / 'dataset', num_workers=num_workers
    )
  packed_mb = sum(
    packed.manifest['splits'][split]['text_bytes'] / 1e6
    for split in ('train', 'eval')
  )
  batches = pipeline.Pipeline(packed.train, seed=0, batch_size=_BATCH_SIZE)
  with _timed() as reading:
    for step in range(_NUM_BATCHES):
      batches.batch(step)
  return {
    **machine.facts(['python', *sys.argv], 'numpy', 'sentencepiece'),
    'workers': num_workers,
    'text_mb': packed_mb,
    'rows': len(packed.train) + len(packed.eval),
    'shards': sum(
      len(packed.manifest['splits'][split]['shards'])
      for split in ('train', 'eval')
    ),
    'seconds': {
      'tokenizer_training': training['seconds'],
      'preparation': preparing['seconds'],
    },
    'mb_per_second_and_core': {
      'preparation': packed_mb / preparing['seconds'] / num_workers,
      'our_encoding_alone': mb / ours['seconds'],
      'sentencepiece_documents': mb / documents['seconds'],
      'sentencepiece_lines': mb / by_line['seconds'],
    },
    # What other programs on the machine take away does not count here.
    'mb_per_cpu_second': {
      'preparation': packed_mb / preparing['cpu_seconds'],
      'our_encoding_alone': mb / ours['cpu_seconds'],
      'sentencepiece_documents': mb / documents['cpu_seconds'],
      'sentencepiece_lines': mb / by_line['cpu_seconds'],
    },
    'batches_rows_per_second': _NUM_BATCHES * _BATCH_SIZE / reading['seconds'],
  }


@contextlib.contextmanager
def _timed() -> Iterator[dict[str, float]]:
  result = {}
  start, cpu_start = time.perf_counter(), _cpu_seconds()
  yield result
  result['seconds'] = time.perf_counter() - start
  result['cpu_seconds'] = _cpu_seconds() - cpu_start


def _cpu_seconds() -> float:
  """Of this process and of its children that have ended."""
  return sum(
    usage.ru_utime + usage.ru_stime
    for usage in map(
      resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
  )


def _table(result: dict[str, Any]) -> str:
  speeds, seconds = result['mb_per_second_and_core'], result['seconds']
  cpu = result['mb_per_cpu_second']
  alone = speeds['sentencepiece_documents']
  names = {
    'preparation': f'preparation, {result["workers"]} workers at once',
    'our_encoding_alone': 'encoding alone, one core',
    'sentencepiece_documents': 'SentencePiece alone, one core, documents',
    'sentencepiece_lines': 'SentencePiece alone, one core, lines',
  }
  lines = [f'{"":42}{"MB/s per core":>14}{"ratio":>8}{"MB/s of CPU":>14}']
  lines += [
    f'{label:42}{speeds[name]:14.2f}{speeds[name] / alone:8.2f}'
    f'{cpu[name]:14.2f}'
    for name, label in names.items()
  ]
  lines.append(
    f'\n{result["text_mb"]:.1f} MB of text to {result["rows"]:,} rows in '
    f'{seconds["preparation"]:.1f} s; before that the tokenizer was trained in '
    f'{seconds["tokenizer_training"]:.1f} s (not counted).\n'
    f'Reading shuffled batches of {_BATCH_SIZE}: '
    f'{result["batches_rows_per_second"]:,.0f} rows/s.\n'
    f'{result["machine"]}, {result["cores"]} cores; '
    f'Python {result["python"]}, numpy {result["numpy"]}, '
    f'sentencepiece {result["sentencepiece"]}'
  )
  return '\n'.join(lines)


if __name__ == '__main__':
  try:
    main()
  except errors.UserError as error:
    sys.exit(f'error: {error}')
