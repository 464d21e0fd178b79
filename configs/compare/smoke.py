"""A comparison in about five minutes on 2 CPU cores: shows how, not what.

    python -m td_flax.tools.compare --config=configs/compare/smoke.py \
      --workdir=runs/compare_smoke

Tiny models on the prose that Python itself carries, 2 seeds. They stay on the
plateau of predicting frequencies, so the report says that it is inconclusive:
as it should.
"""

from td_flax.compare import settings


def get_config():
  config = settings.default()
  config.name = 'smoke'
  base = config.base

  base.data.files = 'embedded'
  base.data.eval_fraction = 0.05
  base.data.sequence_length = 32
  base.data.vocab_size = 512
  base.data.tokenizer_sample_mb = 1

  base.model.norm = 'pre'
  base.model.num_layers = 3
  base.model.hidden_dim = 32
  base.model.num_heads = 2
  base.model.mlp_dim = 128
  base.model.max_positions = 32
  base.model.dropout = 0.0
  base.model.attention_dropout = 0.0

  base.drop.first_layer = 1
  base.drop.last_layer = 1
  base.drop.keep = 0.5

  base.optimizer.learning_rate = 2e-3
  base.optimizer.warmup = 0.1

  base.train.num_steps = 60
  base.train.batch_size = 16

  base.eval.every = 10
  base.eval.num_rows = 64
  base.checkpoint.every = 20
  base.log.every = 20
  base.log.tensorboard = False

  config.arms.cumulative_loss = 'drop.policy=cumulative_loss'
  config.reference = 'cumulative_loss'
  config.seeds = 2
  config.budgets = '0.8'
  config.timing_rounds = 5
  return config
