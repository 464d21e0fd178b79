"""Imported models and exported tokenizers against transformers.

    pip install -e '.[hf,reference]'
    python benchmarks/huggingface.py --models=DIR,DIR --text=$DATA/*.jsonl.xz \
      --vocab=vocab.txt --json=huggingface.json

For every folder: the largest difference of hidden states, or of the logits
where it has a masked-LM head, on 8 rows of 128. For BPE, unigram and the given
WordPiece vocabulary: the lines of the text on which ids differ from those of
the fast tokenizer; BPE and unigram models are trained on other lines of it.
"""

import argparse
import itertools
import json
import pathlib
import pydoc_data.topics
import random
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
import torch
import transformers
from flax import nnx

from td_flax import masking, pretrained
from td_flax.compare import machine
from td_flax.data import corpora, sentence_piece, tokenizer
from td_flax.dropping import plan as plans
from td_flax.hub import fast_tokenizer, weights
from td_flax.model import bert

_ROWS, _LENGTH = 8, 128
_VOCAB = 8192


def rows_of(found: pretrained.Pretrained) -> np.ndarray:
  """[CLS] text [SEP] [PAD] ...: prose, or random pieces where that is [UNK]."""
  special = found.tokenizer.special
  texts = sorted(pydoc_data.topics.topics.values())[:_ROWS]
  encoded = found.tokenizer.encode_batch(texts)
  rows = np.full((_ROWS, _LENGTH), special.pad)
  draw = random.Random(0)
  ordinary = sorted(
    set(range(found.tokenizer.vocab_size)) - {*special.as_tuple()}
  )
  for i, (row, ids) in enumerate(zip(rows, encoded, strict=True)):
    ids = ids[: (_LENGTH - 2) // (1 + i % 3)]
    if np.mean(ids == special.unk) > 0.5:
      ids = draw.choices(ordinary, k=len(ids))
    row[: len(ids) + 2] = [special.cls, *ids, special.sep]
  return rows


def compare_model(folder: str) -> dict[str, Any]:
  """One folder, computed by both."""
  found = pretrained.find(folder, '--models')
  size, special = found.tokenizer.vocab_size, found.tokenizer.special
  graph, fresh = nnx.split(bert.Bert(found.model, size, nnx.Rngs(0)))
  has_head = any(
    name.startswith('cls.predictions')
    for name in weights.read(pathlib.Path(folder))
  )
  rows = rows_of(found)
  real = rows != special.pad
  ids = jnp.asarray(rows, jnp.int32)
  segments = masking.segment(
    ids, special, attend_across=False, restart_positions=True
  )
  with jax.default_matmul_precision('highest'):
    model = nnx.merge(graph, found.params(fresh))
    ours = model.encode(ids, segments, plans.full(found.model.num_layers))
    if has_head:
      ours = model.predict(ours)[..., :size]
  kind = (
    transformers.AutoModelForMaskedLM if has_head else transformers.AutoModel
  )
  reference = kind.from_pretrained(folder, dtype=torch.float32).eval()
  with torch.no_grad():
    out = reference(
      input_ids=torch.tensor(rows),
      attention_mask=torch.tensor(real.astype(int)),
    )
  theirs = (out.logits if has_head else out.last_hidden_state).numpy()
  return {
    'compared': 'logits' if has_head else 'hidden states',
    'largest_difference': float(np.abs(np.asarray(ours) - theirs)[real].max()),
    'largest_value': float(np.abs(theirs[real]).max()),
  }


def compare_tokenizers(text: str, vocab: str, count: int) -> dict[str, Any]:
  """Ids of `count` lines; the lines behind them train."""
  sources = corpora.parse(text, text_field='text', tfds_dir='', key='--text')
  lines = (
    line
    for source in sources
    for block in source.blocks()
    for document in block.documents()
    for line in document.split('\n')
    if line.strip()
  )
  tested = list(itertools.islice(lines, count))
  training = list(itertools.islice(lines, count))
  models = {
    kind: sentence_piece.train(
      training, kind=kind, vocab_size=_VOCAB, lowercase=True
    )
    for kind in ('bpe', 'unigram')
  }
  fast = {kind: fast_tokenizer.make(model) for kind, model in models.items()}
  if vocab:
    models['wordpiece'] = tokenizer.load(vocab, '--vocab')
    own = transformers.BertTokenizer(vocab=vocab).backend_tokenizer
    fast['wordpiece'] = own
  result = {'lines': len(tested)}
  for kind, model in models.items():
    differing = fast_tokenizer.differing(model, fast[kind], tested)
    result[kind] = {
      'differing': len(differing),
      'examples': [line[:80] for line, _, _ in differing[:5]],
    }
  return result


def main() -> None:
  """Compares, prints and writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--models', default='')
  parser.add_argument('--text', required=True)
  parser.add_argument('--vocab', default='')
  parser.add_argument('--lines', type=int, default=20_000)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  result = {
    'models': {
      pathlib.Path(folder).name: compare_model(folder)
      for folder in filter(None, options.models.split(','))
    },
    'tokenizers': compare_tokenizers(
      options.text, options.vocab, options.lines
    ),
    **machine.facts(['python', *sys.argv], 'transformers', 'torch'),
    'tokenizers_version': tokenizers.__version__,
  }
  print(json.dumps(result, indent=1, ensure_ascii=False))
  if options.json:
    options.json.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
  main()
