"""Every rival against plain BERT, on your own text.

    python -m td_flax.tools.compare --config=configs/compare/rivals_mini.py \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/rivals_mini

The model of `configs/bert_mini_text.py` on few tokens, 1,000 steps of 16 rows
of 128: enough to leave the plateau of predicting frequencies, short enough for
a CPU. 14 arms with the controls, 3 seeds, equal steps and equal time. `narrow`
and `mask_later` train something else than BERT: judge them by fine-tuning
(docs/comparing.md, scores).
"""

from td_flax.compare import settings


def get_config():
  config = settings.default()
  config.name = 'rivals_mini'
  base = config.base

  base.data.files = ''  # yours to set
  base.data.sequence_length = 128
  base.data.vocab_size = 8192

  base.model.norm = 'pre'
  base.model.num_layers = 6
  base.model.hidden_dim = 128
  base.model.num_heads = 4
  base.model.mlp_dim = 512
  base.model.max_positions = 128
  base.model.dropout = 0.0
  base.model.attention_dropout = 0.0
  base.model.init_stddev = 0.05
  base.model.init = 'local'

  base.drop.first_layer = 2
  base.drop.last_layer = 4
  base.drop.keep = 0.5

  base.optimizer.learning_rate = 3e-3
  base.optimizer.beta2 = 0.98
  base.optimizer.warmup = 0.05

  base.train.num_steps = 1000
  base.train.batch_size = 16

  base.eval.every = 100
  base.eval.num_rows = 512
  base.checkpoint.every = 500
  base.log.every = 100
  base.log.tensorboard = False

  config.arms.cumulative_loss = 'drop.policy=cumulative_loss'
  config.arms.frequency = 'drop.policy=frequency'
  config.arms.attention = 'drop.policy=attention'
  for pool in 'mean', 'weighted':
    config.arms[f'attention_{pool}'] = (
      f'drop.policy=attention drop.pool={pool} drop.clusters=8'
    )
  # Yao et al. let k grow to N over most of the run.
  config.arms.random_ltd = (
    'drop.policy=random_ltd drop.first_layer=1 drop.last_layer=4 '
    "drop.stages='25%; 25% keep=0.65; 25% keep=0.8; rest policy=none'"
  )
  config.arms.narrow = 'drop.policy=narrow'
  config.arms.mask_later = (
    'drop.policy=mask_later drop.last_layer=3 train.mask_rate=0.5'
  )
  config.arms.sctd = (
    'drop.policy=cumulative_loss drop.consistency_every=10 drop.beta=0.95'
  )
  config.arms.full_end = (
    "drop.policy=cumulative_loss drop.stages='80%; rest policy=none'"
  )
  config.arms.random_full_end = (
    "drop.policy=random drop.stages='80%; rest policy=none'"
  )
  config.reference = 'cumulative_loss'
  config.seeds = 3
  config.protocols = 'equal_steps,equal_time'
  return config
