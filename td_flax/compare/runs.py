"""The runs of a comparison: which are finished, and doing the others."""

import contextlib
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

from td_flax import errors, progress
from td_flax.compare import children as children_lib
from td_flax.compare.plan import Run
from td_flax.config import Config
from td_flax.workdir import Workdir

FOLDER = 'runs'


def finished(path: pathlib.Path, configs: dict[Run, Config]) -> list[Run]:
  """The runs in `path` that need nothing more.

  Raises:
    errors.CheckpointError: a folder there belongs to a run of another config.
  """
  done = []
  for run, config in configs.items():
    workdir = Workdir(path / FOLDER / run.folder)
    if workdir.config_json.exists():
      workdir.check(config)
      if _steps(workdir) == run.steps:
        done.append(run)
  return done


def _steps(workdir: Workdir) -> int | None:
  """Steps of a run that has ended, None of one that has not."""
  with contextlib.suppress(FileNotFoundError):
    return json.loads(workdir.summary_json.read_bytes())['step']
  return None


def read(path: pathlib.Path, run: Run) -> dict[str, Any]:
  """What a finished run has measured.

  Args:
    path: of the comparison.
    run: finished.

  Returns:
    `arm`, `steps`, `seed`, `workdir`, `loss` (held out, at the end, nats; None
    if it is not finite), `own_loss` (the policy's own evaluation, None where it
    has none) and `curve`, pairs of step and held-out loss.
  """
  workdir = Workdir(path / FOLDER / run.folder)
  loss = json.loads(workdir.summary_json.read_bytes())['last_eval_loss']
  lines = workdir.metrics_jsonl.read_text().splitlines()
  rows = [x for x in map(json.loads, lines) if x.get('eval/loss') is not None]
  return {
    **run._asdict(),
    'workdir': str(workdir.path),
    'loss': loss if math.isfinite(loss) else None,
    'own_loss': rows[-1].get('eval/own_loss') if rows else None,
    'curve': [(x['step'], x['eval/loss']) for x in rows],
  }


def execute(
  children: children_lib.Children,
  places: list[children_lib.Place],
  path: pathlib.Path,
  configs: dict[Run, Config],
  report: Callable[[], None],
) -> dict[Run, str]:
  """Does what is not finished, as many runs at once as there are places.

  Args:
    children: none alive.
    places: one for each run at work.
    path: of the comparison.
    configs: of the runs, in the order to do them.
    report: called after every run that has finished.

  Returns:
    The runs that failed, and why in one line.

  Raises:
    errors.Stopped: a signal came; the runs under way have saved their state.
  """
  done = finished(path, configs)
  waiting = [run for run in configs if run not in done]
  free, taken, failed = list(places), {}, {}
  count = len(done)
  while waiting or children:
    while waiting and free and not children.stopping:
      run = waiting.pop(0)
      folder = path / FOLDER / run.folder
      folder.parent.mkdir(parents=True, exist_ok=True)
      taken[run] = free.pop(0)
      log = folder.with_suffix('.log')
      children.start(run, taken[run], log, train, configs[run], folder)
      progress.write_line(f'begins: {run.folder}')
    if not children:
      break
    for ended in children.wait():
      free.append(taken.pop(ended.name))
      if not ended.error:
        count += 1
        progress.write_line(
          f'{count} of {len(configs)} done: {ended.name.folder}, held-out '
          f'loss {ended.result:.4f}'
        )
        report()
      elif not children.stopping:
        failed[ended.name] = ended.error
        progress.write_line(f'failed: {ended.name.folder}: {ended.error}')
  if children.stopping:
    raise errors.Stopped(
      f'stopped by a signal with {count} of {len(configs)} runs done; the same '
      'command goes on'
    )
  return failed


def train(config: Config, folder: pathlib.Path) -> float:
  """Trains in this process; returns the last held-out loss."""
  from td_flax import compilation
  from td_flax import train as train_lib

  compilation.keep_programs()
  return train_lib.train(config, folder)['last_eval_loss']
