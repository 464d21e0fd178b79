"""The typed border between ml_collections configs and the program.

A config file under `configs/` starts from `default()`, a ConfigDict with every
key at its default, and changes what its experiment needs. `load` turns the
result into frozen dataclasses and refuses what cannot work with one line that
names the key, the value and what would be valid. Nothing behind this border
sees a ConfigDict.
"""

import dataclasses
import difflib
import json
import math
from typing import Any

import ml_collections

from td_flax import combinations, errors

EXAMPLE = 'configs/quickstart.py'
MAX_VOCAB_SIZE = 65_536  # rows are stored as uint16


def _field(default: Any, valid: str, check: Any) -> Any:
  """A dataclass field with a rule: `check(value)` and its wording."""
  return dataclasses.field(
    default=default, metadata={'valid': valid, 'check': check}
  )


def _choice(default: str, *others: str) -> Any:
  choices = (default, *others)
  return _field(default, f'one of {", ".join(choices)}', choices.__contains__)


def _at_least(default: Any, low: float) -> Any:
  return _field(default, f'at least {low}', lambda x: x >= low)


def _above(default: Any, low: float) -> Any:
  return _field(default, f'above {low}', lambda x: x > low)


def _share(default: float, *, one: bool = False) -> Any:
  """A number in [0, 1), or in [0, 1]."""
  valid = 'from 0 to 1' if one else 'from 0 to below 1'
  return _field(default, valid, lambda x: 0 <= x < 1 or (one and x == 1))


def _seed() -> Any:
  # A key of jax.random holds 32 bits of a seed; more would fall away silently.
  return _field(0, 'from 0 to below 2**32', lambda x: 0 <= x < 2**32)


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What is read, and the rows it becomes. Identity of a packed dataset."""

  # Comma list of SPEC[=WEIGHT]; SPEC is `embedded`, a glob of .txt or .jsonl
  # files (also .gz .xz .bz2 .zst), or `tfds:NAME`.
  files: str = 'embedded'
  # Held-out sources, in the same form; '' holds out `eval_fraction` of `files`.
  eval_files: str = ''
  eval_fraction: float = _share(0.01)
  # Where the packed dataset lies; '' is `<workdir>/data`. From gs:// it is
  # copied to each machine once.
  dir: str = ''
  # Where TFDS datasets lie; '' is TFDS's own default.
  tfds_dir: str = ''
  # The field of a .jsonl line or of a TFDS example that holds the text.
  text_field: str = 'text'
  # N: ids per row.
  sequence_length: int = _at_least(512, 8)
  # `bpe` or `unigram` trains a SentencePiece model; else the path of one, of
  # a WordPiece vocab.txt or tokenizer.json, or of a folder that holds one.
  tokenizer: str = 'bpe'
  vocab_size: int = _field(
    30_522,
    f'from 300 to {MAX_VOCAB_SIZE:,} (ids are stored as uint16)',
    lambda x: 300 <= x <= MAX_VOCAB_SIZE,
  )
  # Of a tokenizer that is trained, or read from a bare vocab.txt.
  lowercase: bool = True
  # Text the tokenizer is trained on, at most, in MB.
  tokenizer_sample_mb: int = _at_least(64, 1)
  # Draws the held-out documents and the tokenizer's sample.
  seed: int = _seed()
  # Of a task: the folder of its files in their official layout; '' reads the
  # dataset of TFDS.
  task_dir: str = ''


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """BERT (Devlin et al. 2019); the defaults are BERT-base."""

  norm: str = _choice('post', 'pre')
  num_layers: int = _at_least(12, 1)
  hidden_dim: int = _at_least(768, 1)
  num_heads: int = _at_least(12, 1)
  mlp_dim: int = _at_least(3072, 1)
  max_positions: int = _at_least(512, 8)
  # Token types; pretraining uses type 0, pairs of sentences also type 1.
  type_vocab_size: int = _at_least(2, 1)
  # GELU, or its approximation by tanh.
  activation: str = _choice('gelu_tanh', 'gelu')
  # How attention is computed; `auto` picks by platform, length and dropout.
  attention: str = _choice('auto', 'plain', 'rows', 'splash', 'cudnn')
  # What the backward pass recomputes to save memory: nothing, all but the
  # results of dense layers and attention, or whole layers.
  remat: str = _choice('none', 'dense', 'layer')
  # Layers that see the same tokens are one compiled loop: compiles faster.
  scan_layers: bool = False
  # An NSP-free pooler: pretraining leaves it as it is.
  pooler: bool = False
  dropout: float = _share(0.1)
  attention_dropout: float = _share(0.1)
  # Compute type; parameters and reductions are always float32.
  dtype: str = _choice('float32', 'bfloat16')
  # Documents packed into one row see each other (as in the published code).
  attend_across_documents: bool = False
  # Positions start at 0 in every document rather than once per row.
  restart_positions: bool = True
  norm_eps: float = _above(1e-12, 0)
  # Initial weights: noise, or heads that attend to neighbours (`local_init`).
  init: str = _choice('random', 'local')
  init_stddev: float = _above(0.02, 0)


@dataclasses.dataclass(frozen=True)
class DropConfig:
  """Token dropping (Hou et al. 2022); layers are 0-based and inclusive."""

  policy: str = 'none'
  # The transition layer: queries are the kept tokens only.
  first_layer: int = _at_least(5, 0)
  # The last narrow layer; the one behind it sees every token again.
  last_layer: int = _at_least(10, 0)
  # k: a share of N up to 1, a count above.
  keep: float = _above(0.5, 0)
  # The transition layer's keys and values: all tokens, or the kept ones.
  cross_attend: bool = True
  # The table's EMA: m <- beta m + (1 - beta) loss, from `initial_loss`.
  beta: float = _share(0.995)
  initial_loss: float = _at_least(10.0, 0)
  # Scale of Gumbel noise on the scores: 0 is the exact top k.
  noise: float = _at_least(0.0, 0)
  # What stands for the dropped tokens in the narrow layers: nothing, or their
  # mean, or their mean weighted by importance, in so many tokens.
  pool: str = _choice('none', 'mean', 'weighted')
  clusters: int = _at_least(1, 1)
  # Every so many steps also a pass over full sequences that the dropped one is
  # held to (`consistency.py`); 0 never.
  consistency_every: int = _at_least(0, 0)
  # Parts of the run that drop differently (`stages.py`); '' is one part.
  stages: str = ''


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW or LAMB on a warmup and a decay to zero."""

  name: str = _choice('adamw', 'lamb')
  learning_rate: float = _above(1e-4, 0)
  # Share of `train.num_steps`.
  warmup: float = _share(0.01)
  decay: str = _choice('linear', 'cosine')
  # Not on LayerNorm and biases.
  weight_decay: float = _at_least(0.01, 0)
  beta1: float = _share(0.9)
  beta2: float = _share(0.999)
  eps: float = _above(1e-6, 0)
  # Largest global norm of the gradient; 0 does not clip.
  clip_norm: float = _at_least(1.0, 0)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long, how much at once, from where."""

  num_steps: int = _at_least(1_000_000, 1)
  # Rows per update over all devices.
  batch_size: int = _at_least(512, 1)
  # Gradient accumulation: each device's rows in this many parts.
  microbatches: int = _at_least(1, 1)
  # The last layer computes the predicted positions only: exact, and cheaper.
  predicted_only_last_layer: bool = True
  # P = floor(mask_rate * N) predicted positions per full row.
  mask_rate: float = _field(0.15, 'above 0, below 1', lambda x: 0 < x < 1)
  seed: int = _seed()
  # Parameters to start from: a workdir or a checkpoint step's directory.
  init_from: str = ''
  # Updates with a non-finite loss in a row after which training stops.
  max_nonfinite: int = _at_least(10, 1)
  # Write a jax profiler trace of these steps, e.g. '10:13'; '' writes none.
  profile_steps: str = ''


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Held-out loss on full sequences with a fixed 15% mask."""

  # Steps between evaluations, besides step 0 and the last.
  every: int = _at_least(10_000, 1)
  # Held-out rows, at most.
  num_rows: int = _at_least(1024, 1)
  # Rows at once over all devices; 0 is `train.batch_size`.
  batch_size: int = _at_least(0, 0)
  # Draws the mask; independent of `train.seed`, so that runs compare.
  seed: int = _seed()


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """What is saved, and how much of it is kept."""

  # Steps between checkpoints, besides the last step.
  every: int = _at_least(10_000, 1)
  # The newest ones that are kept.
  keep: int = _at_least(3, 1)
  # Also keep the one with the lowest held-out loss.
  keep_best: bool = True


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """What is written while training."""

  every: int = _at_least(100, 1)
  tensorboard: bool = True


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """How the step is mapped over devices."""

  # `pmap` holds the whole state on every device; `sharded` splits parameters
  # and optimizer state over them, for models that outgrow one.
  engine: str = _choice('pmap', 'sharded')
  # Devices per process; 0 is all.
  num_devices: int = _at_least(0, 0)


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """A downstream task to fine-tune on (`td_flax.finetune`)."""

  # A task of GLUE, `squad_v1.1`, `squad_v2.0`, or one of one's own files:
  # `classify`, `regress`, `tag`. '' is pretraining.
  name: str = ''
  # Passes over the training examples; decides `train.num_steps`.
  epochs: float = _above(3.0, 0)
  # Runs of every point of the grid, with the seeds from `train.seed` on.
  seeds: int = _at_least(1, 1)
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
  stride: int = _at_least(128, 1)
  max_question: int = _at_least(64, 1)
  max_answer: int = _at_least(30, 1)
  n_best: int = _at_least(20, 1)
  # v2.0: no answer where its score exceeds the best span's by more than this.
  null_threshold: float = 0.0


@dataclasses.dataclass(frozen=True)
class Config:
  """One experiment."""

  name: str = 'unnamed'
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


def num_predicted(mask_rate: float, num_tokens: int) -> int:
  """P of a row with `num_tokens` real tokens: at least one, 76 of 512."""
  return max(1, math.floor(mask_rate * num_tokens))


def num_kept(keep: float, sequence_length: int) -> int:
  """K from `drop.keep`: a share of N up to 1, a count above."""
  return round(keep * sequence_length if keep <= 1 else keep)


def default() -> ml_collections.ConfigDict:
  """Every key at its default; `load` refuses keys that are not among them."""
  return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def unknown_key(key: str, valid: list[str]) -> errors.ConfigError:
  """The error for a key that does not exist, with the nearest that does."""
  sections = sorted({name.partition('.')[0] for name in valid})
  if key in sections:
    return errors.ConfigError(f'{key}: is a section; set one of its keys')
  near = difflib.get_close_matches(key, valid, n=1)
  if not near:  # a right name in the wrong section, or without its section
    leaf = key.rpartition('.')[2]
    near = [name for name in valid if name.rpartition('.')[2] == leaf]
  near += difflib.get_close_matches(key, sections, n=1)
  if near:
    return errors.ConfigError(f'{key}: no such key; did you mean {near[0]}?')
  return errors.ConfigError(
    f'{key}: no such key; sections are {", ".join(sections)}'
  )


def check_key(key: str) -> None:
  """Refuses a dotted key that no config has."""
  if key not in all_keys():
    raise unknown_key(key, all_keys())


def all_keys() -> list[str]:
  """Every key of a config in dotted form."""
  return list(flatten(Config()))


def type_name(key: str) -> str:
  """What a value of `key` is, in words."""
  section, _, name = key.partition('.')
  cls = type(getattr(Config(), section)) if name else Config
  fields = {field.name: field for field in dataclasses.fields(cls)}
  return _TYPES.get(fields[name or section].type, 'a section')


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
  config = typed(Config, raw.to_dict(), all_keys())
  combinations.check(config, flatten(config))
  return config


def parse(key: str, text: str) -> Any:
  """A value of `key` as it would stand on a command line; not yet checked.

  Raises:
    errors.ConfigError: there is no such key, or `text` is not of its type.
  """
  check_key(key)
  if type_name(key) == _TYPES[str]:
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


def typed(
  cls: Any, values: dict[str, Any], valid: list[str], prefix: str = ''
) -> Any:
  """The dataclass `cls` of `values`, each checked by itself.

  Args:
    cls: a dataclass; its fields may be dataclasses too.
    values: by the name of the field, sections as mappings.
    valid: every dotted key there is.
    prefix: of the keys of `cls`, '' or one that ends in a dot.

  Raises:
    errors.ConfigError: an unknown key, a missing one, or a wrong value.
  """
  fields = {field.name: field for field in dataclasses.fields(cls)}
  for name in values:
    if name not in fields:
      raise unknown_key(prefix + name, valid)
  found = {}
  for name, field in fields.items():
    key = prefix + name
    if name not in values:
      raise errors.ConfigError(
        f'{key}: missing; start from td_flax.config.default()'
      )
    value = values[name]
    if dataclasses.is_dataclass(field.type):
      if not isinstance(value, dict):
        raise errors.ConfigError(f'{key}={value!r}: must be a section')
      found[name] = typed(field.type, value, valid, prefix=f'{key}.')
    else:
      found[name] = _checked_value(key, value, field)
  return cls(**found)


def _checked_value(key: str, value: Any, field: dataclasses.Field) -> Any:
  is_int = isinstance(value, int) and not isinstance(value, bool)
  if field.type is float and is_int:
    value = float(value)
  if not isinstance(value, field.type) or (field.type is int and not is_int):
    raise errors.ConfigError(f'{key}={value!r}: must be {_TYPES[field.type]}')
  if field.type is float and not math.isfinite(value):
    raise errors.ConfigError(f'{key}={value!r}: must be a finite number')
  check = field.metadata.get('check')
  if check is not None and not check(value):
    raise errors.ConfigError(
      f'{key}={value!r}: must be {field.metadata["valid"]}'
    )
  return value


_TYPES = {
  str: 'text',
  int: 'a whole number',
  float: 'a number',
  bool: 'true or false',
  dict: 'a section',
}
