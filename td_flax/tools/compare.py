"""Compares ways of training one model: runs, and a report on them.

    python -m td_flax.tools.compare --config=configs/compare/smoke.py \
        --workdir=runs/smoke [--jobs=N] [--dry-run] [--config.KEY=VALUE ...]

Measures every arm's step time, trains every arm at every length with every
seed, scores the final checkpoints where the file says so, and writes
report.json, report.md and plots, anew after every run. It goes on after an
interruption. What the arms, lengths and figures are: see `docs/comparing.md`.

Child processes import this module again: nothing heavy is imported at its top.
"""

import pathlib
import sys
from typing import Any

from absl import flags as absl_flags

from td_flax import bucket, errors, flags
from td_flax.compare import machine as machine_lib
from td_flax.compare import settings as settings_lib
from td_flax.compare.settings import PLAIN, Settings


def define_flags() -> None:
  """The flags of this command."""
  flags.config_flag(settings_lib)
  absl_flags.DEFINE_string('workdir', None, "The comparison's folder.")
  absl_flags.DEFINE_integer(
    'jobs',
    None,
    'Runs at once, each on a device or on a share of the cores; by default one '
    'for each accelerator, 1 on a CPU. More of them share the GPUs.',
    lower_bound=1,
  )
  absl_flags.DEFINE_bool(
    'dry-run', False, 'Show the plan and what is done of it; write nothing.'
  )


def main() -> None:
  """Does what the flags say.

  Raises:
    errors.UserError: the flags, the config or the data cannot be used, or runs
      failed.
  """
  settings = flags.load(settings_lib)
  values = absl_flags.FLAGS
  if not values.workdir:
    raise errors.ConfigError('--workdir: missing')
  bucket.require_local('--workdir', values.workdir)
  bucket.require_local('base.data.dir', settings.base.data.dir)
  path = pathlib.Path(values.workdir).absolute()
  data_dir = pathlib.Path(settings.base.data.dir or path / 'data').absolute()
  if settings.scores.names:
    from td_flax.compare import scores

    scores.check(settings.scores)
  if values['dry-run'].value:
    from td_flax.compare import overview

    print(overview.text(settings, path, data_dir, values.jobs))
    return
  from td_flax.workdir import Workdir

  with Workdir(path).lock():  # one command at a time
    _compare(settings, path, data_dir, values.jobs)


def _compare(
  settings: Settings,
  path: pathlib.Path,
  data_dir: pathlib.Path,
  jobs: int | None,
) -> None:
  from td_flax import evaluate, progress
  from td_flax.compare import children as children_lib
  from td_flax.compare import figures, plan, report, runs, scores, statistics
  from td_flax.compare import timing as timing_lib
  from td_flax.data import prepare

  packed = prepare.prepare(settings.base.data, data_dir)
  vocab_size = packed.tokenizer.vocab_size
  context_free = statistics.context_free(
    packed.unigram_counts,
    evaluate.held_out(packed.eval, settings.base.eval.num_rows),
    packed.tokenizer.special.as_tuple(),
  )
  arms = plan.arms(settings, vocab_size)
  configs = {name: arm.config for name, arm in arms.items()}
  scores.check_lengths(
    settings.scores,
    packed.tokenizer,
    min(config.model.max_positions for config in configs.values()),
  )
  file = path / timing_lib.FILE
  timing = timing_lib.read(file, configs)
  with children_lib.Children() as children:
    machine = children.call(None, children_lib.machine)
    places = children_lib.places(machine, jobs or machine.devices)
    if missing := configs.keys() - timing['arms'].keys():
      progress.write_line(f'timing a step of {", ".join(sorted(missing))}')
      wanted = {x: configs[x] for x in configs if x in {PLAIN, *missing}}
      measured = [
        children.call(places[0], timing_lib.measure, wanted, vocab_size, rounds)
        for rounds in timing_lib.split(settings.timing_rounds)
      ]
      timing = timing_lib.add(file, timing, timing_lib.combine(measured))
    ratios = {name: timing['arms'][name]['ratio'] for name in arms}
    lengths = plan.lengths(settings, ratios)
    planned = plan.configs(settings, arms, lengths, data_dir)
    fingerprints = {
      'tokenizer': packed.tokenizer.fingerprint,
      'dataset': packed.fingerprint,
    }
    trained = runs.finished(path, planned, fingerprints)
    if not missing and len(trained) < len(planned):
      parallel = settings.base.parallel
      here = children.call(places[0], timing_lib.machine, parallel)
      timing_lib.check(file, timing, here)
    command = ['python', '-m', 'td_flax.tools.compare', *sys.argv[1:]]
    about = machine_lib.facts(command)
    scored = plan.scored(settings, lengths)

    def write_report(failed: dict[plan.Run, str]) -> dict[str, Any]:
      found = figures.content(
        settings.name,
        settings.reference,
        arms,
        lengths,
        timing,
        [
          runs.read(path, run, settings.scores)
          for run in runs.finished(path, planned)
        ],
        planned=len(planned),
        unscored=len(runs.unscored(path, scored, settings.scores)),
        failed=failed,
        context_free=context_free,
      )
      report.write(path, found, about)
      return found

    failed = runs.execute(
      children,
      places,
      path,
      planned,
      trained,
      scored,
      settings.scores,
      write_report,
    )
  print(report.markdown(write_report(failed)))
  if failed:
    raise errors.UserError(
      f'{len(failed)} of {len(planned)} runs failed: '
      f'{", ".join(run.folder for run in failed)}; the same command tries them '
      'again'
    )


if __name__ == '__main__':
  define_flags()
  flags.run(main, settings_lib)
