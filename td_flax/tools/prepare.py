"""Prepares a packed dataset, or a TFDS dataset that one can be made of.

The rows of a config, where `main` looks for them (several processes of `main`
never make them):

    python -m td_flax.tools.prepare --config=configs/bert_base_td.py \
        [--config.KEY=VALUE ...] [--workdir=DIR]

A TFDS dataset that is read without TensorFlow afterwards; a tfrecord folder is
converted (and kept), a missing one is downloaded and generated:

    python -m td_flax.tools.prepare --tfds=lm1b [--tfds_dir=DIR]
"""

import pathlib

from absl import flags as absl_flags
from absl import logging

from td_flax import bucket, errors, flags


def define_flags() -> None:
  """The flags of this command."""
  flags.config_flag()
  absl_flags.DEFINE_string(
    'workdir', '', 'Holds the dataset in data/; default runs/<config name>.'
  )
  absl_flags.DEFINE_string(
    'tfds', '', 'NAME[/CONFIG][:VERSION] to generate or convert.'
  )
  absl_flags.DEFINE_string(
    'tfds_dir', '', "Where TFDS datasets lie; default TFDS's own."
  )


def main() -> None:
  """Does what the flags say.

  Raises:
    errors.UserError: the flags, the config or the data cannot be used.
  """
  values = absl_flags.FLAGS
  if not values.tfds:
    if values.tfds_dir:
      raise errors.ConfigError(
        f'--tfds_dir={values.tfds_dir}: goes with --tfds; with --config it is '
        '--config.data.tfds_dir'
      )
    _prepare(values.workdir)
    return
  for name in ('config', 'workdir'):
    if values[name].present:
      raise errors.ConfigError(f'--{name}: does not go with --tfds')
  from td_flax.data import tfds_generate

  logging.set_verbosity(logging.WARNING)  # TFDS tells all that it tries
  folder = tfds_generate.make_readable(values.tfds, values.tfds_dir)
  print(f'tfds:{values.tfds}: ready in {folder}')


def _prepare(workdir: str) -> None:
  config = flags.load_pretraining()
  workdir = workdir or f'runs/{config.name}'
  bucket.require_local('data.dir', config.data.dir)
  if not config.data.dir:
    bucket.require_local('--workdir', workdir)
  directory = pathlib.Path(config.data.dir or pathlib.Path(workdir, 'data'))
  from td_flax.data import prepare

  was_there = prepare.is_complete(config.data, directory)
  packed = prepare.prepare(config.data, directory)
  state = 'was there already' if was_there else 'prepared'
  print(f'{directory}: {packed.fingerprint[:12]}, {state}')
  print(
    f'  tokenizer  {packed.tokenizer.vocab_size:,} ids, '
    f'{packed.tokenizer.fingerprint[:12]}'
  )
  for split in ('train', 'eval'):
    figures = packed.manifest['splits'][split]
    print(
      f'  {split:9}  {figures["rows"]:,} rows of {config.data.sequence_length} '
      f'ids: {figures["documents"]:,} documents, {figures["tokens"]:,} tokens, '
      f'{figures["text_bytes"] / 1e6:,.1f} MB of text'
    )


if __name__ == '__main__':
  define_flags()
  flags.run(main)
