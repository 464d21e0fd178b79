"""Models that were trained before: of our runs, and of Hugging Face."""

import abc
import dataclasses
import functools
import pathlib
from typing import Any

import jax

from td_flax import artifacts, bucket, errors, leaves, saved
from td_flax.chips import LANES
from td_flax.config import Config, ModelConfig
from td_flax.data import tokenizer, word_piece
from td_flax.data.vocabulary import Tokenizer
from td_flax.hub import architecture, weights
from td_flax.model import bert
from td_flax.workdir import Workdir

# What weights may be used with, whatever they were trained with.
_SAME_MODEL = frozenset({
  'attention',
  'attention_dropout',
  'dropout',
  'dtype',
  'remat',
  'scan_layers',
})  # fmt: skip

# Rows of an embedding behind the last id of its tokenizer, at most.
_MAX_PADDING = LANES


class Pretrained(abc.ABC):
  """Weights, and what they are weights of.

  Attributes:
    where: the key or flag that names it and its value, for messages.
    source: the path or URL of exactly these weights, for `train.init_from`.
    model: the model.
    fixed: the keys of `model` that its weights depend on.
    fingerprint: its tokenizer's.
    tokenizer: what makes its ids.
  """

  where: str
  source: str
  model: ModelConfig
  fixed: frozenset[str]
  fingerprint: str

  @property
  @abc.abstractmethod
  def tokenizer(self) -> Tokenizer:
    """What makes its ids."""

  @property
  @abc.abstractmethod
  def weights_fingerprint(self) -> str:
    """The same wherever these weights lie, another for any others.

    Raises:
      errors.CheckpointError: they are missing or damaged.
    """

  @abc.abstractmethod
  def params(self, initial: Any) -> Any:
    """The weights.

    Args:
      initial: the parameters of a fresh model on an `Encoder` of this
        architecture.

    Returns:
      `initial` with numpy leaves: the weights, and where there are none (the
      head of a task, a pooler) what was there.

    Raises:
      errors.CheckpointError: they are missing, damaged or of another model.
    """

  @abc.abstractmethod
  def check_head(self) -> None:
    """Refuses a model that cannot predict masked tokens.

    Raises:
      errors.CheckpointError: it has no masked-LM head, or cannot be read.
    """

  def check(self, config: Config, fingerprint: str) -> None:
    """Refuses weights that a run would misread.

    Shapes alone do not tell: `model.norm_eps` or another tokenizer of the same
    size leave them as they are.

    Args:
      config: of the run that is to start from them.
      fingerprint: of that run's tokenizer.

    Raises:
      errors.CheckpointError: names what differs.
    """
    triples = [
      (f'model.{key}', getattr(self.model, key), getattr(config.model, key))
      for key in sorted(self.fixed)
    ]
    name = 'fingerprint of the tokenizer'
    triples.append((name, self.fingerprint, fingerprint))
    if differences := errors.differences(triples):
      raise errors.CheckpointError(
        f'{self.where}: holds another model: {differences}'
      )


def find(
  path: str, key: str, step: str = 'latest', *, may_be_tuned: bool = False
) -> Pretrained:
  """The model at `path`; its weights are read when they are asked for.

  Args:
    path: a workdir, one of its `checkpoints/<step>`, or a folder of Hugging
      Face; local or gs://.
    key: the config key or flag that errors name.
    step: of a workdir: `latest`, `best` (by held-out loss) or a number.
    may_be_tuned: whether a fine-tuned run will do, whose head is a task's.

  Raises:
    errors.ConfigError: it does not exist, has no such step (a folder of Hugging
      Face has none but `latest`), or was fine-tuned.
    errors.CheckpointError: it is none of these, or cannot be used.
  """
  where = f'{key}={path!r}'
  is_url = bucket.is_url(path)
  folder = bucket.model(path) if is_url else pathlib.Path(path)
  if not folder.exists():
    raise errors.ConfigError(f'{where}: does not exist')
  # Of a URL the local copy is nothing to remember.
  source = path.rstrip('/') if is_url else str(folder.absolute())
  if architecture.is_folder(folder):
    if step != 'latest':
      raise errors.ConfigError(
        f'{where}: a folder of Hugging Face has no steps; leave out '
        f'--step={step}'
      )
    return OfHub(folder, where, source)
  folder = folder.absolute()
  if folder.parent.name == 'checkpoints' and folder.name.isdecimal():
    source = source.removesuffix(f'/checkpoints/{folder.name}')
    folder, step = folder.parents[1], folder.name
  found = OfRun(Workdir(folder), where, step, source)
  if found.config.task.name and not may_be_tuned:
    start = found.config.train.init_from or 'random weights'
    raise errors.ConfigError(
      f'{where}: was fine-tuned on {found.config.task.name}; give a pretrained '
      f'model (this one started from {start})'
    )
  return found


class OfRun(Pretrained):
  """A checkpoint of a workdir.

  Attributes:
    workdir: the run's.
    config: the run's.
    step: the checkpoint's.
    checkpoint: its folder.
  """

  def __init__(self, workdir: Workdir, where: str, step: str, source: str):
    self.where = where
    has_steps = saved.steps(workdir.checkpoints)
    if not (has_steps and workdir.config_json.exists()):
      raise errors.CheckpointError(
        f'{where}: neither a workdir with checkpoints, nor one of its '
        'checkpoints/<step>, nor a folder of Hugging Face'
      )
    config, fingerprints = workdir.read()
    self.workdir = workdir
    self.config = config
    self.model = config.model
    self.step = saved.find_step(workdir.checkpoints, step, where)
    self.checkpoint = workdir.checkpoints / str(self.step)
    self.source = f'{source}/checkpoints/{self.step}'
    self.fingerprint = fingerprints['tokenizer']
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    self.fixed = frozenset(names - _SAME_MODEL)

  @functools.cached_property
  def eval_loss(self) -> float | None:
    """The held-out loss there, None where it was not evaluated."""
    return saved.eval_loss(self.workdir.checkpoints, self.step)

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The copy in the workdir."""
    loaded = tokenizer.load(self.workdir.tokenizer, '')
    if loaded.fingerprint != self.fingerprint:
      raise errors.CheckpointError(
        f'{self.workdir.tokenizer}: is not the tokenizer that '
        f'{self.workdir.config_json.name} names'
      )
    return loaded

  @functools.cached_property
  def weights_fingerprint(self) -> str:
    """Of the digests in the checkpoint's record."""
    digests = saved.read_record(self.checkpoint, step=self.step)['leaves']
    return artifacts.fingerprint(
      {name: x for name, x in digests.items() if name.startswith('params/')}
    )

  def check_head(self) -> None:
    """Finds nothing: pretraining always has one."""

  def params(self, initial: Any) -> Any:
    """The checkpoint's parameters, verified."""
    abstract = bert.abstract_params(self.model, self.tokenizer.vocab_size)
    there = leaves.to_host(saved.load_params(self.checkpoint, abstract))
    arrays = leaves.to_host(initial)
    arrays |= {name: there[name] for name in there.keys() & arrays.keys()}
    return leaves.fit(
      arrays, jax.eval_shape(lambda: initial), origin=self.checkpoint
    )


class OfHub(Pretrained):
  """A folder of Hugging Face."""

  def __init__(self, folder: pathlib.Path, where: str, source: str):
    self.folder = folder
    self.source = source
    self.where = where
    self.model = ModelConfig(**architecture.read(folder))
    self.fixed = architecture.FIXED
    file = tokenizer.find(folder)
    if file is None:
      raise errors.CheckpointError(
        f'{folder}: holds no tokenizer: none of {", ".join(tokenizer.FILES)}'
      )
    self._tokenizer = tokenizer.load(file, '')
    if file.name == word_piece.VOCAB:
      _check_case(file, self._tokenizer)
    ids, rows = self._tokenizer.vocab_size, architecture.vocab_size(folder)
    if not rows - _MAX_PADDING <= ids <= rows:
      raise errors.CheckpointError(
        f'{file}: has {ids:,} ids, but {architecture.FILE} has vocab_size='
        f'{rows:,}: it is half-copied, or of another model'
      )
    self.fingerprint = self._tokenizer.fingerprint

  @functools.cached_property
  def weights_fingerprint(self) -> str:
    """Of the files."""
    return weights.fingerprint(self.folder)

  def check_head(self) -> None:
    """Looks for its tensors."""
    weights.check_head(self.folder)

  @property
  def tokenizer(self) -> Tokenizer:
    """The one in the folder."""
    return self._tokenizer

  def params(self, initial: Any) -> Any:
    """The folder's tensors, and of `initial` what it lacks."""
    return weights.fill(
      initial, self.model, self.tokenizer.vocab_size, self.folder
    )


def _check_case(path: pathlib.Path, loaded: Tokenizer) -> None:
  """Refuses a cased `vocab.txt` where nothing says whether case is folded.

  Raises:
    errors.CheckpointError: names a piece that would never be used.
  """
  if word_piece.options_of(path.parent, lowercase=None)['lowercase'] is None:
    for piece in map(loaded.piece, range(loaded.vocab_size)):
      is_special = piece.startswith('[') and piece.endswith(']')
      if piece != piece.lower() and not is_special:
        raise errors.CheckpointError(
          f'{path}: has pieces in upper case, such as {piece!r}; say whether '
          'case is folded in a tokenizer_config.json beside it: '
          '{"do_lower_case": false}'
        )
