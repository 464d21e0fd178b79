"""How well a masked language model knows the tokens of a sentence.

The pseudo-log-likelihood of Salazar et al. (ACL 2020, "Masked Language Model
Scoring"): every token is masked once, alone, and the logarithms of its
probabilities are added up. [CLS] and [SEP] are not scored.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from td_flax import errors, masking, parallel, progress
from td_flax.data.vocabulary import Tokenizer
from td_flax.dropping import plan as plans
from td_flax.dropping import routing
from td_flax.model import bert, loss
from td_flax.pretrained import Pretrained

# Rows are as long as the sentence needs; every length is compiled once.
_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_TOKENS_AT_ONCE = 16_384  # per device


def encode(
  tokenizer: Tokenizer, sentences: list[str], max_length: int
) -> list[np.ndarray]:
  """The ids of every sentence.

  Args:
    tokenizer: the model's.
    sentences: any number of them.
    max_length: positions of the model, [CLS] and [SEP] among them.

  Raises:
    errors.DataError: a sentence has more tokens than the model has positions.
  """
  encoded = tokenizer.encode_batch(sentences)
  for sentence, ids in zip(sentences, encoded, strict=True):
    if len(ids) + 2 > max_length:
      raise errors.DataError(
        f'{sentence[:40]!r}...: has {len(ids)} tokens; the model takes '
        f'{max_length - 2}'
      )
  return encoded


class Scorer:
  """Scores sentences by masking each of their tokens once.

  Args:
    found: the model; it computes in float32, with the attention that fits.
    engine: maps the rows over devices.
  """

  def __init__(self, found: Pretrained, engine: parallel.Engine):
    self._tokenizer = found.tokenizer
    self._engine = engine
    config = dataclasses.replace(found.model, dtype='float32', attention='auto')
    self._max_length = config.max_positions
    model = bert.Bert(config, found.tokenizer.vocab_size, nnx.Rngs(0), engine)
    self._graph, params = nnx.split(model)
    self._params = engine.place(found.params(jax.device_get(params)))
    # Only the masked position is read of the last layer: exact, and cheaper.
    self._plan = plans.predicted_only(plans.full(config.num_layers), 1)
    self._step = engine.map_eval(self._losses)

  def score(self, sentences: list[str]) -> Float[np.ndarray, ' S']:
    """The pseudo-log-likelihood of every sentence, in nats, float64.

    Raises:
      errors.DataError: a sentence has more tokens than the model has positions.
    """
    encoded = encode(self._tokenizer, sentences, self._max_length)
    scores = np.zeros(len(sentences))
    lengths = [x for x in _LENGTHS if x < self._max_length]
    with progress.Progress(sum(map(len, encoded)), 'scoring', 'tokens') as bar:
      for low, high in zip(
        [0, *lengths], [*lengths, self._max_length], strict=True
      ):
        mine = [i for i, x in enumerate(encoded) if low < len(x) + 2 <= high]
        if mine:
          self._add(scores, mine, [encoded[i] for i in mine], high, bar)
    return scores

  def _add(
    self,
    scores: Float[np.ndarray, ' S'],
    numbers: list[int],
    encoded: list[np.ndarray],
    length: int,
    bar: progress.Progress,
  ) -> None:
    """Adds the log-probabilities of the tokens of sentences of one length."""
    special = self._tokenizer.special
    counts = [len(ids) for ids in encoded]
    rows = np.full((len(encoded), length), special.pad, np.uint16)
    rows[:, 0] = special.cls
    for row, ids in zip(rows, encoded, strict=True):
      row[1 : len(ids) + 1] = ids
      row[len(ids) + 1] = special.sep
    sources = np.repeat(np.arange(len(rows)), counts)
    positions = np.concatenate([np.arange(1, n + 1) for n in counts])
    size = max(1, _TOKENS_AT_ONCE // length) * self._engine.num_devices
    for start in range(0, len(sources), size):
      these = slice(start, start + size)
      lost = self._at_once(rows[sources[these]], positions[these], size)
      np.subtract.at(scores, np.asarray(numbers)[sources[these]], lost)
      bar.update(len(lost))

  def _at_once(
    self, rows: np.ndarray, positions: np.ndarray, size: int
  ) -> Float[np.ndarray, ' B']:
    count = len(rows)
    padding = np.full(
      (size - count, rows.shape[1]), self._tokenizer.special.pad, rows.dtype
    )
    batch = (
      np.concatenate([rows, padding]),
      np.concatenate([positions, np.zeros(size - count, np.int64)]).astype(
        np.int32
      ),
    )
    first = self._engine.replicate(np.int32(0))
    losses = self._step(self._params, self._engine.split(batch), first)
    return self._engine.fetch(losses)[:count].astype(np.float64)

  def _losses(
    self, params: Any, batch: tuple[Array, Array], first: Int[Array, '']
  ) -> Float[Array, ' B']:
    """The loss of every row's masked token, over all devices."""
    del first  # no row draws anything
    ids, positions = batch[0].astype(jnp.int32), batch[1]
    special = self._tokenizer.special
    masked = jnp.arange(ids.shape[1])[None] == positions[:, None]
    segments = masking.segment(
      ids, special, attend_across=False, restart_positions=True
    )
    model = nnx.merge(self._graph, params)
    states = model.encode(
      jnp.where(masked, special.mask, ids),
      segments,
      self._plan,
      queried=routing.select(jnp.where(masked, 0, 1), 1),
    )
    labels = routing.take_ids(ids, positions[:, None])
    losses, _ = loss.cross_entropy(model.predict(states), labels)
    return self._engine.all_rows(losses[:, 0])
