"""The runs of a comparison: what is left of them, and doing it."""

import math
import pathlib
import signal
from collections.abc import Callable, Iterable
from typing import Any

from td_flax import errors, metrics, progress
from td_flax.compare import children as children_lib
from td_flax.compare import scores as scores_lib
from td_flax.compare.plan import Run
from td_flax.compare.settings import Scores
from td_flax.config import Config
from td_flax.workdir import Workdir

FOLDER = 'runs'


def finished(
  path: pathlib.Path,
  configs: dict[Run, Config],
  fingerprints: dict[str, str] | None = None,
) -> list[Run]:
  """The runs in `path` that are trained to their end.

  Args:
    path: of the comparison.
    configs: of its runs.
    fingerprints: of the tokenizer and of the dataset, where they are known.

  Raises:
    errors.CheckpointError: a folder there belongs to a run of another config,
      tokenizer or dataset.
  """
  done = []
  for run, config in configs.items():
    workdir = Workdir(path / FOLDER / run.folder)
    if workdir.config_json.exists():
      workdir.check(config, fingerprints)
      summary = workdir.summary()
      if summary and summary['step'] == run.steps:
        done.append(run)
  return done


def unscored(
  path: pathlib.Path, runs: Iterable[Run], wanted: Scores
) -> dict[Run, list[str]]:
  """The scores that runs in `path` lack, of those that lack any.

  Raises:
    errors.CheckpointError: there is a score that was made in another way.
  """
  lacking = {
    run: scores_lib.missing(path / FOLDER / run.folder, wanted) for run in runs
  }
  return {run: names for run, names in lacking.items() if names}


def read(path: pathlib.Path, run: Run, wanted: Scores) -> dict[str, Any]:
  """What a finished run has measured.

  Args:
    path: of the comparison.
    run: finished.
    wanted: the scores to look for.

  Returns:
    `arm`, `steps`, `seed`, `workdir`, `loss` (held out, at the end, nats; None
    if it is not finite), `own_loss` (the policy's own evaluation, None where it
    has none), `curve`, pairs of step and held-out loss where that is finite,
    and `scores`, those that are there.

  Raises:
    errors.CheckpointError: its metrics.jsonl cannot be read.
  """
  workdir = Workdir(path / FOLDER / run.folder)
  loss = workdir.summary()['last_eval_loss']
  try:
    rows = metrics.read(workdir.metrics_jsonl)
  except errors.CheckpointError as error:
    raise errors.CheckpointError(
      f'{error}; delete {workdir.path} to do this run again'
    ) from error
  rows = [x for x in rows if x.get('eval/loss') is not None]
  return {
    **run._asdict(),
    'workdir': str(workdir.path),
    'loss': loss if math.isfinite(loss) else None,
    'own_loss': rows[-1].get('eval/own_loss') if rows else None,
    'curve': [(x['step'], x['eval/loss']) for x in rows],
    'scores': scores_lib.figures(workdir.path, wanted),
  }


def execute(
  children: children_lib.Children,
  places: list[children_lib.Place],
  path: pathlib.Path,
  configs: dict[Run, Config],
  trained: list[Run],
  scored: Iterable[Run],
  wanted: Scores,
  report: Callable[[dict[Run, str]], Any],
) -> dict[Run, str]:
  """Does what is left, as many runs at once as there are places.

  Args:
    children: none alive.
    places: one for each run at work.
    path: of the comparison.
    configs: of the runs, in the order to do them.
    trained: of `finished`.
    scored: the runs that are scored too.
    wanted: on what.
    report: called with those that failed after every run that has ended.

  Returns:
    The runs that failed, and why in one line.

  Raises:
    errors.Stopped: a signal came; the runs under way have saved their state.
  """
  lacking = unscored(path, scored, wanted)
  waiting = [run for run in configs if run not in trained or run in lacking]
  free, taken, failed = list(places), {}, {}
  count = len(configs) - len(waiting)
  while waiting or children:
    while waiting and free and not children.stopping:
      run = waiting.pop(0)
      folder = path / FOLDER / run.folder
      folder.parent.mkdir(parents=True, exist_ok=True)
      taken[run] = free.pop(0)
      log = folder.with_suffix('.log')
      config = None if run in trained else configs[run]
      names = lacking.get(run, [])
      children.start(run, taken[run], log, do, config, folder, names, wanted)
      begins = 'scoring' if run in trained else 'begins'
      progress.write_line(f'{begins}: {run.folder}')
    if not children:
      break
    for ended in children.wait():
      free.append(taken.pop(ended.name))
      if not ended.error:
        count += 1
        found = read(path, ended.name, wanted)
        figures = {'held-out loss': found['loss']}
        figures |= {name: x['score'] for name, x in found['scores'].items()}
        told = [
          f'{name} {math.nan if x is None else x:.4f}'
          for name, x in figures.items()
        ]
        progress.write_line(
          f'{count} of {len(configs)} done: {ended.name.folder}, '
          f'{", ".join(told)}'
        )
      elif not children.stopping:
        failed[ended.name] = ended.error
        progress.write_line(f'failed: {ended.name.folder}: {ended.error}')
      else:
        continue
      try:
        report(failed)
      except Exception as error:  # any kind: runs do not end with a picture
        progress.write_line(
          f'warning: no report this time ({errors.named(error)})'
        )
  if children.stopping:
    raise errors.Stopped(
      f'stopped by a signal with {count} of {len(configs)} runs done; run '
      'the same command again to continue'
    )
  return failed


def do(
  config: Config | None, folder: pathlib.Path, names: list[str], wanted: Scores
) -> None:
  """Trains in this process, then scores.

  Args:
    config: of the run; None where it is trained already.
    folder: its workdir.
    names: the scores it lacks.
    wanted: how they are made.
  """
  from td_flax import compilation, preemption
  from td_flax import train as train_lib

  if names:
    signal.signal(signal.SIGTERM, preemption.stop)
  compilation.keep_programs()
  if config:
    train_lib.train(config, folder)
  scores_lib.add(folder, names, wanted)
