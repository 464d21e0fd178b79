"""BERT-large with token dropping as published: half the tokens, layers 11-22.

    python -m td_flax.main --config=configs/bert_large_td.py

`bert_large` but for the section `drop`: 0.740 of its matmul FLOPs
(`td_flax/model/flops.py`). No result is claimed here yet.
"""

from td_flax import config as config_lib


def get_config():
  config = config_lib.default()  # the defaults are the recipe of BERT-base
  config.name = 'bert_large_td'
  config.data.files = 'tfds:wikipedia/20230601.en'
  config.data.eval_fraction = 0.001
  config.model.dtype = 'bfloat16'
  config.model.num_layers = 24
  config.model.hidden_dim = 1024
  config.model.num_heads = 16
  config.model.mlp_dim = 4096
  config.model.scan_layers = True  # compiles in a fraction of the time
  config.model.remat = 'dense'  # else the loop keeps every intermediate
  config.drop.policy = 'cumulative_loss'
  config.drop.first_layer = 11
  config.drop.last_layer = 22
  config.drop.keep = 0.5
  return config
