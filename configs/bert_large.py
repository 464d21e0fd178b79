"""BERT-large, the recipe of Hou et al. 2022 without dropping: the baseline.

    python -m td_flax.main --config=configs/bert_large.py

`bert_base` but for its size. Eight chips of 16 GiB hold its batch in
`--config.train.microbatches=4`. No result is claimed here yet.
"""

from td_flax import config as config_lib


def get_config():
  config = config_lib.default()  # the defaults are the recipe of BERT-base
  config.name = 'bert_large'
  config.data.files = 'tfds:wikipedia/20230601.en'
  config.data.eval_fraction = 0.001
  config.model.dtype = 'bfloat16'
  config.model.num_layers = 24
  config.model.hidden_dim = 1024
  config.model.num_heads = 16
  config.model.mlp_dim = 4096
  config.model.scan_layers = True  # compiles in a fraction of the time
  config.model.remat = 'dense'  # else the loop keeps every intermediate
  return config
