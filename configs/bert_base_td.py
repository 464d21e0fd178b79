"""BERT-base with token dropping as published: half the tokens, layers 5 to 10.

    python -m td_flax.main --config=configs/bert_base_td.py

`bert_base` but for the section `drop`: 0.740 of its matmul FLOPs
(`td_flax/model/flops.py`). No result is claimed here yet.
"""

from td_flax import config as config_lib


def get_config():
  config = config_lib.default()  # the defaults are the recipe of BERT-base
  config.name = 'bert_base_td'
  config.data.files = 'tfds:wikipedia/20230601.en'
  config.data.eval_fraction = 0.001
  config.model.dtype = 'bfloat16'
  config.drop.policy = 'cumulative_loss'
  config.drop.first_layer = 5
  config.drop.last_layer = 10
  config.drop.keep = 0.5
  return config
