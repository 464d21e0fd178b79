"""Several seeds at every point of a small grid, and what they say together."""

import itertools
import math
import pathlib
import shutil
import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from td_flax import artifacts, errors, parallel, pretrained, progress
from td_flax import config as config_lib
from td_flax.config import Config
from td_flax.tasks import fine_tuning
from td_flax.tasks.task import Task
from td_flax.workdir import Workdir

# What a point may change beside the optimizer: nothing that the examples, the
# seeds or the pretrained weights decide.
_KEYS = (
  'train.batch_size',
  'train.microbatches',
  'model.dropout',
  'model.attention_dropout',
  'model.dtype',
  'task.epochs',
)


class Point(NamedTuple):
  """A point of the grid.

  Attributes:
    name: of its folder.
    config: of its runs, but for the seed.
  """

  name: str
  config: Config


def points(config: Config) -> list[Point]:
  """All combinations of the values in `task.grid`.

  Raises:
    errors.ConfigError: the grid has another form, a value is not valid, or a
      key or a value of a key is given twice.
  """
  axes = [_axis(axis.strip()) for axis in config.task.grid.split(';') if axis]
  keys = [axis[0][0] for axis in axes]
  for key in keys:
    if keys.count(key) > 1:
      raise errors.ConfigError(f'task.grid: {key}: is given twice')
  found = [
    Point(
      ','.join(f'{key}={text}' for key, text in combination) or 'runs',
      _changed(config, dict(combination)),
    )
    for combination in itertools.product(*axes)
  ]
  for key, axis in zip(keys, axes, strict=True):
    values = [config_lib.parse(key, text) for _, text in axis]
    for value in values:
      if values.count(value) > 1:
        raise errors.ConfigError(f'task.grid: {key}={value}: is given twice')
  return found


def _axis(axis: str) -> list[tuple[str, str]]:
  key, sign, values = axis.partition('=')
  if not (sign and values):
    raise errors.ConfigError(f'task.grid: {axis!r}: must be KEY=VALUE,VALUE')
  return [(key, value.strip()) for value in values.split(',')]


def _changed(config: Config, values: dict[str, str]) -> Config:
  """`config` with values as they would stand on a command line."""
  try:
    for key in values:
      config_lib.check_key(key)
      if not (key.startswith('optimizer.') or key in _KEYS):
        raise errors.ConfigError(
          f'{key}: must be one of optimizer.*, {", ".join(_KEYS)}'
        )
    typed = {key: config_lib.parse(key, text) for key, text in values.items()}
    return config_lib.with_changes(config, typed)
  except errors.ConfigError as error:
    raise errors.ConfigError(f'task.grid: {error}') from None


def run(
  config: Config,
  path: pathlib.Path,
  task: Task,
  found: pretrained.Pretrained,
  engine: parallel.Engine,
) -> dict[str, Any]:
  """Runs whatever is not finished, then writes results.json and results.md.

  The predictions of the best run, by the task's metric, are copied into
  `predictions/`. Checkpoints of the others are deleted.

  Args:
    config: with the model's architecture.
    path: holds a workdir `POINT/seedN` per run.
    task: the task.
    found: the model.
    engine: maps the steps.

  Returns:
    The content of results.json.

  Raises:
    errors.UserError: what stands in the way, in one line.
  """
  runs = list(_runs(config, path, task))
  results: dict[str, list[dict[str, Any]]] = {}
  for i, (point, run_path, run_config) in enumerate(runs, 1):
    progress.write_line(f'run {i} of {len(runs)}: {run_path}')
    content = fine_tuning.run(run_config, run_path, task, found, engine)
    figures = ', '.join(
      f'{name} {x:.4f}' for name, x in content['figures'].items()
    )
    progress.write_line(f'  {figures}')
    # As it is wherever the workdir is copied to.
    place = {'path': str(run_path.relative_to(path))}
    results.setdefault(point, []).append(content | place)
  content = _content(config, task, results)
  if jax.process_index() == 0:
    best = path / content['best']['path']
    if not Workdir(best).checkpoints.exists():
      progress.write_line(
        f'warning: {best}: the best run has no checkpoint: it was not the best '
        'of the sweep that trained it; delete this folder and run the same '
        'command again for one'
      )
    for _, run_path, _ in runs:
      if run_path != best:
        shutil.rmtree(Workdir(run_path).checkpoints, ignore_errors=True)
    with Workdir(path).clear_errors():
      shutil.copytree(
        best / 'predictions', path / 'predictions', dirs_exist_ok=True
      )
      artifacts.write_json(path / 'results.json', content)
      page = markdown(content).encode()
      artifacts.write_atomically(path / 'results.md', page)
  return content


def _runs(
  config: Config, path: pathlib.Path, task: Task
) -> Iterator[tuple[str, pathlib.Path, Config]]:
  """Every run, checked before the first one begins."""
  for point in points(config):
    tuned = fine_tuning.for_task(point.config, task)
    for i in range(config.task.seeds):
      seed = config.train.seed + i
      yield (
        point.name,
        path / point.name / f'seed{seed}',
        config_lib.with_changes(tuned, {'train.seed': seed}),
      )


def _content(
  config: Config,
  task: Task,
  results: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
  points = []
  for name, runs in results.items():
    figures = {}
    for key in runs[0]['figures']:
      if key.endswith('_thresh'):
        continue  # no score: neither large nor small is good
      values = [x['figures'][key] for x in runs]
      figures[key] = {
        'mean': statistics.fmean(values),
        'deviation': float(np.std(values, ddof=1)) if len(values) > 1 else None,
        'best': max(values, key=lambda x: _worth(key, x)),
        'values': values,
      }
    points.append({'point': name, 'figures': figures, 'runs': runs})
  every = [x for runs in results.values() for x in runs]
  best = max(
    every, key=lambda x: _worth(task.metric, x['figures'][task.metric])
  )
  return {
    'task': task.name,
    'metric': task.metric,
    'model': config.train.init_from or 'random weights',
    'num_examples': len(task.train.ids),
    'points': points,
    'best': {'path': best['path'], 'figures': best['figures']},
  }


def _worth(name: str, figure: float) -> float:
  """The larger, the better; that of no number is the least."""
  if math.isnan(figure):
    return -math.inf
  return -figure if name.endswith('loss') else figure


def markdown(content: dict[str, Any]) -> str:
  """The results as a table, a point a line."""
  metrics = list(content['points'][0]['figures'])
  lines = [
    f'# {content["task"]}, {content["num_examples"]:,} examples',
    '',
    f'From {content["model"]}. Mean and sample deviation over seeds, and the '
    'best run, on dev at the end of training.',
    '',
    f'| point | seeds | {" | ".join(metrics)} |',
    '|---|---|' + '---|' * len(metrics),
  ]
  for point in content['points']:
    cells = []
    for name in metrics:
      x = point['figures'][name]
      spread = '' if x['deviation'] is None else f' ± {x["deviation"]:.4f}'
      cells.append(f'{x["mean"]:.4f}{spread} (best {x["best"]:.4f})')
    lines.append(
      f'| {point["point"]} | {len(point["runs"])} | {" | ".join(cells)} |'
    )
  lines += ['', f'Best by {content["metric"]}: `{content["best"]["path"]}`.']
  return '\n'.join(lines) + '\n'
