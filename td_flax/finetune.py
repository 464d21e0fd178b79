"""Fine-tunes a model on a task, with several seeds and a small grid.

    python -m td_flax.finetune --config=configs/glue.py:sst2 \
        --checkpoint=WORKDIR_OR_HF_DIR --workdir=runs/sst2

The model is a workdir of ours, one of its checkpoints/<step>, or a folder of
Hugging Face. Each run is a workdir under --workdir and resumes like any other;
results.json, results.md and predictions/ say what came out.
"""

import pathlib
import signal

from absl import flags as absl_flags

from td_flax import errors, flags, mirror, processes
from td_flax.config import Config


def define_flags() -> None:
  """The flags of this command."""
  flags.config_flag()
  absl_flags.DEFINE_string('checkpoint', '', 'The model to start from.')
  absl_flags.DEFINE_string(
    'step', 'latest', 'Of a workdir: latest, best (held-out loss) or a number.'
  )
  absl_flags.DEFINE_bool(
    'from_scratch',
    False,
    'Start at random, with the architecture and the tokenizer of --checkpoint: '
    'what is fine-tuning worth without pretraining?',
  )
  absl_flags.DEFINE_string(
    'workdir', None, "The runs' folder; runs/<config name> if not given."
  )


def main() -> None:
  """Does what the flags say.

  Raises:
    errors.UserError: the config, the model or the data cannot be used.
  """
  values = absl_flags.FLAGS
  config = flags.load()
  if not config.task.name:
    raise errors.ConfigError(
      "task.name='': missing; take configs/glue.py:sst2, for example"
    )
  if not values.checkpoint:
    raise errors.ConfigError('--checkpoint: missing; the model to start from')
  with (
    processes.joined(),
    mirror.workdir(values.workdir or f'runs/{config.name}') as path,
  ):
    _fine_tune(config, values, path)


def _fine_tune(
  config: Config, values: absl_flags.FlagValues, path: pathlib.Path
) -> None:
  import jax

  from td_flax import compilation, parallel, preemption, pretrained
  from td_flax import config as config_lib
  from td_flax.tasks import fine_tuning, load, sweep

  if jax.process_count() == 1:  # else jax.distributed has the signal
    signal.signal(signal.SIGTERM, preemption.stop)
  compilation.keep_programs()
  found = pretrained.find(values.checkpoint, '--checkpoint', values.step)
  start = '' if values.from_scratch else found.source
  config = config_lib.with_changes(config, {'train.init_from': start})
  config = fine_tuning.with_model(config, found)
  sweep.points(config)  # refuses a wrong grid before anything is read
  engine = parallel.make(config.parallel)
  task = load.load(config, found.tokenizer)
  content = sweep.run(config, path, task, found, engine)
  print(sweep.markdown(content))


if __name__ == '__main__':
  define_flags()
  flags.run(main)
