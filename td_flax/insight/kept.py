"""Which tokens the next step of a run would keep, and what they share."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt16

from td_flax import errors, pretrained, programs, step
from td_flax.config import Config
from td_flax.devices import OneDevice
from td_flax.dropping import policies
from td_flax.learner import TrainState

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


def find(path: str, flag: str, step: str = 'latest') -> pretrained.OfRun:
  """The checkpoint of a pretraining run.

  Args:
    path: its workdir.
    flag: what messages name.
    step: `latest`, `best` (by held-out loss) or a number.

  Raises:
    errors.UserError: there is none.
  """
  found = pretrained.find(path, flag, step)
  if not isinstance(found, pretrained.OfRun):
    raise errors.ConfigError(
      f'{found.where}: must be the workdir of a pretraining'
    )
  return found


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
  found: pretrained.OfRun,
  config: Config,
  importance: Float[np.ndarray, ' V'],
  rows: UInt16[np.ndarray, 'R N'],
  *,
  masked: bool = True,
) -> Kept:
  """What a step from the checkpoint would keep.

  Args:
    found: the checkpoint.
    config: of `dropping`.
    importance: the checkpoint's table.
    rows: packed, of the length that the run trains on.
    masked: as the step masks them; otherwise as they are.

  Raises:
    errors.CheckpointError: the checkpoint is damaged.
  """
  steps, state = next_step(found, config, importance)
  special = found.tokenizer.special
  batch, share = over_rows(
    lambda *numbered: steps.kept(state, *numbered, masked=masked),
    rows,
    special.pad,
  )
  specials = np.isin(rows, special.as_tuple())
  return Kept(rows, batch.ids, share, ~(specials | batch.is_predicted))


def next_step(
  found: pretrained.OfRun, config: Config, importance: Float[np.ndarray, ' V']
) -> tuple[step.Steps, TrainState]:
  """The step that a checkpoint is followed by, in float32, and its state.

  Args:
    found: the checkpoint.
    config: of the step.
    importance: the checkpoint's table.

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
  params = found.params(jax.device_get(state.params))
  return steps, dataclasses.replace(
    state, step=jnp.int32(found.step), params=params
  )


def over_rows(
  function: Callable[[Array, Array], Any],
  rows: UInt16[np.ndarray, 'R N'],
  pad: int,
  chosen: Bool[np.ndarray, 'R N'] | None = None,
) -> Any:
  """What a function makes of rows, a few of them at a time.

  Args:
    function: of the rows and their numbers; returns a pytree of arrays whose
      first axis are the rows.
    rows: any number of them.
    pad: fills the rows that a last call lacks.
    chosen: tokens to return nothing else of; the arrays' first axis are they.

  Returns:
    That pytree, with numpy leaves.
  """
  function = jax.jit(function)
  parts = []
  for start in range(0, len(rows), _ROWS_AT_ONCE):
    these = rows[start : start + _ROWS_AT_ONCE]
    lacking = _ROWS_AT_ONCE - len(these)
    whole = np.pad(these, ((0, lacking), (0, 0)), constant_values=pad)
    found = function(whole, start + np.arange(_ROWS_AT_ONCE))
    index = slice(len(these))
    if chosen is not None:
      index = np.nonzero(chosen[start : start + _ROWS_AT_ONCE])
    parts.append(jax.tree.map(lambda x, i=index: np.asarray(x)[i], found))
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


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
