"""The typed border between ml_collections configs and the program.

A config file under `configs/` starts from `default()`, a ConfigDict with every
key at its default, and changes what its experiment needs. `load` turns the
result into frozen dataclasses and refuses what cannot work with one line that
names the key, the value and what would be valid. Nothing behind this border
sees a ConfigDict.
"""

import dataclasses
import json
import math
from typing import Any

import ml_collections

from td_flax import combinations, errors, fields

EXAMPLE = 'configs/quickstart.py'
MAX_VOCAB_SIZE = 65_536  # rows are stored as uint16


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What is read, and the rows it becomes. Identity of a packed dataset."""

  # Comma list of SPEC[=WEIGHT]; SPEC is `embedded`, a glob of .txt or .jsonl
  # files (also .gz .xz .bz2 .zst), or `tfds:NAME`.
  files: str = 'embedded'
  # Held-out sources, in the same form; '' holds out `eval_fraction` of `files`.
  eval_files: str = ''
  eval_fraction: float = fields.share(0.01)
  # Where the packed dataset lies; '' is `<workdir>/data`. From gs:// it is
  # copied to each machine once.
  dir: str = ''
  # Where TFDS datasets lie; '' is TFDS's own default.
  tfds_dir: str = ''
  # The field of a .jsonl line or of a TFDS example that holds the text.
  text_field: str = 'text'
  # N: ids per row.
  sequence_length: int = fields.at_least(512, 8)
  # `bpe` or `unigram` trains a SentencePiece model; else the path of one, of
  # a WordPiece vocab.txt or tokenizer.json, or of a folder that holds one.
  tokenizer: str = 'bpe'
  vocab_size: int = fields.rule(
    30_522,
    f'from 300 to {MAX_VOCAB_SIZE:,} (ids are stored as uint16)',
    lambda x: 300 <= x <= MAX_VOCAB_SIZE,
  )
  # Of a tokenizer that is trained, or read from a bare vocab.txt.
  lowercase: bool = True
  # Text the tokenizer is trained on, at most, in MB.
  tokenizer_sample_mb: int = fields.at_least(64, 1)
  # Draws the held-out documents and the tokenizer's sample.
  seed: int = fields.seed()
  # Of a task: the folder of its files in their official layout; '' reads the
  # dataset of TFDS.
  task_dir: str = ''


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """BERT (Devlin et al. 2019); the defaults are BERT-base."""

  norm: str = fields.choice('post', 'pre')
  num_layers: int = fields.at_least(12, 1)
  hidden_dim: int = fields.at_least(768, 1)
  num_heads: int = fields.at_least(12, 1)
  mlp_dim: int = fields.at_least(3072, 1)
  max_positions: int = fields.at_least(512, 8)
  # Token types; pretraining uses type 0, pairs of sentences also type 1.
  type_vocab_size: int = fields.at_least(2, 1)
  # GELU, or its approximation by tanh.
  activation: str = fields.choice('gelu_tanh', 'gelu')
  # How attention is computed; `auto` picks by platform, length and dropout.
  attention: str = fields.choice('auto', 'plain', 'rows', 'splash', 'cudnn')
  # What the backward pass recomputes to save memory: nothing, all but the
  # results of dense layers and attention, or whole layers.
  remat: str = fields.choice('none', 'dense', 'layer')
  # Layers that see the same tokens are one compiled loop: compiles faster.
  scan_layers: bool = False
  # An NSP-free pooler: pretraining leaves it as it is.
  pooler: bool = False
  dropout: float = fields.share(0.1)
  attention_dropout: float = fields.share(0.1)
  # Compute type; parameters and reductions are always float32.
  dtype: str = fields.choice('float32', 'bfloat16')
  # Documents packed into one row see each other (as in the published code).
  attend_across_documents: bool = False
  # Positions start at 0 in every document rather than once per row.
  restart_positions: bool = True
  norm_eps: float = fields.above(1e-12, 0)
  # Initial weights: noise, or heads that attend to neighbours (`local_init`).
  init: str = fields.choice('random', 'local')
  init_stddev: float = fields.above(0.02, 0)


@dataclasses.dataclass(frozen=True)
class DropConfig:
  """Token dropping (Hou et al. 2022); layers are 0-based and inclusive."""

  policy: str = 'none'
  # The transition layer: queries are the kept tokens only.
  first_layer: int = fields.at_least(5, 0)
  # The last narrow layer; the one behind it sees every token again.
  last_layer: int = fields.at_least(10, 0)
  # k: a share of N up to 1, a count above.
  keep: float = fields.above(0.5, 0)
  # The transition layer's keys and values: all tokens, or the kept ones.
  cross_attend: bool = True
  # The table's EMA: m <- beta m + (1 - beta) loss, from `initial_loss`.
  beta: float = fields.share(0.995)
  initial_loss: float = fields.at_least(10.0, 0)
  # Scale of Gumbel noise on the scores: 0 is the exact top k.
  noise: float = fields.at_least(0.0, 0)
  # What stands for the dropped tokens in the narrow layers: nothing, or their
  # mean, or their mean weighted by importance, in so many tokens.
  pool: str = fields.choice('none', 'mean', 'weighted')
  clusters: int = fields.at_least(1, 1)
  # Every so many steps also a pass over full sequences that the dropped one is
  # held to (`consistency.py`); 0 never.
  consistency_every: int = fields.at_least(0, 0)
  # Parts of the run that drop differently (`stages.py`); '' is one part.
  stages: str = ''


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW or LAMB on a warmup and a decay to zero."""

  name: str = fields.choice('adamw', 'lamb')
  learning_rate: float = fields.above(1e-4, 0)
  # Share of `train.num_steps`.
  warmup: float = fields.share(0.01)
  decay: str = fields.choice('linear', 'cosine')
  # Not on LayerNorm and biases.
  weight_decay: float = fields.at_least(0.01, 0)
  beta1: float = fields.share(0.9)
  beta2: float = fields.share(0.999)
  eps: float = fields.above(1e-6, 0)
  # Largest global norm of the gradient; 0 does not clip.
  clip_norm: float = fields.at_least(1.0, 0)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long, how much at once, from where."""

  num_steps: int = fields.rule(
    1_000_000, 'from 1 to below 2**31', lambda x: 1 <= x < 2**31
  )
  # Rows per update over all devices.
  batch_size: int = fields.at_least(512, 1)
  # Gradient accumulation: each device's rows in this many parts.
  microbatches: int = fields.at_least(1, 1)
  # The last layer computes the predicted positions only: exact, and cheaper.
  predicted_only_last_layer: bool = True
  # P = floor(mask_rate * N) predicted positions per full row.
  mask_rate: float = fields.rule(0.15, 'above 0, below 1', lambda x: 0 < x < 1)
  seed: int = fields.seed()
  # Parameters to start from: a workdir, a checkpoint step's directory, or a
  # Hugging Face folder.
  init_from: str = ''
  # Updates with a non-finite loss in a row after which training stops.
  max_nonfinite: int = fields.at_least(10, 1)
  # Write a jax profiler trace of these steps, e.g. '10:13'; '' writes none.
  profile_steps: str = ''


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Held-out loss on full sequences with a fixed 15% mask."""

  # Steps between evaluations, besides step 0 and the last.
  every: int = fields.at_least(10_000, 1)
  # Held-out rows, at most.
  num_rows: int = fields.at_least(1024, 1)
  # Rows at once over all devices; 0 is those of a part of a training step.
  batch_size: int = fields.at_least(0, 0)
  # Draws the mask; independent of `train.seed`, so that runs compare.
  seed: int = fields.seed()


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """What is saved, and how much of it is kept."""

  # Steps between checkpoints, besides the last step.
  every: int = fields.at_least(10_000, 1)
  # The newest ones that are kept.
  keep: int = fields.at_least(3, 1)
  # Also keep the one with the lowest held-out loss.
  keep_best: bool = True


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """What is written while training."""

  every: int = fields.at_least(100, 1)
  tensorboard: bool = True


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """How the step is mapped over devices."""

  # `pmap` holds the whole state on every device; `sharded` splits parameters
  # and optimizer state over them, for models that outgrow one.
  engine: str = fields.choice('pmap', 'sharded')
  # Devices per process; 0 is all.
  num_devices: int = fields.at_least(0, 0)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """A downstream task to fine-tune on (`td_flax.finetune`)."""

  # A task of GLUE, `squad_v1.1`, `squad_v2.0`, or one of one's own files:
  # `classify`, `regress`, `tag`. '' is pretraining.
  name: str = ''
  # Passes over the training examples; decides `train.num_steps`.
  epochs: float = fields.above(3.0, 0)
  # Runs of every point of the grid, with the seeds from `train.seed` on.
  seeds: int = fields.at_least(1, 1)
  # Values to try, all with all: `KEY=VALUE,VALUE;KEY=VALUE,VALUE`.
  grid: str = ''
  # Own files: .tsv, .csv and .jsonl, for `tag` .conllu or columns (IOB).
  train: str = ''
  dev: str = ''
  test: str = ''
  # Their columns; of `tag`, the number of a column from 0, or `upos`.
  text: str = 'text'
  pair: str = ''
  label: str = 'label'
  # SQuAD: tokens that neighbouring windows of a context share.
  stride: int = fields.at_least(128, 1)
  max_question: int = fields.at_least(64, 1)
  max_answer: int = fields.at_least(30, 1)
  n_best: int = fields.at_least(20, 1)
  # v2.0: no answer where its score exceeds the best span's by more than this.
  null_threshold: float = 0.0


@dataclasses.dataclass(frozen=True)
class Config:
  """One experiment."""

  # The folder under `runs/` where no other is given.
  name: str = fields.rule(
    'unnamed',
    'a name without /, neither empty nor . or ..',
    lambda x: '/' not in x and x not in ('', '.', '..'),
  )
  data: DataConfig = DataConfig()
  task: TaskConfig = TaskConfig()
  model: ModelConfig = ModelConfig()
  drop: DropConfig = DropConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  train: TrainConfig = TrainConfig()
  eval: EvalConfig = EvalConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  log: LogConfig = LogConfig()
  parallel: ParallelConfig = ParallelConfig()

  @property
  def num_predicted(self) -> int:
    """P, the predicted positions of a full row."""
    return num_predicted(self.train.mask_rate, self.data.sequence_length)

  @property
  def num_kept(self) -> int:
    """k, the tokens per row that enter the narrow layers."""
    return num_kept(self.drop.keep, self.data.sequence_length)

  @property
  def eval_batch_size(self) -> int:
    """Rows that are evaluated at once, over all devices."""
    at_once = self.train.batch_size // self.train.microbatches
    return self.eval.batch_size or at_once


def num_predicted(mask_rate: float, num_tokens: int) -> int:
  """P of a row with `num_tokens` real tokens: at least one, 76 of 512."""
  return max(1, math.floor(mask_rate * num_tokens))


def num_kept(keep: float, sequence_length: int) -> int:
  """K from `drop.keep`: a share of N up to 1, a count above."""
  return round(keep * sequence_length if keep <= 1 else keep)


def default() -> ml_collections.ConfigDict:
  """Every key at its default; `load` refuses keys that are not among them."""
  return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def check_key(key: str) -> None:
  """Refuses a dotted key that no config has."""
  if key not in all_keys():
    raise fields.unknown_key(key, all_keys())


def all_keys() -> list[str]:
  """Every key of a config in dotted form."""
  return list(flatten(Config()))


def type_name(key: str) -> str:
  """What a value of `key` is, in words."""
  section, _, name = key.partition('.')
  cls = type(getattr(Config(), section)) if name else Config
  return fields.type_name(cls, name or section)


def flatten(config: Config) -> dict[str, Any]:
  """`{'drop.keep': 0.5, ...}`."""
  flat = {}
  for name, value in dataclasses.asdict(config).items():
    if isinstance(value, dict):
      flat |= {f'{name}.{key}': leaf for key, leaf in value.items()}
    else:
      flat[name] = value
  return flat


def load(raw: ml_collections.ConfigDict) -> Config:
  """Checks every value of `raw`.

  Args:
    raw: what a config file returned, overrides applied.

  Returns:
    The config as frozen dataclasses.

  Raises:
    errors.ConfigError: an unknown key, a wrong type, a value or a combination
      of values that cannot work.
  """
  config = fields.read(
    Config, raw.to_dict(), all_keys(), 'td_flax.config.default()'
  )
  combinations.check(config, flatten(config))
  return config


def parse(key: str, text: str) -> Any:
  """A value of `key` as it would stand on a command line; not yet checked.

  Raises:
    errors.ConfigError: there is no such key, or `text` is not of its type.
  """
  check_key(key)
  if type_name(key) == fields.TYPES[str]:
    return text
  try:
    return json.loads(text)
  except ValueError:
    raise errors.ConfigError(
      f'{key}={text!r}: must be {type_name(key)}'
    ) from None


def with_changes(config: Config, changes: dict[str, Any]) -> Config:
  """`config` with the values of some dotted keys replaced, checked."""
  raw = default()
  with raw.ignore_type():  # `load` says of a wrong type which key has it
    raw.update_from_flattened_dict(flatten(config) | changes)
  return load(raw)
