"""The model card: what was trained, how it went, how to use it."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from td_flax import __version__, stages
from td_flax.config import Config, ModelConfig
from td_flax.data.sentence_piece import SentencePiece
from td_flax.data.vocabulary import Tokenizer
from td_flax.dropping import policies
from td_flax.hub.architecture import Head
from td_flax.model.task_model import FIRST, SPAN, TOKENS
from td_flax.tasks import glue

_HEAD = """\
---
library_name: transformers
pipeline_tag: {tag}
tags:
- bert
- token-dropping
---
"""
_PIPELINE = """\
from transformers import pipeline

model = pipeline('{tag}', model='PATH_OF_THIS_FOLDER')
model({text!r})"""
_SPANS = """\
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained('PATH_OF_THIS_FOLDER')
model = AutoModelForQuestionAnswering.from_pretrained('PATH_OF_THIS_FOLDER')
output = model(**tokenizer(question, context, return_tensors='pt'))"""
# By what the head reads: the kind of model, and how it is used.
_USES = {
  None: ('fill-mask', _PIPELINE, 'The capital of France is [MASK].'),
  FIRST: ('text-classification', _PIPELINE, 'A film that is worth its time.'),
  TOKENS: ('token-classification', _PIPELINE, 'Ada Lovelace lived in London.'),
  SPAN: ('question-answering', _SPANS, ''),
}

_PAIR = 'The film is good.'


@dataclasses.dataclass(frozen=True)
class Run:
  """Where a checkpoint comes from.

  Attributes:
    config: of the run.
    step: of the checkpoint.
    eval_loss: there, in nats per predicted token; None if not evaluated.
    summary: `summary.json` of the finished run, None before that.
  """

  config: Config
  step: int
  eval_loss: float | None
  summary: dict[str, Any] | None


def write(
  run: Run,
  model: ModelConfig,
  tokenizer: Tokenizer,
  num_params: int,
  head: Head | None = None,
) -> str:
  """The card as Markdown; without `head` of a masked-LM model."""
  config = run.config
  tag, code, text = _USES[head.output.reads if head else None]
  example = {'text': text, 'text_pair': _PAIR} if _is_pair(config) else text
  size = f'{num_params / 1e6:,.1f}M parameters'
  if head:
    about = (
      f'A {_kind(model)} with {size}, fine-tuned with td_flax {__version__} on '
      f'the task `{config.task.name}`.'
    )
  else:
    about = (
      f'A {_kind(model)} masked language model with {size}, pretrained with '
      f'td_flax {__version__}. {_dropping(run)}'
    )
  sections = [
    f'# {config.name}',
    about,
    '## Use',
    f'```python\n{code.format(tag=tag, text=example)}\n```',
    _texts(config, tokenizer),
    '## Training',
    _table(_task_figures(run) if head else _figures(run)),
    '## Architecture',
    _table(
      {
        'layers': model.num_layers,
        'width': model.hidden_dim,
        'heads': model.num_heads,
        'MLP width': model.mlp_dim,
        'positions': model.max_positions,
        'LayerNorm': f'{model.norm}-LN, eps {model.norm_eps:g}',
        'activation': model.activation,
        'vocabulary': f'{tokenizer.vocab_size:,}',
        'tokenizer': _tokenizer(tokenizer),
      }
    ),
    '## Limits',
    'It repeats what its training text says, errors and prejudices included. '
    'Nothing but the figures above was measured when this card was written.',
  ]
  return _HEAD.format(tag=tag) + '\n' + '\n\n'.join(sections) + '\n'


def _is_pair(config: Config) -> bool:
  """Whether its examples are two texts that are classified together."""
  spec = glue.TASKS.get(config.task.name)
  return len(spec.texts) == 2 if spec else bool(config.task.pair)


def _kind(model: ModelConfig) -> str:
  return 'BERT' if model.norm == 'post' else 'BERT (pre-LN)'


def _reached(run: Run) -> list[stages.Stage]:
  """The stages that began before the checkpoint."""
  return [stage for stage in stages.of(run.config) if stage.start < run.step]


def _dropping(run: Run) -> str:
  """What the layers computed, a sentence for each stage."""
  sentences, drops = [], False
  for stage in _reached(run):
    when = 'While it was trained'
    if run.config.drop.stages:
      stop = min(stage.stop, run.step)
      when = f'In steps {stage.start + 1:,} to {stop:,}'
    computed = _computed(stage.config)
    drops |= bool(computed)
    computed = computed or 'all layers computed all tokens'
    sentences.append(f'{when}, {computed}.')
  if drops:
    sentences.append(
      'The result is an ordinary encoder: all layers see all tokens.'
    )
  return ' '.join(sentences)


def _computed(config: Config) -> str:
  """The layers that drop tokens and what they compute; '' without any."""
  plan = policies.load(config.drop.policy).plan(config)
  spans = [span for span in plan if span.keep is not None]
  said = []
  for (keep, clusters), same in itertools.groupby(
    spans, lambda span: (span.keep, span.clusters)
  ):
    layers = [layer for span in same for layer in span.layers]
    which = f'layer {layers[0]}'
    if len(layers) > 1:
      which = f'layers {layers[0]} to {layers[-1]} each'
    tokens = f'{keep} of {config.data.sequence_length} tokens of a row'
    others = f' and {clusters} that stood for others' if clusters else ''
    said.append(f'{which} computed {tokens}{others}')
  return f'{"; ".join(said)} (policy `{config.drop.policy}`)' if said else ''


def _texts(config: Config, tokenizer: Tokenizer) -> str:
  length = config.data.sequence_length
  upper, lower = tokenizer.encode_batch(['A', 'a'])
  folds = ' Case is folded.' if np.array_equal(upper, lower) else ''
  return (
    f'Trained on rows of {length} tokens that begin with `[CLS]` and end with '
    f'`[SEP]`.{folds}'
  )


def _tokenizer(tokenizer: Tokenizer) -> str:
  if isinstance(tokenizer, SentencePiece):
    return 'SentencePiece'
  return 'WordPiece'


def _figures(run: Run) -> dict[str, Any]:
  config = run.config
  tokens = run.step * config.train.batch_size * config.data.sequence_length
  rows = {}
  if config.train.init_from:
    rows['started from'] = f'`{config.train.init_from}`'
  rows |= {
    'text': f'`{config.data.files}`',
    'steps': f'{run.step:,} of {config.train.num_steps:,}',
    'rows per step': f'{config.train.batch_size:,}',
    'tokens seen': f'{tokens:,}',
    'masked': f'{_mask_rates(run)} of the tokens',
    **_recipe(config),
  }
  if run.eval_loss is not None:
    rows['held-out loss'] = (
      f'{run.eval_loss:.4f} nats per predicted token (full sequences, 15% '
      'masked)'
    )
  if run.summary and run.summary['step'] == run.step:
    ratio = run.summary['flops_ratio']
    rows['matmul FLOPs'] = f"{ratio:.3f} of plain BERT's"
    if 'tokens_per_second' in run.summary:
      rows['speed'] = (
        f'{run.summary["tokens_per_second"]:,.0f} tokens/s on '
        f'{run.summary["devices"]} {run.summary["platform"]} device(s)'
      )
  return rows


def _mask_rates(run: Run) -> str:
  rates = (f'{stage.config.train.mask_rate:.0%}' for stage in _reached(run))
  return ', then '.join(rate for rate, _ in itertools.groupby(rates))


def _task_figures(run: Run) -> dict[str, Any]:
  """The figures are those of the finished run's last step."""
  config = run.config
  rows = {
    'started from': f'`{config.train.init_from or "random weights"}`',
    'steps': f'{run.step:,} of {config.train.num_steps:,}',
    'rows per step': f'{config.train.batch_size:,}',
    **_recipe(config),
  }
  if run.summary and run.summary['step'] == run.step:
    rows['examples'] = f'{run.summary["num_examples"]:,}'
    figures = run.summary['figures'].items()
    rows |= {f'dev: {name}': f'{x:.4f}' for name, x in figures}
  return rows


def _recipe(config: Config) -> dict[str, Any]:
  optimizer = config.optimizer
  return {
    'optimizer': (
      f'{optimizer.name}, peak learning rate {optimizer.learning_rate:g}, '
      f'{optimizer.decay} decay, weight decay {optimizer.weight_decay:g}'
    ),
    'computed in': config.model.dtype,
    'seed': config.train.seed,
  }


def _table(rows: dict[str, Any]) -> str:
  lines = [f'| {name} | {value} |' for name, value in rows.items()]
  return '\n'.join(['| | |', '|---|---|', *lines])
