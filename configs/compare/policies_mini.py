"""Which tokens to drop, on your own text: policies against their controls.

    python -m td_flax.tools.compare --config=configs/compare/policies_mini.py \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/policies_mini

The model of `configs/bert_mini_text.py`, which leaves the plateau of
predicting frequencies within a few hundred steps on text like Wikipedia's. 5
arms, 5 seeds, 95 runs: in all about as much as 75 plain ones of 1,500 steps. At
0.4 s a step (2 CPU cores) that is 13 hours, at 10 ms under 20 minutes;
`--dry-run` says it of your machine. Without `time_to_target` it is little more
than half: `--config.protocols=equal_steps,equal_time`.
"""

from td_flax.compare import settings


def get_config():
  config = settings.default()
  config.name = 'policies_mini'
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

  base.train.num_steps = 1500
  base.train.batch_size = 32

  base.eval.every = 150
  base.eval.num_rows = 512
  base.checkpoint.every = 500
  base.log.every = 100
  base.log.tensorboard = False

  config.arms.cumulative_loss = 'drop.policy=cumulative_loss'
  config.arms.frequency = 'drop.policy=frequency'
  config.reference = 'cumulative_loss'
  return config
