"""Questions about dropping that a CPU can answer, on your own text.

    python -m td_flax.tools.compare --config=configs/compare/mini.py:rivals \
      --config.base.data.files="$DATA/*.jsonl.xz" --workdir=runs/rivals

The model of `configs/bert_mini_text.py` on few tokens, 800 steps of 16 rows of
128: enough to leave the plateau of predicting frequencies, by 1.5 nats on text
like Wikipedia's. What it takes is a long warm-up, which does not wash away
where `model.init=local` begins, and 30% of the tokens predicted instead of 15%
(docs/results.md). The question behind the colon is one of

- `verdict`: does dropping pay, and does the choice of tokens? The published
  setting and the two best that were found, at equal steps, equal time and time
  to plain's loss, 5 seeds that chose nothing.
- `longer`: what is left of that after four times as many steps? 3 seeds.
- `rivals`: every policy, pooled clusters and sctd, at equal steps and equal
  time, 3 seeds. `narrow` and `mask_later` train something else than BERT: judge
  them by fine-tuning (docs/comparing.md, scores).
- `rates`: is the learning rate one that flatters? Plain and published dropping
  at half and twice of it.
- `layers`: five spans times three shares around the published setting (layers 2
  to 4 of 0 to 5 at half the tokens).
- `schedules`: what `layers` chose, with full sequences at the beginning or at
  the end, more or fewer tokens as training goes on, a table that learns faster,
  chance mixed with importance.

`layers` and `schedules` are at equal time, `rates` at equal steps, all with 2
seeds: to choose by. What is chosen goes into `verdict`.
"""

from td_flax import errors
from td_flax.compare import settings

FULL_END = "drop.stages='80%; rest policy=none'"
# The best of `layers` (docs/results.md). At equal time both are as good; after
# as many steps, half of the tokens are as good as with the published layers. Of
# a third there is little to choose: 30% are predicted, and most of these pass.
SPAN = 'drop.first_layer=1 drop.last_layer=4'
EARLY_HALF = f'{SPAN} drop.keep=0.5'
EARLY_THIRD = f'{SPAN} drop.keep=0.35'


def get_config(question):
  config = settings.default()
  config.name = question
  _set_base(config.base)
  questions = {
    'verdict': _verdict,
    'longer': _longer,
    'rivals': _rivals,
    'rates': _rates,
    'layers': _layers,
    'schedules': _schedules,
  }
  if question not in questions:
    raise errors.ConfigError(
      f'configs/compare/mini.py:{question}: must be one of '
      f'{", ".join(questions)} behind the colon'
    )
  questions[question](config)
  return config


def _set_base(base):
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
  base.optimizer.warmup = 0.25

  base.train.num_steps = 800
  base.train.batch_size = 16
  base.train.mask_rate = 0.3

  base.eval.every = 200
  base.eval.num_rows = 512
  base.checkpoint.every = 400
  base.log.every = 100
  base.log.tensorboard = False


def _verdict(config):
  config.arms.published = ''
  config.arms.early_half = EARLY_HALF
  config.arms.early_third = EARLY_THIRD
  # A BERT for the FLOPs of a third, as `shallow` is for those of half.
  config.arms.shallow_third = (
    'drop.policy=none drop.stages= model.num_layers=3 model.mlp_dim=672'
  )
  config.reference = 'early_half'
  config.budgets = ''  # equal steps are 0.6 and 0.8 of plain's time
  config.seeds = 5
  config.first_seed = 10


def _longer(config):
  _verdict(config)
  config.seeds = 3
  config.base.train.num_steps = 3200
  config.base.eval.every = 400
  config.base.checkpoint.every = 800


def _rivals(config):
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
  config.arms.full_end = f'drop.policy=cumulative_loss {FULL_END}'
  config.arms.random_full_end = f'drop.policy=random {FULL_END}'
  config.reference = 'cumulative_loss'
  config.seeds = 3
  config.protocols = 'equal_steps,equal_time'


def _to_choose_by(config, protocol):
  config.seeds = 2
  config.protocols = protocol


def _rates(config):
  _to_choose_by(config, 'equal_steps')
  config.arms.published = ''
  for name, factor in (('half', 0.5), ('double', 2)):
    rate = config.base.optimizer.learning_rate * factor
    change = f'optimizer.learning_rate={rate}'
    config.arms[f'plain_{name}'] = f'drop.policy=none {change}'
    config.arms[f'published_{name}'] = change
  config.reference = 'published'


def _layers(config):
  _to_choose_by(config, 'equal_time')
  for first, last in ((0, 4), (1, 3), (1, 4), (2, 4), (3, 4)):
    for share in (35, 50, 75):  # 30% are predicted, most of them kept
      config.arms[f'layers_{first}_{last}_keep_{share}'] = (
        f'drop.first_layer={first} drop.last_layer={last} '
        f'drop.keep={share / 100}'
      )
  config.reference = 'layers_2_4_keep_50'


def _schedules(config):
  _to_choose_by(config, 'equal_time')
  config.arms.constant = EARLY_HALF
  for name, stages in {
    'full_start': '10% policy=none; rest',
    'full_end_10': '90%; rest policy=none',
    'full_end_20': '80%; rest policy=none',
    'growing': '50%; rest keep=0.65',
    'shrinking': '50% keep=0.65; rest',
  }.items():
    config.arms[name] = f"{EARLY_HALF} drop.stages='{stages}'"
  config.arms.fast_table = f'{EARLY_HALF} drop.beta=0.95'
  config.arms.noise = f'{EARLY_HALF} drop.noise=1.0'
  config.reference = 'constant'
