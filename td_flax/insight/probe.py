"""Which layers' states tell the class of a word: a linear probe for each.

The classifier is multinomial logistic regression on the states of words' first
tokens (Alain and Bengio 2016), standardised, the sum of losses plus half of the
squared weights being minimised: scikit-learn's default. Its accuracy counts on
words of sentences that it was not fitted on.

Letters: R rows, N tokens, W words that are probed, D width, C classes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Bool, Float, Int

from td_flax import errors, saved
from td_flax.config import Config
from td_flax.insight import kept as kept_lib
from td_flax.insight.words import Words
from td_flax.learner import TrainState
from td_flax.pretrained import OfRun
from td_flax.step import Steps

_HELD_OUT = 0.25  # of the sentences
_SEED = 0
_ITERATIONS = 2_000  # a few hundred are usual


class Probed(NamedTuple):
  """The words that are probed, in the order of the rows.

  Attributes:
    chosen: their first tokens.
    ids: of these tokens.
    classes: of the words.
    held_out: the words whose sentences no classifier is fitted on.
  """

  chosen: Bool[np.ndarray, 'R N']
  ids: Int[np.ndarray, ' W']
  classes: Int[np.ndarray, ' W']
  held_out: Bool[np.ndarray, ' W']


def choose(words: Words) -> Probed:
  """The words of some rows, a seeded quarter of their sentences held out.

  Raises:
    errors.DataError: they are too few.
  """
  chosen = words.begins
  numbers = words.words[chosen]
  classes, sentences = words.classes[numbers], words.sentences[numbers]
  there = np.unique(sentences)
  order = np.random.default_rng(_SEED).permutation(there)
  held_out = np.isin(sentences, order[: int(_HELD_OUT * len(there))])
  if not held_out.any() or len(np.unique(classes[~held_out])) < 2:
    raise errors.DataError(
      f'--conllu: {len(chosen)} rows hold {len(there)} sentences; a probe '
      'needs at least 4, of two word classes'
    )
  return Probed(chosen, words.rows[chosen], classes, held_out)


def content(
  found: OfRun,
  config: Config,
  words: Words,
  against: OfRun | None,
) -> dict[str, Any]:
  """The accuracies that the report shows, each from 0 to 1.

  Args:
    found: the run.
    config: of the step that drops tokens.
    words: of the rows to look at.
    against: another run of the same tokenizer, None without.

  Returns:
    `train_words`, `test_words`, `skipping`: how many there are, the last among
    the test words. `baselines`: of the most frequent class (`majority`), of
    the most frequent class of each word's first token (`token`). `curves`:
    `full`, all tokens in all layers; `dropping`, as the step drops them;
    `against`, the other run's with all tokens in all layers: each with the
    accuracy behind the embeddings and every layer on `all` words, on those
    whose token is `passing` at least half of the layers that drop, and on those
    `skipping` them; a list is empty where there are no such words.

  Raises:
    errors.UserError: the words are too few, or a run cannot be read.
  """
  if against is not None:
    _check(against, found, words.rows.shape[1])
  probed = choose(words)

  def next_step(run: OfRun, config: Config) -> tuple[Steps, TrainState]:
    importance = saved.load_importance(run.checkpoint)
    return kept_lib.next_step(run, config, importance)

  def states(
    steps: Steps, state: TrainState, *, dropping: bool
  ) -> tuple[Any, list[Float[np.ndarray, 'W D']]]:
    """Of each word's first token: the share kept, where asked; its states."""

    def of(*rows: Any) -> tuple[Any, list[Any]]:
      share = steps.kept(state, *rows, masked=False)[1] if dropping else None
      return share, steps.states(state, *rows, dropping=dropping)

    pad = found.tokenizer.special.pad
    return kept_lib.over_rows(of, words.rows, pad, probed.chosen)

  own = next_step(found, config)
  share, narrow = states(*own, dropping=True)
  passing = share[probed.held_out] >= 0.5
  curves = {'full': states(*own, dropping=False)[1], 'dropping': narrow}
  if against is not None:
    other = next_step(against, against.config)
    curves['against'] = states(*other, dropping=False)[1]
  return {
    'train_words': int((~probed.held_out).sum()),
    'test_words': int(probed.held_out.sum()),
    'skipping': int((~passing).sum()),
    'baselines': baselines(probed),
    'curves': {
      name: _accuracies(layers, probed, passing)
      for name, layers in curves.items()
    },
  }


def _check(against: OfRun, found: OfRun, length: int) -> None:
  """Refuses a run that cannot read the same rows."""
  if against.fingerprint != found.fingerprint:
    raise errors.ConfigError(
      f'{against.where}: must have the tokenizer of {found.where}'
    )
  if against.model.max_positions < length:
    raise errors.ConfigError(
      f'{against.where}: must have model.max_positions of at least {length}, '
      f'not {against.model.max_positions}'
    )


def baselines(probed: Probed) -> dict[str, float]:
  """Accuracies without any state: see `content`."""
  train = ~probed.held_out
  counts = np.zeros((int(probed.ids.max()) + 1, probed.classes.max() + 1), int)
  np.add.at(counts, (probed.ids[train], probed.classes[train]), 1)
  majority = counts.sum(0).argmax()
  by_token = np.where(counts.any(1), counts.argmax(1), majority)
  gold, ids = probed.classes[probed.held_out], probed.ids[probed.held_out]
  return {
    'majority': float((gold == majority).mean()),
    'token': float((gold == by_token[ids]).mean()),
  }


def correct(
  states: Float[np.ndarray, 'W D'], probed: Probed
) -> Bool[np.ndarray, ' T']:
  """Which of the T held-out words a classifier on these states gets right."""
  train, test = ~probed.held_out, probed.held_out
  mean, deviation = states[train].mean(0), states[train].std(0)
  scaled = (states - mean) / np.where(deviation > 0, deviation, 1)
  weights, bias = fit(scaled[train], probed.classes[train])
  predicted = (scaled[test] @ weights + bias).argmax(1)
  return predicted == probed.classes[test]


def fit(
  x: Float[np.ndarray, 'W D'], y: Int[np.ndarray, ' W']
) -> list[Float[np.ndarray, '_ C']]:
  """Weights [D, C] and biases [1, C] of a multinomial logistic regression.

  Minimised by L-BFGS until the gradient of the mean loss is below 1e-4.

  Args:
    x: standardised.
    y: classes from 0; C is the largest and one.
  """
  shape = x.shape[1] + 1, int(y.max()) + 1

  def objective(flat: Float[np.ndarray, ' DC']) -> tuple[Any, Any]:
    return jax.device_get(_objective(flat.reshape(shape), x, y))

  found = scipy.optimize.minimize(
    objective,
    np.zeros(shape).ravel(),
    jac=True,
    method='L-BFGS-B',
    options={'maxiter': _ITERATIONS, 'gtol': 1e-4, 'ftol': 0},
  )
  return np.split(found.x.reshape(shape), [-1])


@jax.jit
@jax.value_and_grad
def _objective(
  weights: Float[Array, 'D+1 C'],
  x: Float[Array, 'W D'],
  y: Int[Array, ' W'],
) -> Float[Array, '']:
  """The mean loss and its share of the penalty; the last row are biases."""
  logits = jnp.matmul(x, weights[:-1], precision='highest') + weights[-1:]
  targets = jax.nn.one_hot(y, logits.shape[1])
  loss = -jnp.sum(jax.nn.log_softmax(logits) * targets)
  return (loss + jnp.sum(weights[:-1] ** 2) / 2) / len(x)


def _accuracies(
  layers: list[Float[np.ndarray, 'W D']],
  probed: Probed,
  passing: Bool[np.ndarray, ' T'],
) -> dict[str, list[float | None]]:
  """A figure per layer over all held-out words, and over two kinds of them."""
  right = np.array([correct(x, probed) for x in layers])
  kinds = {'all': passing | True, 'passing': passing, 'skipping': ~passing}
  return {
    name: [float(x) for x in right[:, mine].mean(1)] if mine.any() else []
    for name, mine in kinds.items()
  }
