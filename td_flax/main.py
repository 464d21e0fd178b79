"""The command: `python -m td_flax.main --config=FILE [--workdir=DIR]`.

Worker processes of the data preparation import this module again, so nothing
heavy is imported at its top.
"""

from absl import flags as absl_flags

from td_flax import flags, mirror, processes

_WORKDIR = absl_flags.DEFINE_string(
  'workdir',
  None,
  "The run's folder, local or gs://; runs/<config name> if not given.",
)


def main() -> None:
  """Checks the config, joins the other processes, trains."""
  config = flags.load_pretraining()
  place = _WORKDIR.value or f'runs/{config.name}'
  with processes.joined(), mirror.workdir(place) as workdir:
    from td_flax import compilation, train

    compilation.keep_programs()
    train.train(config, workdir, place, flags.given())


if __name__ == '__main__':
  flags.config_flag()
  flags.run(main)
