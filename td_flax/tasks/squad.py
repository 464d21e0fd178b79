"""SQuAD: the span of a paragraph that answers a question.

The way of Devlin et al. 2019, section 4.2 and 4.3: question and paragraph are a
pair; a long paragraph is cut into overlapping windows; an answer's score is the
sum of the outputs of its first and last token; no answer is the span of [CLS].

Letters: S windows, N tokens, Q questions, T tokens of a paragraph.
"""

import json
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from td_flax import errors
from td_flax.config import Config
from td_flax.data.vocabulary import Tokenizer
from td_flax.model.task_model import SPAN, Output
from td_flax.tasks import squad_data, squad_score
from td_flax.tasks.squad_data import Question
from td_flax.tasks.task import Encoded, Task, assemble


class _Windows(NamedTuple):
  """The rows of a split, and where they come from.

  Attributes:
    encoded: the rows.
    question: of each row, its number.
    first: the row's position of the first token of the paragraph in it.
    start: the number of that token in the paragraph.
    begins: tokens at which an answer may begin: those of the paragraph that
      have more context around them here than in any other window.
    inside: tokens of the paragraph.
  """

  encoded: Encoded
  question: Int[np.ndarray, ' S']
  first: Int[np.ndarray, ' S']
  start: Int[np.ndarray, ' S']
  begins: Bool[np.ndarray, 'S N']
  inside: Bool[np.ndarray, 'S N']


class _Answer(NamedTuple):
  """A candidate: its text, and the outputs at its beginning and end."""

  text: str
  begin: float
  end: float

  @property
  def score(self) -> float:
    return self.begin + self.end


class Squad(Task):
  """SQuAD v1.1 or v2.0.

  Args:
    config: names the version, the files, lengths and thresholds.
    tokenizer: makes the ids.

  Raises:
    errors.UserError: a file is missing or damaged, or windows cannot advance.
  """

  output = Output(SPAN)
  metric = 'f1'

  def __init__(self, config: Config, tokenizer: Tokenizer):
    self.name = config.task.name
    self._config = config.task
    self._has_nulls = self.name.endswith('v2.0')
    self._length = config.data.sequence_length
    self.train = self._windows(squad_data.read(config, 'train'), tokenizer)[
      0
    ].encoded
    self._questions = squad_data.read(config, 'dev')
    self._dev, self._offsets = self._windows(self._questions, tokenizer)
    self.dev = {'dev': self._dev.encoded}
    self.test = {}

  def _windows(
    self, questions: list[Question], tokenizer: Tokenizer
  ) -> tuple[_Windows, dict[str, Int[np.ndarray, 'T 2']]]:
    """All windows, and the characters of each paragraph's tokens."""
    texts = list({question.context: None for question in questions})
    contexts = dict(
      zip(texts, tokenizer.encode_with_offsets(texts), strict=True)
    )
    asked = tokenizer.encode_batch([question.text for question in questions])
    n, special = self._length, tokenizer.special
    rows, labels, sources, begins, inside = [], [], [], [], []
    for i, (question, ids) in enumerate(zip(questions, asked, strict=True)):
      ids = ids[: self._config.max_question]
      context, offsets = contexts[question.context]
      first, room = len(ids) + 2, n - len(ids) - 3
      starts = self._starts(len(context), room)
      answer = _tokens(question, offsets)
      best = _most_context(starts, room, len(context))
      for w, start in enumerate(starts):
        piece = context[start : start + room]
        rows.append(assemble(special, n, ids, piece))
        begin, end = (x - start for x in answer)
        fits = begin >= 0 and end < len(piece)
        labels.append((begin + first, end + first) if fits else (0, 0))
        sources.append((i, first, start))
        here = np.zeros((2, n), bool)
        here[:, first : first + len(piece)] = True
        here[0, first : first + len(piece)] = (
          best[start : start + len(piece)] == w
        )
        begins.append(here[0])
        inside.append(here[1])
    encoded = Encoded(np.stack(rows), np.array(labels, np.int32))
    question, first, start = np.array(sources).T
    windows = _Windows(
      encoded, question, first, start, np.stack(begins), np.stack(inside)
    )
    return windows, {text: x[1] for text, x in contexts.items()}

  def _starts(self, count: int, room: int) -> list[int]:
    """The first token of each window of a paragraph with `count` tokens."""
    step = room - self._config.stride
    if step < 1:
      raise errors.ConfigError(
        f'task.stride={self._config.stride}: must be below {room}, what '
        f'data.sequence_length={self._length} leaves for the paragraph beside '
        f'a question of {self._length - room - 3} tokens'
      )
    return list(range(0, max(count - self._config.stride, 1), step))

  def score(
    self, split: str, logits: Float[np.ndarray, 'S 2 N']
  ) -> dict[str, float]:
    """`f1` and `exact`; of v2.0 also by kind and with the best threshold."""
    del split  # there is one
    nbest, nulls = self._answers(logits)
    odds = _odds(nbest, nulls)
    answers = {x.id: [text for text, _ in x.answers] for x in self._questions}
    figures = squad_score.score(
      self._predicted(nbest, odds), answers, has_nulls=self._has_nulls
    )
    if self._has_nulls:
      best = {name: found[0].text for name, found in nbest.items()}
      figures |= squad_score.best_threshold(best, answers, odds)
    return figures

  def predictions(
    self, split: str, logits: Float[np.ndarray, 'S 2 N']
  ) -> dict[str, str]:
    """What SQuAD's evaluation reads, and the runners-up.

    Of v2.0 no answer, '', is one of the runners-up.
    """
    del split
    nbest, nulls = self._answers(logits)
    odds = _odds(nbest, nulls)
    files = {'predictions.json': self._predicted(nbest, odds)}
    if self._has_nulls:
      files['null_odds.json'] = odds
      nbest = {
        name: sorted([*found, nulls[name]], key=lambda x: -x.score)
        for name, found in nbest.items()
      }
    files['nbest_predictions.json'] = {
      name: _with_probabilities(found) for name, found in nbest.items()
    }
    return {name: json.dumps(x, indent=1) for name, x in files.items()}

  def details(self) -> list[tuple]:
    """What is known of the questions of dev, but for where they were read."""
    return [question[1:] for question in self._questions]

  def _predicted(
    self, nbest: dict[str, list[_Answer]], odds: dict[str, float]
  ) -> dict[str, str]:
    limit = self._config.null_threshold
    return {
      name: '' if self._has_nulls and odds[name] > limit else found[0].text
      for name, found in nbest.items()
    }

  def _answers(
    self, logits: Float[np.ndarray, 'S 2 N']
  ) -> tuple[dict[str, list[_Answer]], dict[str, _Answer]]:
    """The best answers of each question, and that of there being none."""
    windows, count = self._dev, self._config.n_best
    begin, begin_logits = _largest(logits[:, 0], windows.begins, count)
    end, end_logits = _largest(logits[:, 1], windows.inside, count)
    length = end[:, None, :] - begin[:, :, None]  # [S, begins, ends]
    allowed = (length >= 0) & (length < self._config.max_answer)
    scores = begin_logits[:, :, None] + end_logits[:, None, :]
    scores = np.where(allowed, scores, -np.inf).reshape(len(scores), -1)
    order = np.argsort(-scores, axis=1, kind='stable')[:, :count]
    by_question: dict[int, list[tuple[float, int, int]]] = {}
    best = np.take_along_axis(scores, order, axis=1)
    for s, (values, places) in enumerate(zip(best, order, strict=True)):
      mine = by_question.setdefault(int(windows.question[s]), [])
      mine += [
        (float(value), s, int(place))
        for value, place in zip(values, places, strict=True)
        if value > -np.inf
      ]
    # No answer counts as in the window that has the least of it: the last here.
    falling = np.argsort(-logits[:, :, 0].sum(axis=1), kind='stable')
    least = dict(zip(windows.question[falling], falling, strict=True))
    nbest, nulls = {}, {}
    for i, question in enumerate(self._questions):
      offsets = self._offsets[question.context]
      found: dict[str, _Answer] = {}
      for _, s, place in sorted(by_question[i], key=lambda x: -x[0]):
        a, b = divmod(place, end.shape[1])
        shift = windows.start[s] - windows.first[s]
        text = question.context[
          offsets[begin[s, a] + shift, 0] : offsets[end[s, b] + shift, 1]
        ]
        if not text:  # a piece of white space alone, which has no width
          continue
        found.setdefault(
          text,
          _Answer(text, float(begin_logits[s, a]), float(end_logits[s, b])),
        )
        if len(found) == count:
          break
      nbest[question.id] = list(found.values()) or [_Answer('', 0.0, 0.0)]
      null = logits[least[i], :, 0]
      nulls[question.id] = _Answer('', *map(float, null))
    return nbest, nulls


def _odds(
  nbest: dict[str, list[_Answer]], nulls: dict[str, _Answer]
) -> dict[str, float]:
  """By how much no answer beats the best one."""
  return {name: nulls[name].score - x[0].score for name, x in nbest.items()}


def _tokens(
  question: Question, offsets: Int[np.ndarray, 'T 2']
) -> tuple[int, int]:
  """The first and the last token of the first answer; (-1, -1) of none."""
  if not question.answers:
    return -1, -1
  text, start = question.answers[0]
  first = int(np.searchsorted(offsets[:, 1], start, side='right'))
  last = int(np.searchsorted(offsets[:, 0], start + len(text))) - 1
  # Where all of the answer is what the tokenizer drops there is no token.
  return (first, last) if first <= last else (-1, -1)


def _most_context(
  starts: list[int], room: int, count: int
) -> Int[np.ndarray, ' T']:
  """For each token of a paragraph the window where it has most around it."""
  token = np.arange(count)[None]
  begin = np.array(starts)[:, None]
  end = np.minimum(begin + room, count)
  around = np.minimum(token - begin, end - 1 - token)
  # Of two windows with the same on the shorter side, the longer one.
  around = np.where(around >= 0, around + 0.01 * (end - begin), -1)
  return np.argmax(around, axis=0)


def _largest(
  logits: Float[np.ndarray, 'S N'], valid: Bool[np.ndarray, 'S N'], count: int
) -> tuple[Int[np.ndarray, 'S K'], Float[np.ndarray, 'S K']]:
  """The positions and values of the `count` largest valid outputs."""
  masked = np.where(valid, logits, -np.inf)
  order = np.argsort(-masked, axis=1, kind='stable')[:, :count]
  return order, np.take_along_axis(masked, order, axis=1)


def _with_probabilities(answers: list[_Answer]) -> list[dict[str, object]]:
  scores = np.array([x.score for x in answers])
  shares = np.exp(scores - scores.max())
  return [
    {
      'text': x.text,
      'probability': float(share),
      'start_logit': x.begin,
      'end_logit': x.end,
    }
    for x, share in zip(answers, shares / shares.sum(), strict=True)
  ]
