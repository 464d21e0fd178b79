"""Exports a checkpoint to a folder that `transformers` loads.

    python -m td_flax.tools.export --workdir=runs/mine --output=DIR \
        [--step=best]

Straight from a training checkpoint, without PyTorch; needs the extra `hf`.
Post-LN models become `bert`, pre-LN ones `megatron-bert`, which computes the
same; `AutoModelForMaskedLM`, `AutoTokenizer` and the fill-mask pipeline load
both. A fine-tuned model (one run of it, such as runs/sst2/runs/seed0) becomes
one for sequence or token classification or for question answering.
"""

import pathlib

from absl import flags as absl_flags

from td_flax import bucket, errors, flags


def define_flags() -> None:
  """The flags of this command."""
  absl_flags.DEFINE_string('workdir', '', 'The run, or one of its checkpoints.')
  absl_flags.DEFINE_string(
    'step', 'latest', 'latest, best (by held-out loss) or a number.'
  )
  absl_flags.DEFINE_string('output', '', 'A new folder.')


def main() -> None:
  """Does what the flags say.

  Raises:
    errors.UserError: the flags, the run or the folder cannot be used.
  """
  values = absl_flags.FLAGS
  for name in ('workdir', 'output'):
    if not values[name].value:
      raise errors.ConfigError(f'--{name}: missing')
  bucket.require_local('--output', values.output)
  from td_flax import pretrained, saved
  from td_flax.hub import architecture, card, export
  from td_flax.model import bert, task_model

  output = pathlib.Path(values.output)
  export.check_folder(output)
  found = pretrained.find(
    values.workdir, '--workdir', values.step, may_be_tuned=True
  )
  if not isinstance(found, pretrained.OfRun):
    raise errors.ConfigError(
      f'{found.where}: is a folder of Hugging Face already'
    )
  tokenizer = found.tokenizer
  summary = found.workdir.summary()
  if found.config.task.name:
    if not (summary and 'output' in summary):
      raise errors.CheckpointError(
        f'{found.workdir.summary_json}: missing or of another version; a '
        'fine-tuned model is exported when its run is finished'
      )
    said = task_model.Output(**summary['output'])
    head = architecture.Head(said, tuple(summary['labels']))
    abstract = task_model.abstract_params(
      found.model, said, tokenizer.vocab_size, tokenizer.special
    )
  else:
    head = None
    abstract = bert.abstract_params(found.model, tokenizer.vocab_size)
  run = card.Run(
    config=found.config,
    step=found.step,
    eval_loss=found.eval_loss,
    summary=summary,
  )
  params = saved.load_params(found.checkpoint, abstract)
  done = export.export(output, found.model, params, tokenizer, run, head)
  print(f'{values.output}: step {found.step:,}, {done.num_params:,} parameters')
  print(
    f'  tokenizer  ids differ on {len(done.differing)} of {done.num_lines:,} '
    'lines of prose'
  )
  for line, ours, theirs in done.differing:
    print(f'    {line!r}: {ours} here, {theirs} there')


if __name__ == '__main__':
  define_flags()
  flags.run(main)
