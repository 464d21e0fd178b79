"""Rows per second of `batch(step)`, and MB/s of text that becomes rows.

    python benchmarks/input_pipeline.py [--files='my_texts/*.txt'] \
      [--json=FILE]

Everything runs in this process, held to one core. Reading: a packed dataset of
random ids, made in a temporary folder with as many rows per shard as a block of
text gives, is read into memory once; then batches are drawn in turns as one
population and as two weighted sources. Packing: every block of the text is
decoded, encoded, packed and written with a BPE and with a unigram tokenizer, in
turns, each trained on this text before. Medians and quartiles are over turns;
seconds of CPU time are given too: a busy machine distorts them less.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from td_flax import artifacts, errors, layout
from td_flax.compare import machine
from td_flax.data import (
  blocks,
  corpora,
  dataset,
  pipeline,
  sentence_piece,
  tokenizer,
)

_ROWS_PER_SHARD = 3500  # 8 MB of English
_TRAINING_BYTES = 10 * 10**6


def main() -> None:
  """Measures, prints the table and writes the JSON."""
  options = _options()
  ran_on = machine.facts(['python', *sys.argv], 'numpy', 'sentencepiece')
  core = _hold_to_one_core()
  with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
    folder = pathlib.Path(scratch)
    packing = _measure_packing(options, folder)
    reading = _measure_reading(options, folder)
  result = {
    **ran_on,
    'core_used': core,
    'load_average': os.getloadavg()[0],
    'reading': reading,
    'packing': packing,
  }
  print(_table(result))
  if options.json:
    pathlib.Path(options.json).write_text(json.dumps(result, indent=2) + '\n')


def _options() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--files', default='embedded', help='as in data.files')
  parser.add_argument('--text_field', default='text')
  parser.add_argument('--text_mb', type=int, default=20, help='at most')
  parser.add_argument('--vocab_size', type=int, default=8_000)
  parser.add_argument('--sequence_length', type=int, default=512)
  parser.add_argument('--batch_size', type=int, default=512)
  parser.add_argument('--rows', type=int, default=300_000, help='random ones')
  parser.add_argument('--turns', type=int, default=15)
  parser.add_argument('--steps', type=int, default=200, help='per turn')
  parser.add_argument('--scratch', help='directory for the temporary folder')
  parser.add_argument('--json', help='file to write the result to')
  options = parser.parse_args()
  if options.turns < 1:
    parser.error('--turns: must be at least 1')
  return options


def _hold_to_one_core() -> int | None:
  if not hasattr(os, 'sched_setaffinity'):  # not on macOS
    return None
  core = max(os.sched_getaffinity(0))
  os.sched_setaffinity(0, {core})
  return core


class Turns:
  """What an arm did in each of its turns."""

  def __init__(self) -> None:
    self._amounts: list[float] = []
    self._seconds: list[float] = []
    self._cpu_seconds: list[float] = []

  @contextlib.contextmanager
  def turn(self, amount: float) -> Iterator[None]:
    """Times `amount` of work."""
    begun, cpu_begun = time.perf_counter(), time.process_time()
    yield
    self._cpu_seconds.append(time.process_time() - cpu_begun)
    self._seconds.append(time.perf_counter() - begun)
    self._amounts.append(amount)

  def figures(self) -> dict[str, Any]:
    """Amounts per second: median and quartiles over turns."""
    low, median, high = np.percentile(
      np.array(self._amounts) / self._seconds, [25, 50, 75]
    )
    per_cpu_second = np.median(np.array(self._amounts) / self._cpu_seconds)
    return {
      'per_second': float(median),
      'per_second_quartiles': [float(low), float(high)],
      'per_cpu_second': float(per_cpu_second),
      'turns': len(self._amounts),
    }


def _measure_reading(
  options: argparse.Namespace, folder: pathlib.Path
) -> dict[str, Any]:
  directory = folder / 'packed'
  shards = _write_shards(options, directory)
  model = tokenizer.load(folder / 'bpe' / layout.TOKENIZER)
  model.save(directory / layout.TOKENIZER)
  counts = np.ones(model.vocab_size, np.int64)
  manifest = {
    'format_version': dataset.FORMAT_VERSION,
    'request': {},
    'sequence_length': options.sequence_length,
    'eval_sources': [],
    'tokenizer': {'fingerprint': model.fingerprint},
    'unigram_counts': {'file': dataset.COUNTS}
    | artifacts.write_atomically(directory / dataset.COUNTS, counts),
    'splits': {'train': {'shards': shards}, 'eval': {'shards': []}},
  }
  arms, turns = {}, {}
  for name, weights in (
    ('one population', [None, None]),
    ('two weighted sources', [1.0, 3.0]),
  ):
    manifest['sources'] = [{'weight': weight} for weight in weights]
    (directory / layout.MANIFEST).write_text(json.dumps(manifest))
    rows = dataset.load(directory).train  # verified, and so read into memory
    arms[name] = pipeline.Pipeline(rows, seed=0, batch_size=options.batch_size)
    turns[name] = Turns()
    arms[name].batch(0)
  for turn in range(options.turns):
    for name, arm in arms.items():
      start = 1 + turn * options.steps
      with turns[name].turn(options.steps * options.batch_size):
        for step in range(start, start + options.steps):
          arm.batch(step)
  return {
    'unit': 'rows',
    'data': f'{options.rows:,} rows of random ids in {len(shards)} shards, '
    f'{sum(x["bytes"] for x in shards) / 1e6:,.0f} MB, in memory',
    'sequence_length': options.sequence_length,
    'batch_size': options.batch_size,
    'steps_per_turn': options.steps,
    'arms': {name: x.figures() for name, x in turns.items()},
  }


def _write_shards(
  options: argparse.Namespace, directory: pathlib.Path
) -> list[dict[str, Any]]:
  """Rows of random ids; the first third belongs to source 0."""
  directory.mkdir()
  rng = np.random.default_rng(0)
  shards = []
  for start in range(0, options.rows, _ROWS_PER_SHARD):
    count = min(_ROWS_PER_SHARD, options.rows - start)
    rows = rng.integers(
      5, options.vocab_size, (count, options.sequence_length), np.uint16
    )
    file = f'train-{len(shards):05d}.npy'
    written = artifacts.write_atomically(directory / file, rows)
    source = int(start >= options.rows / 3)
    shards.append(written | {'file': file, 'rows': count, 'source': source})
  return shards


def _measure_packing(
  options: argparse.Namespace, folder: pathlib.Path
) -> dict[str, Any]:
  text = list(_text(options))
  training = []
  for block in text:
    training += block.documents()
  jobs, turns = {}, {}
  for kind in tokenizer.TRAINED_KINDS:
    model = sentence_piece.train(
      _beginning(training),
      kind=kind,
      vocab_size=options.vocab_size,
      lowercase=True,
    )
    model.save(folder / kind / layout.TOKENIZER)
    (folder / kind / layout.BLOCKS).mkdir()
    jobs[kind] = blocks.Job(
      directory=folder / kind,
      build='',
      tokenizer=model.fingerprint,
      sequence_length=options.sequence_length,
      seed=0,
    )
    turns[kind] = Turns()
  packed_mb = 0.0
  # A worker loads its tokenizer once: that is no part of the first turn.
  empty = corpora.embedded.EmbeddedBlock('empty', ())
  for job in jobs.values():
    blocks.pack_block(job, len(text), 0, 0.0, empty)
  for number, block in enumerate(text):
    mb = sum(len(document.encode()) for document in block.documents()) / 1e6
    packed_mb += mb
    for kind, job in jobs.items():
      with turns[kind].turn(mb):
        blocks.pack_block(job, number, 0, 0.0, block)
  return {
    'unit': 'MB of text',
    'data': f'{options.files}: {packed_mb:,.1f} MB in {len(text)} blocks',
    'vocab_size': options.vocab_size,
    'arms': {kind: x.figures() for kind, x in turns.items()},
  }


def _text(options: argparse.Namespace) -> Iterator[corpora.Block]:
  sources = corpora.parse(
    options.files, text_field=options.text_field, tfds_dir=''
  )
  num_bytes = 0
  for source in sources:
    for block in source.blocks():
      yield block
      num_bytes += block.num_bytes
      if num_bytes > options.text_mb * 10**6:
        return


def _beginning(texts: list[str]) -> Iterator[str]:
  num_bytes = 0
  for text in texts:
    yield text
    num_bytes += len(text.encode())
    if num_bytes > _TRAINING_BYTES:
      return


def _table(result: dict[str, Any]) -> str:
  lines = []
  for part in ('reading', 'packing'):
    unit, digits = (
      ('rows', ',.0f') if part == 'reading' else ('MB of text', '.2f')
    )
    lines += [
      f'{part}: {result[part]["data"]}',
      f'  {"":<22}{unit + "/s":>14}   {"quartiles":^21} {"per CPU second":>16}',
    ]
    for name, figures in result[part]['arms'].items():
      low, high = figures['per_second_quartiles']
      quartiles = f'{low:{digits}} to {high:{digits}}'
      lines.append(
        f'  {name:<22}{figures["per_second"]:>14{digits}}   {quartiles:^21} '
        f'{figures["per_cpu_second"]:>16{digits}}'
      )
  lines.append(
    f'one core of {result["machine"]} (load average '
    f'{result["load_average"]:.1f} on {result["cores"]} cores); '
    f'Python {result["python"]}, numpy {result["numpy"]}, '
    f'sentencepiece {result["sentencepiece"]}'
  )
  return '\n'.join(lines)


if __name__ == '__main__':
  try:
    main()
  except errors.UserError as error:
    sys.exit(f'error: {error}')
