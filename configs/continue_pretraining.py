"""Goes on with a BERT of Hugging Face on your own text, with token dropping.

    python -m td_flax.main --config=configs/continue_pretraining.py:DIR \
      --config.data.files='my_texts/*.jsonl.xz' --workdir=runs/mine

DIR is a folder with config.json, weights and tokenizer, of any model of the
architectures `bert` and `megatron-bert`. The model and the tokenizer are those
of DIR; the rest is yours to set. The result is exported back with
`td_flax.tools.export`.
"""

import pathlib

from td_flax import config as config_lib
from td_flax.hub import architecture


def get_config(folder):
  config = config_lib.default()
  config.name = 'continue_pretraining'

  model = architecture.read(pathlib.Path(folder))
  config.model.update(model)
  config.train.init_from = folder
  config.data.tokenizer = folder

  config.data.files = ''  # yours to set
  config.data.sequence_length = min(512, model['max_positions'])

  # The published layout: half of the tokens skip the upper half but the last.
  config.drop.policy = 'cumulative_loss'
  config.drop.first_layer = model['num_layers'] // 2 - 1
  config.drop.last_layer = model['num_layers'] - 2
  config.drop.keep = 0.5

  # A tenth of pretraining's updates, and half of its rate.
  config.optimizer.learning_rate = 5e-5
  config.optimizer.warmup = 0.06
  config.train.num_steps = 10_000
  config.train.batch_size = 256

  config.eval.every = 1000
  config.checkpoint.every = 1000
  config.log.every = 50
  return config
