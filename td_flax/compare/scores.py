"""Scores of a run's final checkpoint: BLiMP, and fine-tuning on GLUE.

They lie in the run's workdir, `scores/scores.json`, one after another, so that
they go where the run goes; beside it a folder for each task's fine-tuning.
"""

import functools
import json
import math
import pathlib
import shutil
from typing import Any

from td_flax import artifacts, errors
from td_flax.compare.settings import BLIMP, Scores
from td_flax.data.vocabulary import Tokenizer
from td_flax.tasks import glue

FOLDER, FILE = 'scores', 'scores.json'


def check(wanted: Scores) -> None:
  """Refuses folders without the data, before anything is trained.

  Raises:
    errors.UserError: names the key and what is missing.
  """
  from td_flax.tasks import blimp, glue_suite

  if wanted.tasks:
    glue_suite.tasks_in(wanted.glue_dir, wanted.tasks, 'glue_dir')
  if BLIMP in wanted.names:
    blimp.read(wanted.blimp_dir, wanted.blimp_limit, 'blimp_dir')


def check_lengths(wanted: Scores, tokenizer: Tokenizer, longest: int) -> None:
  """Refuses BLiMP sentences with more tokens than the models have positions.

  Args:
    wanted: the scores.
    tokenizer: of all arms.
    longest: that all arms take.

  Raises:
    errors.DataError: names the sentence.
  """
  if BLIMP not in wanted.names:
    return
  from td_flax.tasks import blimp

  paradigms = blimp.read(wanted.blimp_dir, wanted.blimp_limit, 'blimp_dir')
  blimp.check_lengths(paradigms, tokenizer, longest)


def missing(workdir: pathlib.Path, wanted: Scores) -> list[str]:
  """The scores that a run lacks.

  Raises:
    errors.CheckpointError: one was made in another way, or cannot be read.
  """
  there = _read(workdir, wanted)
  return [name for name in wanted.names if name not in there]


def figures(workdir: pathlib.Path, wanted: Scores) -> dict[str, Any]:
  """`metric` and `score` of those that are there.

  A score is between 0 or -1 and 1; None where it is not finite.
  """
  there = _read(workdir, wanted)
  return {
    name: {
      'metric': there[name]['metric'],
      'score': score if math.isfinite(score) else None,
    }
    for name in wanted.names
    if name in there
    for score in [there[name]['score']]
  }


def _read(workdir: pathlib.Path, wanted: Scores) -> dict[str, Any]:
  file = workdir / FOLDER / FILE
  try:
    there = json.loads(file.read_bytes())
    for name in there.keys() & set(wanted.names):
      made, ours = there[name]['made_with'], made_with(name, wanted)
      if made != ours:
        differences = errors.differences(
          (key, made.get(key), x) for key, x in ours.items()
        )
        raise errors.CheckpointError(
          f'{file}: {name} was made in another way: {differences}; use another '
          f'--workdir, or delete {file.parent} to score the run anew'
        )
  except FileNotFoundError:
    return {}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.CheckpointError(
      f'{file}: damaged ({type(error).__name__}); delete {file.parent} to '
      'score the run anew'
    ) from error
  return there


def made_with(name: str, wanted: Scores) -> dict[str, Any]:
  """What a score depends on, beside the run."""
  if name == BLIMP:
    data = _digest(wanted.blimp_dir, '*.jsonl')
    return {'data': data, 'blimp_limit': wanted.blimp_limit}
  return {
    'data': _digest(wanted.glue_dir, f'{glue.TASKS[name].folder}/*.tsv'),
    'score_seeds': wanted.seeds,
    'score_epochs': wanted.epochs,
    'score_learning_rate': wanted.learning_rate,
  }


@functools.cache  # every run asks
def _digest(folder: str, files: str) -> str:
  paths = sorted(pathlib.Path(folder).glob(files))
  digests = {path.name: artifacts.file_sha256(path) for path in paths}
  return artifacts.fingerprint(digests)


def add(workdir: pathlib.Path, names: list[str], wanted: Scores) -> None:
  """Scores a run; each score is written as soon as it is there.

  The model runs at full sequences, whatever it was trained with.

  Args:
    workdir: the run's, with its final checkpoint.
    names: the scores that it lacks.
    wanted: how they are made.

  Raises:
    errors.UserError: the data or the checkpoint cannot be used.
  """
  if not names:
    return
  from td_flax import config, parallel, pretrained

  model = pretrained.find(str(workdir), 'workdir')
  engine = parallel.make(config.ParallelConfig())
  folder = workdir / FOLDER
  folder.mkdir(exist_ok=True)
  there = _read(workdir, wanted)
  for name in names:
    if name == BLIMP:
      found = _blimp(model, engine, wanted)
    else:
      found = _glue(model, engine, folder, name, wanted)
    there[name] = {'made_with': made_with(name, wanted), **found}
    artifacts.write_json(folder / FILE, there)


def _blimp(model: Any, engine: Any, wanted: Scores) -> dict[str, Any]:
  from td_flax.tasks import blimp, scorer

  paradigms = blimp.read(wanted.blimp_dir, wanted.blimp_limit, 'blimp_dir')
  found = blimp.evaluate(scorer.Scorer(model, engine), paradigms)
  return {'metric': 'accuracy', 'score': found['overall'], 'figures': found}


def _glue(
  model: Any, engine: Any, folder: pathlib.Path, name: str, wanted: Scores
) -> dict[str, Any]:
  from td_flax.tasks import glue_suite
  from td_flax.workdir import Workdir

  found = glue_suite.evaluate(
    model,
    engine,
    folder,
    wanted.glue_dir,
    [name],
    seeds=wanted.seeds,
    epochs=wanted.epochs,
    learning_rate=wanted.learning_rate,
  )['tasks'][name]
  # Finished fine-tuning is only read again, and many runs have many of them.
  for file in (folder / name).glob('*/*/summary.json'):
    shutil.rmtree(Workdir(file.parent).checkpoints, ignore_errors=True)
  return {
    'metric': found['metric'],
    'score': found['mean'],
    'figures': found['figures'],
  }
