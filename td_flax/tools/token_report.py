r"""Shows which tokens a pretraining run drops, on one HTML page.

    python -m td_flax.tools.token_report --workdir=runs/mine [--text=FILE]
    python -m td_flax.tools.token_report --workdir=runs/mine \
        --conllu=en_ewt-ud-dev.conllu [--against=runs/plain]

Writes index.html, which holds everything, report.json and, with the extra
`plot`, the plots as PNG: the importance table (extremes, distribution, drift
over training), the share of tokens kept by frequency, by position and, for a
CoNLL-U file, by word class, and sentences with what is kept and dropped of
them. They lie in --output, or in the run's own folder `token_report`. The
tokens are those of the run's held-out rows, of --text or of --conllu. For a
CoNLL-U file also how much of a word's class each layer's states tell (a linear
probe), with and without dropping, and in the run --against.
"""

import pathlib
from typing import Any

from absl import flags as absl_flags

from td_flax import artifacts, bucket, errors, flags


def define_flags() -> None:
  """The flags of this command."""
  absl_flags.DEFINE_string('workdir', '', 'The run.')
  absl_flags.DEFINE_string(
    'step', 'latest', 'latest, best (held-out loss) or a number.'
  )
  absl_flags.DEFINE_string('text', '', 'Text in the form of data.files.')
  absl_flags.DEFINE_string('text_field', 'text', 'Of its JSON lines.')
  absl_flags.DEFINE_string('conllu', '', 'A CoNLL-U file, for word classes.')
  absl_flags.DEFINE_string(
    'against', '', 'A run of the same tokenizer whose layers are probed too.'
  )
  absl_flags.DEFINE_integer(
    'num_rows', 64, 'Rows that are looked at, from the first.', 1
  )
  absl_flags.DEFINE_string(
    'output', '', "The report's folder; empty: token_report in the run's."
  )


def main() -> None:
  """Does what the flags say.

  Raises:
    errors.UserError: the flags, the run or the text cannot be used.
  """
  values = absl_flags.FLAGS
  if not values.workdir:
    raise errors.ConfigError('--workdir: missing')
  if bucket.is_url(values.workdir) and not values.output:
    raise errors.ConfigError(
      '--output: missing; must name a local folder where --workdir is on gs://'
    )
  bucket.require_local('--output', values.output)
  if values.text and values.conllu:
    raise errors.ConfigError('--conllu: must be empty where --text is given')
  if values.against and not values.conllu:
    raise errors.ConfigError('--against: needs --conllu')
  import numpy as np

  from td_flax import saved
  from td_flax.data import dataset
  from td_flax.dropping import policies
  from td_flax.insight import kept as kept_lib
  from td_flax.insight import page, probe, table, words
  from td_flax.tasks import heldout

  found = kept_lib.find(values.workdir, '--workdir', values.step)
  output = pathlib.Path(values.output or found.workdir.path / 'token_report')
  artifacts.require_writable('--output', output)
  config = kept_lib.dropping(found.config, found.where)
  data = found.config.data.dir or str(found.workdir.data)
  packed = dataset.load(
    bucket.dataset(data) if bucket.is_url(data) else pathlib.Path(data)
  )
  if packed.fingerprint != found.workdir.read()[1]['dataset']:
    raise errors.DataError(
      f'{data}: is not the dataset that {found.where} was trained on; put that '
      'one back'
    )
  tokenizer, length = found.tokenizer, config.data.sequence_length
  tagged, against = None, None
  if values.conllu:
    tagged = words.read(values.conllu, tokenizer, length).first(values.num_rows)
    rows = tagged.rows
    if values.against:
      against = kept_lib.find(values.against, '--against')
  elif values.text:
    rows = heldout.rows_of(found, values.text, values.text_field, length)
  else:
    rows = packed.eval[np.arange(min(values.num_rows, len(packed.eval)))]
  rows = rows[: values.num_rows]
  importance = saved.load_importance(found.checkpoint)
  kept = kept_lib.of_rows(found, config, importance, rows)
  content: dict[str, Any] = {
    'workdir': values.workdir,
    'step': found.step,
    'policy': config.drop.policy,
    'about': (
      f'Step {found.step:,}, drop.policy={config.drop.policy}, '
      f'{config.num_kept} of {length} tokens in layers '
      f'{config.drop.first_layer} to {config.drop.last_layer} of '
      f'{config.model.num_layers}; {len(rows)} rows of '
      f'{values.conllu or values.text or "the held-out text"}.'
    ),
    'extremes': {},
    'histogram': {},
    'drift': table.drift(found.workdir.metrics_jsonl),
    'frequency': kept_lib.by_frequency(kept, packed.unigram_counts),
    'position': kept_lib.by_position(kept),
  }
  if tagged:
    content['classes'] = kept_lib.by_group(
      kept, tagged.token_classes, tagged.names
    )
    content['against'] = values.against
    content['probe'] = probe.content(found, config, tagged, against)
  policy = policies.load(config.drop.policy)(
    config, tokenizer.vocab_size, tokenizer.special
  )
  if policy.has_table:
    known = policy.known(importance, packed.unigram_counts)
    content['extremes'] = table.extremes(
      importance, known, packed.unigram_counts, tokenizer
    )
    content['histogram'] = table.histogram(importance, known)
  page.write(
    output,
    content,
    page.sentences(kept, tokenizer, importance if policy.has_table else None),
  )
  print(f'wrote {output / "index.html"}')


if __name__ == '__main__':
  define_flags()
  flags.run(main)
