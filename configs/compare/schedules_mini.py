"""Ways to drop that may beat the published one, on your own text.

    python -m td_flax.tools.compare --config=configs/compare/schedules_mini.py \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/schedules_mini

When to drop rather than where: full sequences at the end, at the beginning too,
more or fewer tokens as training goes on, a table that learns faster, and chance
mixed with importance; at equal time, with the model and the budget of
`rivals_mini.py`. 11 arms with the controls, 2 seeds: to choose by; what is
chosen wants fresh seeds (`first_seed`).
"""

from td_flax.compare import settings


def get_config():
  config = settings.default()
  config.name = 'schedules_mini'
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

  base.drop.policy = 'cumulative_loss'
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

  config.arms.published = ''
  for name, change in {
    'full_end_10': "drop.stages='90%; rest policy=none'",
    'full_end_20': "drop.stages='80%; rest policy=none'",
    'full_end_35': "drop.stages='65%; rest policy=none'",
    'full_ends': "drop.stages='10% policy=none; 70%; rest policy=none'",
    'growing': "drop.stages='40% keep=0.3; 40% keep=0.6; rest policy=none'",
    'shrinking': "drop.stages='40% keep=0.6; 40% keep=0.3; rest policy=none'",
    'fast_table': "drop.stages='80%; rest policy=none' drop.beta=0.95",
    'noise': "drop.stages='80%; rest policy=none' drop.noise=1.0",
  }.items():
    config.arms[name] = change
  config.reference = 'full_end_20'
  config.seeds = 2
  config.protocols = 'equal_time'
  return config
