"""`continued` with rows of 512 tokens and fewer arms, for one GPU.

    python -m td_flax.tools.compare \
      --config=configs/compare/continued_long_rows.py:DIR --jobs=6 \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/long_rows

DIR is a folder with config.json, weights and tokenizer. Published dropping and
two ways to go beyond it against plain BERT and random dropping, at equal steps
and equal time: 32 rows of 512 at once, 1,000 steps, 5 seeds, bfloat16.
"""

import pathlib

from td_flax.compare import settings
from td_flax.hub import architecture


def get_config(folder):
  config = settings.default()
  config.name = 'continued_long_rows'
  base = config.base

  model = architecture.read(pathlib.Path(folder))
  base.model.update(model)
  base.model.dtype = 'bfloat16'
  base.model.dropout = 0.0
  base.model.attention_dropout = 0.0
  base.train.init_from = folder
  base.data.tokenizer = folder

  base.data.files = ''  # yours to set
  base.data.sequence_length = 512

  # The published layout.
  base.drop.first_layer = model['num_layers'] // 2 - 1
  base.drop.last_layer = model['num_layers'] - 2
  base.drop.keep = 0.5

  base.optimizer.learning_rate = 5e-4
  base.optimizer.beta2 = 0.98
  base.optimizer.warmup = 0.05

  base.train.num_steps = 1_000
  base.train.batch_size = 32

  base.eval.every = 200
  base.eval.num_rows = 512
  base.checkpoint.every = 1_000
  base.log.every = 50
  base.log.tensorboard = False

  config.arms.published = 'drop.policy=cumulative_loss'
  full_end = "drop.policy=cumulative_loss drop.stages='80%; rest policy=none'"
  config.arms.full_end = full_end
  # All layers but the first and the last.
  config.arms.early_full_end = f'{full_end} drop.first_layer=1'
  config.reference = 'published'
  config.seeds = 5
  config.timing_rounds = 10
  config.protocols = 'equal_steps,equal_time'
  return config
