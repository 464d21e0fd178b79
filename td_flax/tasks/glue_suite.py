"""GLUE as part of a report: fine-tuning on every task that is there."""

import pathlib
import statistics
from typing import Any

from td_flax import config as config_lib
from td_flax import errors, parallel, pretrained
from td_flax.tasks import fine_tuning, glue, recipe, sweep
from td_flax.tasks.sentences import Sentences


def tasks_in(
  folder: str, wanted: list[str], key: str = '--glue_dir'
) -> list[str]:
  """The tasks to fine-tune on.

  Args:
    folder: in the layout of GLUE's own download.
    wanted: their names; empty is all that have training examples there.
    key: the flag or config key that errors name.

  Raises:
    errors.ConfigError: there is no such task, or it is not there.
  """
  for name in wanted:
    if name not in glue.TASKS:
      raise errors.ConfigError(
        f'--glue_tasks={name}: must be one of {", ".join(glue.TASKS)}'
      )
  root = pathlib.Path(folder)
  present = [
    name
    for name, task in glue.TASKS.items()
    if (root / task.folder / 'train.tsv').exists()
  ]
  if not present:
    raise errors.ConfigError(
      f'{key}={folder!r}: holds no TASK/train.tsv of GLUE, such as '
      'CoLA/train.tsv'
    )
  for name in wanted or present:
    task = glue.TASKS[name]
    for split in ('train', *task.dev):
      file = f'{task.folder}/{split}.tsv'
      if not (root / file).exists():
        raise errors.ConfigError(f'{key}={folder!r}: holds no {file}')
  return wanted or present


def evaluate(
  found: pretrained.Pretrained,
  engine: parallel.Engine,
  workdir: pathlib.Path,
  folder: str,
  tasks: list[str],
  *,
  seeds: int,
  epochs: float,
  learning_rate: float,
) -> dict[str, Any]:
  """Fine-tunes on each task.

  Args:
    found: the model.
    engine: maps the steps.
    workdir: gets a folder of runs per task; finished ones are not repeated.
    folder: of the tasks.
    tasks: their names.
    seeds: runs of each.
    epochs: of each run.
    learning_rate: of each run.

  Returns:
    By task: `metric`, the first one, its `mean` and `deviation` over the seeds;
    `figures`; `official`, the names of those that GLUE counts, and `score`,
    the mean of their means. `average`: the mean of the tasks' scores, as GLUE
    has it.

  Raises:
    errors.UserError: a file cannot be used.
  """
  results: dict[str, Any] = {}
  for name in tasks:
    raw = recipe.fine_tuning(f'glue_{name}', name)
    raw.data.task_dir = folder
    raw.data.sequence_length = min(128, found.model.max_positions)
    raw.task.seeds, raw.task.epochs = seeds, epochs
    raw.optimizer.learning_rate = learning_rate
    raw.train.init_from = found.source
    config = fine_tuning.with_model(config_lib.load(raw), found)
    task = Sentences(config, found.tokenizer)
    content = sweep.run(config, workdir / name, task, found, engine)
    (point,) = content['points']
    figures = point['figures']
    official = _official(glue.TASKS[name])
    results[name] = {
      'metric': task.metric,
      'mean': figures[task.metric]['mean'],
      'deviation': figures[task.metric]['deviation'],
      'figures': figures,
      'official': official,
      'score': statistics.fmean(figures[x]['mean'] for x in official),
    }
  average = statistics.fmean(x['score'] for x in results.values())
  return {'tasks': results, 'average': average, 'seeds': seeds}


def _official(task: glue.Glue) -> list[str]:
  """The figures that GLUE counts: all metrics of all dev splits."""
  others = [
    f'{split}/{metric}' for split in task.dev[1:] for metric in task.metrics
  ]
  return [*task.metrics, *others]
