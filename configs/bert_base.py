"""BERT-base, the recipe of Hou et al. 2022 without dropping: the baseline.

    python -m td_flax.tools.prepare --tfds=wikipedia/20230601.en
    python -m td_flax.tools.prepare --config=configs/bert_base.py
    python -m td_flax.main --config=configs/bert_base.py

The first command makes the text readable (its origin: launch/README.md).
1M steps of 512 rows of 512 ids on English Wikipedia, packed, without NSP. The
paper adds a corpus of books:
`--config.data.files='tfds:wikipedia/20230601.en,books/*.jsonl.xz'`. An
accelerator is needed; no result is claimed here yet. On a GPU no fused
attention kernel has dropout: `--config.model.attention_dropout=0` leaves the
recipe to use one.
"""

from td_flax import config as config_lib


def get_config():
  config = config_lib.default()  # the defaults are the recipe of BERT-base
  config.name = 'bert_base'
  config.data.files = 'tfds:wikipedia/20230601.en'
  config.data.eval_fraction = 0.001
  config.model.dtype = 'bfloat16'
  return config
