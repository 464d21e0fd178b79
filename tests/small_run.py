"""Options of a pretraining that takes seconds, for tests of whole commands."""

import random

_VALUES = {
  'data.sequence_length': 32,
  'model.num_layers': 3,
  'model.hidden_dim': 16,
  'model.num_heads': 2,
  'model.mlp_dim': 32,
  'drop.first_layer': 1,
  'drop.last_layer': 1,
  'train.batch_size': 16,
}


def options(values):
  """`configs/quickstart.py`, made small, and more values by their keys."""
  return [
    '--config=configs/quickstart.py',
    *(f'--config.{k}={v}' for k, v in (_VALUES | values).items()),
  ]


def on_corpus(folder, workdir, values, overrides):
  """Options of a run on `folder`'s corpus.txt, packed beside it.

  `overrides` are more values, with keys as `drop__keep`.
  """
  corpus = {
    'data.files': folder / 'corpus.txt',
    'data.dir': folder / 'packed',
    'data.vocab_size': 340,
  }
  changes = {k.replace('__', '.'): v for k, v in overrides.items()}
  return [*options(corpus | values | changes), f'--workdir={workdir}']


def write_corpus(path, documents=160):
  """Documents of invented words, the same each time."""
  rng = random.Random(0)
  letters = 'abcdefghijklmnopqrstuvwxyz'
  words = [
    ''.join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(150)
  ]
  texts = [
    ' '.join(rng.choices(words, k=rng.randint(20, 60)))
    for _ in range(documents)
  ]
  path.write_text('\n\n'.join(texts) + '\n')
