"""One fine-tuning run: a task, a pretrained model, a workdir.

The loop, the engines, checkpoints and metrics are those of pretraining.
"""

import math
import pathlib
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from td_flax import artifacts, leaves, loop, parallel, pretrained
from td_flax import config as config_lib
from td_flax.config import Config
from td_flax.learner import TrainState
from td_flax.model import task_model
from td_flax.tasks import lengths
from td_flax.tasks.learner import TaskLearner
from td_flax.tasks.predictor import Predictor
from td_flax.tasks.task import Encoded, Task
from td_flax.workdir import Workdir


def with_model(config: Config, found: pretrained.Pretrained) -> Config:
  """`config` with the architecture of the model that is fine-tuned.

  Args:
    config: how it is computed and how much it drops out are its own.
    found: the model.

  Raises:
    errors.ConfigError: the two do not fit, such as `data.sequence_length`.
  """
  names = found.fixed - {'pooler'}
  changes = {f'model.{name}': getattr(found.model, name) for name in names}
  return config_lib.with_changes(config, changes)


def for_task(config: Config, task: Task) -> Config:
  """`config` with all that follows from the number of examples.

  `task.epochs` decides `train.num_steps`; every epoch ends in an evaluation
  and a checkpoint.
  """
  rows, epoch = config.train.batch_size, len(task.train.ids)
  steps = math.ceil(config.task.epochs * epoch / rows)
  every = min(steps, math.ceil(epoch / rows))
  return config_lib.with_changes(
    config,
    {
      'train.num_steps': steps,
      'eval.every': every,
      'checkpoint.every': every,
      'model.pooler': task.output.reads == task_model.FIRST,
    },
  )


def run(
  config: Config,
  path: pathlib.Path,
  task: Task,
  found: pretrained.Pretrained,
  engine: parallel.Engine,
) -> dict[str, Any]:
  """Fine-tunes to `train.num_steps`; a run that is finished is only read.

  Args:
    config: of this run, from `for_task`; without `train.init_from` it starts
      at random.
    path: its workdir.
    task: the task.
    found: the model.
    engine: maps the steps.

  Returns:
    The content of its `summary.json`.

  Raises:
    errors.UserError: what stands in the way, in one line.
  """
  engine.check_batch(config.train)
  workdir = Workdir(path)
  fingerprints = {
    'tokenizer': found.tokenizer.fingerprint,
    'task': task.fingerprint(),
  }
  if config.train.init_from:  # a path, where another model may lie by now
    fingerprints['weights'] = found.weights_fingerprint
  workdir.check(config, fingerprints)
  if finished := workdir.summary():
    return finished
  plan = task_model.plan(config.model, task.output)
  for length in lengths.choices(config):
    loop.report_attention(_as_long(config, length), engine, [plan])
  tuning = _FineTuning(config, task, found, engine)
  with loop.run(
    config, workdir, engine, tuning, fingerprints, found.tokenizer
  ) as done:
    params = engine.place(done.state.params)
    outputs = tuning.outputs(params, {**task.dev, **task.test})
    content = {
      'name': config.name,
      'task': task.name,
      'step': int(done.state.step),
      'seed': config.train.seed,
      'metric': task.metric,
      'output': task.output._asdict(),
      'labels': list(task.labels),
      'figures': tuning.figures(outputs),
      'num_examples': len(task.train.ids),
      'skipped_updates': int(done.state.skipped),
      'params_sha256': leaves.sha256(done.state.params),
      **(done.speed or {}),
    }
    files: dict[str, str] = {}
    for name, of_split in outputs.items():
      files |= task.predictions(name, of_split)
    if jax.process_index() == 0:
      folder = workdir.path / 'predictions'
      with workdir.clear_errors():
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
          artifacts.write_atomically(folder / name, text.encode())
        # Last: with it the run is finished.
        artifacts.write_json(workdir.summary_json, content)
  return content


def _as_long(config: Config, length: int) -> Config:
  return config_lib.with_changes(config, {'data.sequence_length': length})


class _FineTuning:
  """A task, as the loop wants it."""

  def __init__(
    self,
    config: Config,
    task: Task,
    found: pretrained.Pretrained,
    engine: parallel.Engine,
  ):
    self._config = config
    self._task = task
    self._found = found
    self._engine = engine
    self.learner = self._learner(config.data.sequence_length)
    # Nothing is dropped; orbax saves no empty array.
    self.table = np.zeros(1, np.float32)
    self.pipeline = lengths.Batches(task, config, found.tokenizer.special.pad)
    self._predict = Predictor(self.learner, engine)

  def _learner(self, length: int) -> TaskLearner:
    """The task's, for rows of this length."""
    tokenizer = self._found.tokenizer
    return TaskLearner(
      _as_long(self._config, length),
      self._task.output,
      tokenizer.vocab_size,
      tokenizer.special,
      self._engine,
    )

  def programs(self, start: int) -> dict[int, TaskLearner]:
    """One for each length of a batch."""
    found = dict.fromkeys(self.pipeline.lengths[start:].tolist())
    return {length: self._learner(length) for length in found}

  def program_at(self, step: int) -> int:
    """The length of the step's batch."""
    return int(self.pipeline.lengths[step])

  def initial(self, params: Any) -> Any:
    """The pretrained parameters; what is new starts at random."""
    return (
      self._found.params(params) if self._config.train.init_from else params
    )

  def row(self, state: TrainState) -> dict[str, float]:
    """Nothing is dropped."""
    del state
    return {}

  def evaluate(self, params: Any) -> dict[str, float]:
    """The figures of the splits that have labels."""
    figures = self.figures(self.outputs(params, self._task.dev))
    return {f'eval/{k}': x for k, x in figures.items()}

  def outputs(
    self, params: Any, splits: dict[str, Encoded]
  ) -> dict[str, Float[np.ndarray, 'S P C']]:
    """What the model says of each split."""
    return {name: self._predict(params, x) for name, x in splits.items()}

  def figures(
    self, outputs: dict[str, Float[np.ndarray, 'S P C']]
  ) -> dict[str, float]:
    """`loss` and the task's metrics on the first split, then the others."""
    figures = {}
    for i, (name, split) in enumerate(self._task.dev.items()):
      found = {
        'loss': self._predict.loss(split, outputs[name]),
        **self._task.score(name, outputs[name]),
      }
      figures |= {f'{name}/{k}' if i else k: x for k, x in found.items()}
    return figures
