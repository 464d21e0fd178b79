"""Which tokens the next step of a run would keep, and what they share."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt16

from td_flax import errors, programs, step
from td_flax.config import Config
from td_flax.devices import OneDevice
from td_flax.dropping import policies
from td_flax.pretrained import OfRun

_ROWS_AT_ONCE = 16
_BANDS = 10, 100, 1_000, 10_000  # ranks by frequency in the corpus
_PARTS = 8  # of a row


class Kept(NamedTuple):
  """Rows as a step would see them.

  Attributes:
    ids: before masking.
    shown: after it.
    share: of the layers that drop tokens, those that a token passes through.
    free: tokens that a policy may drop: neither special nor predicted.
  """

  ids: UInt16[np.ndarray, 'R N']
  shown: Int[np.ndarray, 'R N']
  share: Float[np.ndarray, 'R N']
  free: Bool[np.ndarray, 'R N']


def dropping(config: Config, where: str) -> Config:
  """The config of the run's last stage that drops tokens by a score.

  Args:
    config: the run's.
    where: the flag that names it, for the message.

  Raises:
    errors.ConfigError: there is none.
  """
  for part in reversed(programs.Schedule(config).configs.values()):
    policy = policies.load(part.drop.policy)
    spans = [x for x in policy.plan(part) if x.keep is not None]
    if spans and not policy.own_geometry:
      return part
  raise errors.ConfigError(
    f'{where}: drop.policy={config.drop.policy} chooses no tokens to drop'
  )


def of_rows(
  found: OfRun,
  config: Config,
  importance: Float[np.ndarray, ' V'],
  rows: UInt16[np.ndarray, 'R N'],
) -> Kept:
  """What a step from the checkpoint would keep.

  Args:
    found: the checkpoint.
    config: of `dropping`.
    importance: the checkpoint's table.
    rows: packed, of the length that the run trains on.

  Raises:
    errors.CheckpointError: the checkpoint is damaged.
  """
  config = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, dtype='float32', attention='plain'),
  )
  tokenizer = found.tokenizer
  steps = step.Steps(
    config, tokenizer.vocab_size, tokenizer.special, OneDevice()
  )
  state = steps.init(importance)
  state = dataclasses.replace(
    state,
    step=jnp.int32(found.step),
    params=found.params(jax.device_get(state.params)),
  )
  kept = jax.jit(steps.kept)
  parts = []
  lacking = -len(rows) % _ROWS_AT_ONCE
  whole = np.pad(
    rows, ((0, lacking), (0, 0)), constant_values=tokenizer.special.pad
  )
  for start in range(0, len(whole), _ROWS_AT_ONCE):
    numbers = start + np.arange(_ROWS_AT_ONCE)
    batch, share = kept(state, whole[numbers], numbers)
    parts.append(jax.device_get((batch.ids, batch.hidden, share)))
  shown, hidden, share = (
    np.concatenate(x)[: len(rows)] for x in zip(*parts, strict=True)
  )
  special = np.isin(rows, tokenizer.special.as_tuple())
  return Kept(rows, shown, share, ~(special | hidden))


def by_group(
  kept: Kept, groups: Int[np.ndarray, 'R N'], names: list[str]
) -> list[dict[str, Any]]:
  """`name`, `tokens` and `share` of each group of free tokens that has any."""
  found = []
  for number, name in enumerate(names):
    mine = kept.free & (groups == number)
    if mine.any():
      share = float(kept.share[mine].mean())
      found.append({'name': name, 'tokens': int(mine.sum()), 'share': share})
  return found


def by_frequency(
  kept: Kept, unigram_counts: Int[np.ndarray, ' V']
) -> list[dict[str, Any]]:
  """By the rank of the id among all ids of the corpus."""
  ranks = np.empty(len(unigram_counts), int)
  ranks[np.argsort(-unigram_counts, kind='stable')] = np.arange(len(ranks))
  edges = ['1', *(f'{x + 1:,}' for x in _BANDS)]
  last = [*(f'{x:,}' for x in _BANDS), 'all']
  names = [f'{a} to {b}' for a, b in zip(edges, last, strict=True)]
  bands = np.searchsorted(_BANDS, ranks[kept.ids], side='right')
  return by_group(kept, bands, names)


def by_position(kept: Kept) -> list[dict[str, Any]]:
  """By eighths of the row."""
  n = kept.ids.shape[1]
  edges = np.linspace(0, n, _PARTS + 1).astype(int)
  names = [f'{a} to {b - 1}' for a, b in itertools.pairwise(edges)]
  parts = np.searchsorted(edges[1:], np.arange(n), side='right')
  return by_group(kept, np.broadcast_to(parts, kept.ids.shape), names)
