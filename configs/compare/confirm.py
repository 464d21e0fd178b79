"""Does dropping with a full end pay on another corpus? Few arms, fresh seeds.

    python -m td_flax.tools.compare --config=configs/compare/confirm.py:DIR \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/confirm

DIR is a folder of Hugging Face with config.json, weights and tokenizer.
Published dropping and the same with a full end, which `continued_long_rows`
found, against plain BERT and random dropping at equal time: rows of 128, 16 at
once, 300 steps, 5 seeds from 100 on. With MiniLM-L6 some 10 minutes a run on
one CPU core.
"""

import pathlib

from td_flax.compare import settings
from td_flax.hub import architecture


def get_config(folder):
  config = settings.default()
  config.name = 'confirm'
  base = config.base

  model = architecture.read(pathlib.Path(folder))
  base.model.update(model)
  base.model.dtype = 'bfloat16'
  base.model.dropout = 0.0
  base.model.attention_dropout = 0.0
  base.train.init_from = folder
  base.data.tokenizer = folder

  base.data.files = ''  # yours to set
  base.data.sequence_length = 128

  # The published layout.
  base.drop.first_layer = model['num_layers'] // 2 - 1
  base.drop.last_layer = model['num_layers'] - 2
  base.drop.keep = 0.5

  base.optimizer.learning_rate = 5e-4
  base.optimizer.beta2 = 0.98
  base.optimizer.warmup = 0.05

  base.train.num_steps = 300
  base.train.batch_size = 16

  base.eval.every = 100
  base.eval.num_rows = 1_024
  base.checkpoint.every = 100
  base.log.every = 50
  base.log.tensorboard = False

  config.arms.published = 'drop.policy=cumulative_loss'
  config.arms.full_end = (
    "drop.policy=cumulative_loss drop.stages='80%; rest policy=none'"
  )
  config.reference = 'published'
  config.seeds = 5
  config.first_seed = 100
  config.protocols = 'equal_time'
  return config
