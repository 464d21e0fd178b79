"""Which tokens to drop when pretraining goes on from a BERT of Hugging Face.

    python -m td_flax.tools.compare --config=configs/compare/continued.py:DIR \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/continued

DIR is a folder with config.json, weights and tokenizer. Policies that train
plain BERT against it and random dropping, at equal steps and equal time: rows
of 128, 16 at once, 400 steps, 3 seeds. With MiniLM-L6 (22M parameters) a plain
step takes about 1.5 s on one CPU core, and the runs some 7 hours; `--dry-run`
says it of your machine.
"""

import pathlib

from td_flax.compare import settings
from td_flax.hub import architecture


def get_config(folder):
  config = settings.default()
  config.name = 'continued'
  base = config.base

  model = architecture.read(pathlib.Path(folder))
  base.model.update(model)
  base.train.init_from = folder
  base.data.tokenizer = folder
  base.model.dropout = 0.0
  base.model.attention_dropout = 0.0

  base.data.files = ''  # yours to set
  base.data.sequence_length = min(128, model['max_positions'])

  # The published layout.
  base.drop.first_layer = model['num_layers'] // 2 - 1
  base.drop.last_layer = model['num_layers'] - 2
  base.drop.keep = 0.5

  base.optimizer.learning_rate = 5e-4
  base.optimizer.beta2 = 0.98
  base.optimizer.warmup = 0.05

  base.train.num_steps = 400
  base.train.batch_size = 16

  base.eval.every = 50
  base.eval.num_rows = 512
  base.checkpoint.every = 100
  base.log.every = 10
  base.log.tensorboard = False

  config.arms.cumulative_loss = 'drop.policy=cumulative_loss'
  config.arms.frequency = 'drop.policy=frequency'
  config.arms.attention = 'drop.policy=attention'
  config.arms.random_ltd = (  # k grows to N, as Yao et al. let it
    'drop.policy=random_ltd drop.first_layer=1 '
    f'drop.last_layer={model["num_layers"] - 2} '
    "drop.stages='25%; 25% keep=0.65; 25% keep=0.8; rest policy=none'"
  )
  config.arms.full_end = (
    "drop.policy=cumulative_loss drop.stages='80%; rest policy=none'"
  )
  config.reference = 'cumulative_loss'
  config.seeds = 3
  config.protocols = 'equal_steps,equal_time'
  return config
