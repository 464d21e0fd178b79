"""Questions about dropping when pretraining goes on from a real encoder.

    python -m td_flax.tools.compare \
      --config=configs/compare/continued.py:rivals:DIR \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/continued

DIR is a BERT of Hugging Face: config.json, weights and tokenizer. Rows of 128,
16 at once, 400 steps, 3 seeds. With MiniLM-L6 (22M parameters) a plain step
takes about 1.5 s on one CPU core, and `rivals` some 7 hours; `--dry-run` says
it of your machine. The question behind the first colon is one of

- `rivals`: policies that train plain BERT, at equal steps and equal time.
- `scores`: what does a trained encoder lose by it? The published setting, a
  full last fifth, and the two policies that train something else than plain
  BERT, at equal steps: to be scored (docs/comparing.md, scores).
- `long_rows`: the published setting and two ways to go beyond it at rows of
  512, 32 at once, 1,000 steps, 5 seeds, equal steps and equal time: for a GPU.
"""

import pathlib

from td_flax import errors
from td_flax.compare import settings
from td_flax.hub import architecture

PUBLISHED = 'drop.policy=cumulative_loss'
FULL_END = f"{PUBLISHED} drop.stages='80%; rest policy=none'"


def get_config(text):
  question, _, folder = text.partition(':')
  questions = {'rivals': _rivals, 'scores': _scores, 'long_rows': _long_rows}
  if question not in questions or not folder:
    raise errors.ConfigError(
      f'configs/compare/continued.py:{text}: must be {"|".join(questions)} '
      'behind the first colon, and the folder of a model behind the second'
    )
  config = settings.default()
  config.name = f'continued_{question}'
  model = architecture.read(pathlib.Path(folder))
  _set_base(config.base, model, folder)
  config.seeds = 3
  config.protocols = 'equal_steps,equal_time'
  questions[question](config, model['num_layers'])
  return config


def _set_base(base, model, folder):
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


def _rivals(config, num_layers):
  config.arms.cumulative_loss = PUBLISHED
  config.arms.frequency = 'drop.policy=frequency'
  config.arms.attention = 'drop.policy=attention'
  config.arms.random_ltd = (  # k grows to N, as Yao et al. let it
    'drop.policy=random_ltd drop.first_layer=1 '
    f'drop.last_layer={num_layers - 2} '
    "drop.stages='25%; 25% keep=0.65; 25% keep=0.8; rest policy=none'"
  )
  config.arms.full_end = FULL_END
  config.reference = 'cumulative_loss'


def _scores(config, num_layers):
  config.arms.published = PUBLISHED
  config.arms.full_end = FULL_END
  config.arms.narrow = 'drop.policy=narrow'
  config.arms.mask_later = (
    f'drop.policy=mask_later drop.last_layer={num_layers // 2} '
    'train.mask_rate=0.5'
  )
  config.reference = 'published'
  config.protocols = 'equal_steps'


def _long_rows(config, num_layers):
  del num_layers
  base = config.base
  base.model.dtype = 'bfloat16'
  base.data.sequence_length = 512
  base.train.num_steps = 1_000
  base.train.batch_size = 32
  base.eval.every = 200
  base.checkpoint.every = 1_000
  base.log.every = 50
  config.arms.published = PUBLISHED
  config.arms.full_end = FULL_END
  # All layers but the first and the last.
  config.arms.early_full_end = f'{FULL_END} drop.first_layer=1'
  config.reference = 'published'
  config.seeds = 5
  config.timing_rounds = 10
