"""Which layers to skip and how many tokens to keep, on your own text.

    python -m td_flax.tools.compare --config=configs/compare/layers_mini.py \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/layers_mini

Four spans times three shares around the published setting (layers 2 to 4 of 0
to 5 at half the tokens), all with a last fifth at full sequences, at equal
time. The model and its budget are those of `rivals_mini.py`. 16 arms with the
controls, 2 seeds: to choose by; what is chosen wants fresh seeds
(`first_seed`).
"""

from td_flax.compare import settings


def get_config():
  config = settings.default()
  config.name = 'layers_mini'
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

  config.arms.published = 'drop.policy=cumulative_loss'
  for first, last in ((1, 3), (1, 4), (2, 4), (3, 4)):
    for share in (25, 50, 75):
      config.arms[f'layers_{first}_{last}_keep_{share}'] = (
        f'drop.first_layer={first} drop.last_layer={last} '
        f"drop.keep={share / 100} drop.stages='80%; rest policy=none'"
      )
  config.reference = 'layers_2_4_keep_50'
  config.seeds = 2
  config.protocols = 'equal_time'
  return config
