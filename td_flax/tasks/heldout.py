"""The masked-LM loss of a model on any text: full rows, fixed 15% mask.

Losses per token compare between models of one tokenizer only.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt16

from td_flax import errors, parallel, step
from td_flax import evaluate as evaluation
from td_flax.config import Config
from td_flax.data import corpora
from td_flax.data.packing import Packer
from td_flax.pretrained import Pretrained

_TOKENS_AT_ONCE = 16_384  # per device
_MAX_LENGTH = 512


def evaluate(
  found: Pretrained, engine: parallel.Engine, rows: UInt16[np.ndarray, 'R N']
) -> dict[str, Any]:
  """The loss on a text.

  Args:
    found: the model; it computes in float32, with the attention that fits.
    engine: maps the rows over devices.
    rows: the text, from `rows_of`.

  Returns:
    `loss` in nats per predicted token, `perplexity` of that, `accuracy`, the
    number of `rows`, and what figures depend on beside the model: `row_length`
    and the fingerprint of the `tokenizer`.
  """
  length = rows.shape[1]
  tokenizer = found.tokenizer
  default = Config()
  config = dataclasses.replace(
    default,
    model=dataclasses.replace(found.model, dtype='float32', attention='auto'),
    data=dataclasses.replace(default.data, sequence_length=length),
    eval=dataclasses.replace(
      default.eval,
      num_rows=len(rows),
      batch_size=max(1, _TOKENS_AT_ONCE // length) * engine.num_devices,
    ),
  )
  steps = step.Steps(config, tokenizer.vocab_size, tokenizer.special, engine)
  table = np.zeros(tokenizer.vocab_size, np.float32)
  fresh = jax.device_get(steps.init(table)).params
  params = engine.place(found.params(fresh))
  figures = evaluation.Evaluator(config, steps, engine, rows)(params)
  return {
    'loss': figures['eval/loss'],
    'perplexity': float(np.exp(figures['eval/loss'])),
    'accuracy': figures['eval/accuracy'],
    'rows': len(rows),
    'row_length': length,
    'tokenizer': tokenizer.fingerprint,
  }


def rows_of(
  found: Pretrained, text: str, text_field: str, length: int | None = None
) -> UInt16[np.ndarray, 'R N']:
  """The packed rows of a text, in its order.

  Args:
    found: the model.
    text: in the form of `data.files`.
    text_field: of its JSON lines.
    length: N; None is the most that the model takes, up to 512.

  Raises:
    errors.UserError: it cannot be read, or is empty.
  """
  tokenizer = found.tokenizer
  length = length or min(found.model.max_positions, _MAX_LENGTH)
  packer = Packer(length, tokenizer.special)
  for source in corpora.parse(
    text, text_field=text_field, tfds_dir='', key='--text'
  ):
    for block in source.blocks():
      for ids in tokenizer.encode_batch(list(block.documents())):
        packer.add(ids)
  rows = packer.finish()
  if not len(rows):
    raise errors.DataError(f'--text={text!r}: holds no text')
  return rows
