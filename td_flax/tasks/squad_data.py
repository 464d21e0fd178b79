"""Questions of SQuAD: its own JSON files, or TFDS."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from td_flax import errors
from td_flax.config import Config
from td_flax.tasks import tables

_TFDS_SPLITS = {'train': 'train', 'dev': 'validation'}


class Question(NamedTuple):
  """One question.

  Attributes:
    place: where it stands, for messages.
    id: its own.
    text: the question.
    context: the paragraph that may hold the answer.
    answers: right ones: the text and its first character in the context; none
      where there is no answer.
  """

  place: str
  id: str
  text: str
  context: str
  answers: list[tuple[str, int]]


def read(config: Config, split: str) -> list[Question]:
  """The questions of `train` or `dev`.

  Raises:
    errors.ConfigError: there is no such file or dataset.
    errors.DataError: it is damaged, or an answer is not where it should be.
  """
  version = config.task.name.removeprefix('squad_')
  if config.data.task_dir:
    path = pathlib.Path(config.data.task_dir, f'{split}-{version}.json')
    source = str(path)
    questions = list(_of_file(path))
  else:
    source = f'squad/{version}'
    questions = list(_of_tfds(source, split, config))
  if not questions:
    raise errors.DataError(f'{source}: holds no questions')
  seen = set()
  for question in questions:
    _check(question, seen)
  return questions


def _of_file(path: pathlib.Path) -> Iterator[Question]:
  try:
    content = json.loads(path.read_bytes())
  except OSError as error:
    raise errors.ConfigError(
      f'data.task_dir: {path}: {error.strerror}; the folder must hold the '
      'files of SQuAD, or be empty for TFDS'
    ) from error
  except ValueError as error:
    raise errors.DataError(f'{path}: is not JSON ({error})') from error
  name = 'its first question'
  try:
    for article in content['data']:
      for paragraph in article['paragraphs']:
        for item in paragraph['qas']:
          name = f'question {item["id"]}'
          answers = [] if item.get('is_impossible') else item['answers']
          yield Question(
            f'{path}: {name}',
            item['id'],
            item['question'],
            paragraph['context'],
            [(x['text'], x['answer_start']) for x in answers],
          )
  except (KeyError, TypeError) as error:
    raise errors.DataError(
      f"{path}: at or behind {name}: not in SQuAD's layout "
      f'({type(error).__name__}: {error})'
    ) from error


def _of_tfds(name: str, split: str, config: Config) -> Iterator[Question]:
  values: list[dict[str, Any]] = tables.read_tfds(
    name, _TFDS_SPLITS[split], config.data.tfds_dir, 'data.tfds_dir'
  )
  for x in values:
    texts, starts = x['answers']['text'], x['answers']['answer_start']
    answers = [
      (text, int(start)) for text, start in zip(texts, starts, strict=True)
    ]
    yield Question(
      f'{name}: question {x["id"]}',
      x['id'],
      x['question'],
      x['context'],
      [] if x.get('is_impossible') else answers,
    )


def _check(question: Question, seen: set[str]) -> None:
  place, name, asked, context, answers = question
  for key, value in (('id', name), ('question', asked), ('context', context)):
    _check_text(place, key, value)
  if name in seen:
    raise errors.DataError(f'{place}: there are two of this id')
  seen.add(name)
  if not context.strip():
    raise errors.DataError(f'{place}: its context is empty')
  for text, start in answers:
    _check_text(place, 'text', text)
    if type(start) is not int or start < 0 or not text:
      raise errors.DataError(
        f'{place}: its answer {text!r} at {start!r} must be some text and the '
        'number of its first character'
      )
    if context[start : start + len(text)] != text:
      raise errors.DataError(
        f'{place}: its answer {text!r} is not at character {start} of the '
        'context'
      )


def _check_text(place: str, key: str, value: Any) -> None:
  # JSON can hold halves of characters, which no tokenizer takes.
  if not isinstance(value, str) or re.search('[\ud800-\udfff]', value):
    raise errors.DataError(f'{place}: {key}={value!r}: must be text')
