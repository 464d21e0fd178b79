"""What a comparison is going to do, for `--dry-run`."""

import pathlib

from td_flax.compare import children as children_lib
from td_flax.compare import plan, runs, timing
from td_flax.compare.settings import PLAIN, Settings
from td_flax.data import dataset, prepare


def text(
  settings: Settings,
  path: pathlib.Path,
  data_dir: pathlib.Path,
  jobs: int | None,
) -> str:
  """Arms, runs, what is done of them and how long the rest takes.

  Where no step times are measured yet, a step of plain BERT is timed briefly.

  Args:
    settings: the comparison.
    path: its folder; need not exist, and nothing is written.
    data_dir: of the packed dataset; need not exist.
    jobs: runs at once; None is one for each accelerator.

  Raises:
    errors.UserError: there are fewer devices than jobs, the step times are of
      another machine, or a signal came.
  """
  vocab_size = settings.base.data.vocab_size
  if prepare.is_complete(settings.base.data, data_dir):
    counts = dataset.read_manifest(data_dir)['tokenizer']
    vocab_size = counts['vocab_size']
  arms = plan.arms(settings, vocab_size)
  configs = {name: arm.config for name, arm in arms.items()}
  file = path / timing.FILE
  there = timing.read(file, configs)
  timed = there['arms']
  flops = {
    name: arm.flops_per_row * arm.config.train.batch_size
    for name, arm in arms.items()
  }
  flops = {name: x / flops[PLAIN] for name, x in flops.items()}
  is_timed = arms.keys() <= timed.keys()
  ratios = {
    name: timed[name]['ratio'] if name in timed else flops[name]
    for name in arms
  }
  lengths = plan.lengths(settings, ratios)
  planned = plan.configs(settings, arms, lengths, data_dir)
  trained = runs.finished(path, planned)
  scored = plan.scored(settings, lengths)
  unscored = runs.unscored(path, scored, settings.scores)
  done = [run for run in trained if run not in unscored]
  width = max(map(len, arms))
  lines = [f'{settings.name}: {len(planned)} runs, {len(done)} done', '']
  lines.append(f'{"arm":{width}}  FLOPs   time  changes')
  for name, arm in arms.items():
    time = f'{timed[name]["ratio"]:.3f}' if name in timed else '    ?'
    lines.append(f'{name:{width}}  {flops[name]:.3f}  {time}  {arm.change}')
  lines += ['', f'{"arm":{width}}  {"steps":>9}  seeds (* done)']
  seeds: dict[tuple[str, int], list[str]] = {}
  for run in planned:
    mark = '*' if run in done else ''
    seeds.setdefault(run[:2], []).append(f'{run.seed}{mark}')
  for (name, steps), marked in sorted(
    seeds.items(), key=lambda x: list(arms).index(x[0][0])
  ):
    lines.append(f'{name:{width}}  {steps:>9,}  {" ".join(marked)}')
  lines.append('')
  with children_lib.Children() as children:
    machine = children.call(None, children_lib.machine)
    jobs = jobs or machine.devices
    place, *_ = children_lib.places(machine, jobs)
    if PLAIN in timed:
      if len(trained) < len(planned):
        here = children.call(place, timing.machine, configs[PLAIN].parallel)
        timing.check(file, there, here)
      seconds = timed[PLAIN]['seconds_per_step']
    else:
      measured = children.call(
        place, timing.measure, {PLAIN: configs[PLAIN]}, vocab_size, 1
      )
      seconds = measured['arms'][PLAIN]['seconds_per_step']
  left = seconds * sum(
    run.steps * ratios[run.arm] for run in planned if run not in trained
  )
  # Jobs that share a GPU overlap little but compiling.
  at_once = min(jobs, machine.devices) if machine.platform == 'gpu' else jobs
  lines.append(
    f'expected: {left / 3600 / at_once:.2f} hours of training steps with '
    f'--jobs={jobs}'
  )
  if not is_timed:
    lines.append(
      'a guess: arms without a time go by their FLOPs, and so do their lengths '
      'at equal time'
    )
  if scored:
    there = len(scored) - len(unscored)
    lines.append(
      f'scores: {", ".join(settings.scores.names)}; {there} of {len(scored)} '
      'runs have them; the time they take is not in the expected hours'
    )
  return '\n'.join(lines)
