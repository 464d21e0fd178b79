"""Measures pretrained models as they are, one or several side by side.

    python -m td_flax.tools.evaluate --workdir=runs/mine,runs/mine_plain \
        --suite=glue,blimp,heldout --glue_dir=$DATA/glue \
        --blimp_dir=$DATA/blimp --text='held_out/*.txt' --output=report

Every entry of --workdir is a workdir, one of its checkpoints/<step>, or a
folder of Hugging Face. Writes report.json and report.md, anew after each suite
of each model, in the end report.png, and prints the Markdown. BLiMP's folder is
`data` of github.com/alexwarstadt/blimp, GLUE's the one of its own download;
fine-tuning on GLUE leaves its runs in OUTPUT/glue/MODEL/TASK and goes on there
after an interruption.
"""

import math
import pathlib
import sys
from collections.abc import Iterator

from absl import flags as absl_flags

from td_flax import artifacts, bucket, errors, flags
from td_flax.compare import machine
from td_flax.tasks import recipe

_SUITES = ('glue', 'blimp', 'heldout')


def define_flags() -> None:
  """The flags of this command."""
  absl_flags.DEFINE_list('workdir', [], 'The models.')
  absl_flags.DEFINE_string(
    'step', 'latest', 'Of workdirs: latest, best (held-out loss) or a number.'
  )
  absl_flags.DEFINE_list('suite', list(_SUITES[1:]), 'What is measured.')
  absl_flags.DEFINE_string('blimp_dir', '', 'For blimp: its .jsonl files.')
  absl_flags.DEFINE_integer(
    'limit', 0, 'For blimp: pairs per paradigm, from the first; 0 is all.', 0
  )
  absl_flags.DEFINE_string(
    'text', '', 'For heldout: text in the form of data.files.'
  )
  absl_flags.DEFINE_string('text_field', 'text', 'Of its JSON lines.')
  absl_flags.DEFINE_string('glue_dir', '', 'For glue: the folder of its tasks.')
  absl_flags.DEFINE_list(
    'glue_tasks', [], 'For glue: all that are there if empty.'
  )
  absl_flags.DEFINE_integer('seeds', 3, 'For glue: runs per task.', 1)
  absl_flags.DEFINE_float('epochs', 3.0, 'For glue: of each run.')
  absl_flags.DEFINE_float(
    'learning_rate',
    recipe.LEARNING_RATE,
    'For glue: of each run; small models want a higher one.',
  )
  absl_flags.DEFINE_string('output', '', "The report's folder.")


def main() -> None:
  """Does what the flags say.

  Raises:
    errors.UserError: the flags, a model or the data cannot be used.
  """
  values = absl_flags.FLAGS
  _check(values)
  from td_flax import compilation, config, parallel, pretrained
  from td_flax.tasks import blimp, glue_suite, heldout, report, scorer

  compilation.keep_programs()
  # Models, text and the output are refused before anything is computed; the
  # files of GLUE are only looked for: each task reads its own.
  found = {
    name: pretrained.find(path, '--workdir', values.step)
    for name, path in _names(values.workdir).items()
  }
  if set(values.suite) - {'glue'}:
    for model in found.values():
      model.check_head()
  tasks = []
  if 'glue' in values.suite:
    tasks = glue_suite.tasks_in(values.glue_dir, values.glue_tasks)
  paradigms = None
  if 'blimp' in values.suite:
    paradigms = blimp.read(values.blimp_dir, values.limit)
    for model in found.values():
      blimp.check_lengths(paradigms, model.tokenizer, model.model.max_positions)
  rows = {}
  if 'heldout' in values.suite:
    rows = {
      name: heldout.rows_of(model, values.text, values.text_field)
      for name, model in found.items()
    }
  engine = parallel.make(config.ParallelConfig())
  output = pathlib.Path(values.output)
  output.mkdir(parents=True, exist_ok=True)
  about = {
    **machine.facts(['python', '-m', 'td_flax.tools.evaluate', *sys.argv[1:]]),
    'platform': engine.platform,
  }

  def measured(name: str, model: pretrained.Pretrained) -> Iterator[tuple]:
    """Suites and their figures, as they come."""
    if rows:
      yield 'heldout', heldout.evaluate(model, engine, rows[name])
    if paradigms is not None:
      yield 'blimp', blimp.evaluate(scorer.Scorer(model, engine), paradigms)
    if tasks:
      yield (
        'glue',
        glue_suite.evaluate(
          model,
          engine,
          output / 'glue' / name.replace('/', '_'),
          values.glue_dir,
          tasks,
          seeds=values.seeds,
          epochs=values.epochs,
          learning_rate=values.learning_rate,
        ),
      )

  results: report.Results = {name: {} for name in found}
  for name, model in found.items():
    for suite, figures in measured(name, model):
      results[name][suite] = figures
      text = report.write(output, results, about)
  report.draw(output, results)
  print(text)


def _check(values: absl_flags.FlagValues) -> None:
  for name in ('workdir', 'suite', 'output'):
    if not values[name].value:
      raise errors.ConfigError(f'--{name}: missing')
  bucket.require_local('--output', values.output)
  artifacts.require_writable('--output', values.output)
  for name in ('learning_rate', 'epochs'):
    if not 0 < values[name].value < math.inf:
      raise errors.ConfigError(
        f'--{name}={values[name].value}: must be a finite number above 0'
      )
  for suite in values.suite:
    if suite not in _SUITES:
      raise errors.ConfigError(
        f'--suite={suite}: must be one of {", ".join(_SUITES)}'
      )
  needed = ('glue', 'glue_dir'), ('blimp', 'blimp_dir'), ('heldout', 'text')
  for suite, name in needed:
    if suite in values.suite and not values[name].value:
      raise errors.ConfigError(f'--{name}: missing; --suite={suite} needs it')


def _names(paths: list[str]) -> dict[str, str]:
  """A short name for each path: its last part, where these differ."""
  short = {pathlib.Path(path).name: path for path in paths}
  return short if len(short) == len(paths) else {path: path for path in paths}


if __name__ == '__main__':
  define_flags()
  flags.run(main)
