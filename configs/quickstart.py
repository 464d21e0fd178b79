"""A tiny BERT with token dropping on prose that Python itself carries.

    python -m td_flax.main --config=configs/quickstart.py

Under 4 minutes on 2 CPU cores, tokenizer and packing included; nothing is
downloaded. The batch is divisible by 8, so that 1 and 8 devices give the same
losses.
"""

from td_flax import config as config_lib


def get_config():
  config = config_lib.default()
  config.name = 'quickstart'

  config.data.files = 'embedded'
  config.data.eval_fraction = 0.05
  config.data.sequence_length = 128
  config.data.vocab_size = 4096
  config.data.tokenizer_sample_mb = 8

  config.model.norm = 'pre'
  config.model.num_layers = 6
  config.model.hidden_dim = 128
  config.model.num_heads = 4
  config.model.mlp_dim = 512
  config.model.max_positions = 128
  config.model.dropout = 0.0
  config.model.attention_dropout = 0.0

  config.drop.policy = 'cumulative_loss'
  config.drop.first_layer = 2
  config.drop.last_layer = 4

  config.optimizer.learning_rate = 2e-3
  config.optimizer.warmup = 0.1

  config.train.num_steps = 240
  config.train.batch_size = 32

  config.eval.every = 60
  config.eval.num_rows = 256
  config.checkpoint.every = 60
  config.log.every = 10
  return config
