"""A small BERT with token dropping on your own text, on any machine.

    python -m td_flax.main --config=configs/bert_mini_text.py \
      --config.data.files='my_texts/*.jsonl.xz' --workdir=runs/mine

`data.files` takes globs of .txt and .jsonl files (also .gz .xz .bz2 .zst) and
`tfds:NAME`, several of them with commas, each with a weight if you like. About
one document of a hundred is held out unless `data.eval_files` is given.
"""

from td_flax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'bert_mini_text'

  config.data.files = ''  # yours to set
  config.data.sequence_length = 128
  config.data.vocab_size = 8192

  # Pre-LN trains at higher rates: a small budget goes further.
  config.model.norm = 'pre'
  config.model.num_layers = 6
  config.model.hidden_dim = 128
  config.model.num_heads = 4
  config.model.mlp_dim = 512
  config.model.max_positions = 128
  config.model.dropout = 0.0
  config.model.attention_dropout = 0.0
  config.model.init_stddev = 0.05  # BERT's 0.02 is for a width of 768
  config.model.init = 'local'  # off the plateau within a few hundred steps

  config.drop.policy = 'cumulative_loss'
  config.drop.first_layer = 2
  config.drop.last_layer = 4
  config.drop.keep = 0.5

  config.optimizer.learning_rate = 3e-3
  config.optimizer.beta2 = 0.98
  config.optimizer.warmup = 0.05

  config.train.num_steps = 2000
  config.train.batch_size = 32

  config.eval.every = 100
  config.eval.num_rows = 512
  config.checkpoint.every = 200
  config.log.every = 25
  return config
