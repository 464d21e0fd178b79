"""Windows, answers and files of SQuAD."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from td_flax import errors
from td_flax.tasks import squad, squad_score, tables

CONTEXT = (
  'The string is a sequence of characters. A number, such as 42, has a value '
  'of its own; an object may hold both. Methods of a class return objects, '
  'and the module of the class is imported before any function is called.'
)


def item(name, question, answer, context=CONTEXT, version='v1.1'):
  answers = []
  if answer is not None:
    answers = [{'text': answer, 'answer_start': context.index(answer)}]
  found = {'id': name, 'question': question, 'answers': answers}
  return found | ({'is_impossible': not answers} if version == 'v2.0' else {})


def content(*items, context=CONTEXT):
  return {'data': [{'paragraphs': [{'context': context, 'qas': items}]}]}


@pytest.fixture
def make(tmp_path, make_config, tokenizer):
  def make(*items, version='v1.1', length=32, dev=None, **values):
    for split, these in (('train', items), ('dev', dev or items)):
      path = tmp_path / f'{split}-{version}.json'
      path.write_text(json.dumps(content(*these)))
    return load(version, length, **values)

  def load(version='v1.1', length=32, **values):
    config = make_config(data__sequence_length=length, model__max_positions=64)
    values = {'stride': 8, 'max_question': 8, **values}
    task = dataclasses.replace(config.task, name=f'squad_{version}', **values)
    data = dataclasses.replace(config.data, task_dir=str(tmp_path))
    config = dataclasses.replace(config, task=task, data=data)
    return squad.Squad(config, tokenizer)

  make.load = load
  return make


def peaks(task, height=10.0):
  """Outputs that point at the labels, and at [CLS] a little."""
  ids, labels = task.dev['dev']
  logits = np.zeros((len(ids), 2, ids.shape[1]), np.float32)
  rows = np.arange(len(ids))
  for k in (0, 1):
    logits[rows, k, labels[:, k]] += np.where(labels[:, k] > 0, height, 1.0)
  return logits


def test_windows_hold_every_token_and_share_the_stride(make, tokenizer):
  task = make(item('a', 'what is it?', 'characters'))
  (context,), (question,) = (
    tokenizer.encode_batch([text]) for text in (CONTEXT, 'what is it?')
  )
  special, ids = tokenizer.special, task.train.ids
  question = question[:8]
  pieces = []
  for row in ids:
    expected = [special.cls, *question, special.sep]
    np.testing.assert_array_equal(row[: len(expected)], expected)
    ends = np.flatnonzero(row == special.sep)
    assert len(ends) == 2
    assert (row[ends[1] + 1 :] == special.pad).all()
    pieces.append(row[ends[0] + 1 : ends[1]])
  whole = [*pieces[0]]
  for before, piece in itertools.pairwise(pieces):
    np.testing.assert_array_equal(before[-8:], piece[:8])
    whole += [*piece[8:]]
  np.testing.assert_array_equal(whole, context)
  assert all(len(x) == len(pieces[0]) for x in pieces[:-1])


def test_a_window_without_the_answer_points_at_cls(make):
  task = make(item('a', 'what?', 'characters'))
  inside = task.train.labels[:, 0] > 0
  assert 0 < inside.sum() < len(inside)
  assert (task.train.labels[~inside] == 0).all()


WORDS = CONTEXT.split(' ')


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_labels_are_the_answer(make, data):
  first = data.draw(st.integers(0, len(WORDS) - 1))
  last = data.draw(st.integers(first, min(first + 4, len(WORDS) - 1)))
  start = len(' '.join(WORDS[:first])) + (first > 0)
  answer = ' '.join(WORDS[first : last + 1]).rstrip('.,;')
  asked = item('a', 'what is it?', None)
  asked['answers'] = [{'text': answer, 'answer_start': start}]
  task = make(asked, length=64, stride=32, max_answer=60)
  predicted = json.loads(
    task.predictions('dev', peaks(task))['predictions.json']
  )
  words = squad_score.normalize(answer)
  assert squad_score.normalize(predicted['a']) == words
  # In v1.1 an article alone has no words that could be common.
  figures = {'exact': 1, 'f1': float(bool(words))}
  assert task.score('dev', peaks(task)) == figures


def test_an_answer_keeps_the_case_of_its_context(make):
  task = make(item('a', 'what?', 'Methods of a class'))
  text = task.predictions('dev', peaks(task))['predictions.json']
  assert json.loads(text) == {'a': 'Methods of a class'}


def test_an_answer_begins_where_it_has_most_context(make):
  task = make(item('a', 'what?', 'characters'))
  windows = task._dev
  counts = np.zeros(len(task._offsets[CONTEXT]), int)
  for first, start, begins in zip(
    windows.first, windows.start, windows.begins, strict=True
  ):
    counts[np.flatnonzero(begins) - first + start] += 1
  assert (counts == 1).all()  # each token in one window only
  # Of two windows a shared token belongs to the one it is further inside of.
  second = windows.begins[1]
  mine = np.flatnonzero(second)[0] - windows.first[1]
  assert mine == 4  # the stride is 8: half of the shared ones


def test_long_answers_and_reversed_ones_are_not_given(make):
  task = make(item('a', 'what?', 'characters'), max_answer=2)
  logits = np.zeros_like(peaks(task))
  first = task._dev.first[0]
  logits[0, 0, first + 5] = 9
  logits[0, 1, first + 2] = 9  # before the beginning
  logits[0, 1, first + 8] = 8  # 4 tokens
  logits[0, 1, first + 6] = 1
  answer, *_ = task._answers(logits)[0]['a']
  offsets = task._offsets[CONTEXT]
  assert answer.text == CONTEXT[offsets[5, 0] : offsets[6, 1]]


def test_the_runners_up_differ_and_their_probabilities_add_up(make):
  task = make(item('a', 'what?', 'characters'), n_best=5)
  files = task.predictions('dev', peaks(task, height=2.0))
  (found,) = json.loads(files['nbest_predictions.json']).values()
  assert len({x['text'] for x in found}) == len(found) == 5
  assert sum(x['probability'] for x in found) == pytest.approx(1)
  scores = [x['start_logit'] + x['end_logit'] for x in found]
  assert scores == sorted(scores, reverse=True)


def test_a_piece_without_width_is_no_answer(make):
  task = make(item('a', 'what?', 'characters'))
  logits = np.zeros_like(peaks(task))
  here = task._dev.first[0] + 5
  logits[0, :, here] = 9
  logits[0, :, here + 3] = 8
  task._offsets[CONTEXT] = offsets = task._offsets[CONTEXT].copy()
  offsets[5] = offsets[5, 0]
  answer, *_ = task._answers(logits)[0]['a']
  assert answer.text == CONTEXT[offsets[5, 0] : offsets[8, 1]].strip()
  nbest = task.predictions('dev', logits)['nbest_predictions.json']
  assert all(x['text'] for x in json.loads(nbest)['a'])


def test_no_answer_is_given_above_the_threshold(make):
  items = (
    item('a', 'what?', 'characters', version='v2.0'),
    item('b', 'who?', None, version='v2.0'),
  )
  task = make(*items, version='v2.0')
  assert (task.dev['dev'].labels[task._dev.question == 1] == 0).all()
  logits = peaks(task)
  files = task.predictions('dev', logits)
  odds = json.loads(files['null_odds.json'])
  assert json.loads(files['predictions.json']) == {'a': 'characters', 'b': ''}
  assert odds['a'] < 0 < odds['b']
  # The window that has the answer has the least of no answer.
  assert odds['a'] == pytest.approx(0 - 20)
  nbest = json.loads(files['nbest_predictions.json'])
  assert [nbest[x][0]['text'] for x in 'ab'] == ['characters', '']
  for name, found in nbest.items():
    scores = [x['start_logit'] + x['end_logit'] for x in found]
    assert scores == sorted(scores, reverse=True)
    assert sum(x['probability'] for x in found) == pytest.approx(1)
    (null,) = (x for x in found if not x['text'])
    best = next(i for i, x in enumerate(found) if x['text'])
    assert odds[name] == null['start_logit'] + null['end_logit'] - scores[best]
  figures = task.score('dev', logits)
  assert figures['exact'] == figures['no_answer_exact'] == 1
  assert figures['best_f1'] == 1
  lenient = make(*items, version='v2.0', null_threshold=1e3)
  text = lenient.predictions('dev', logits)['predictions.json']
  assert json.loads(text)['b'] != ''


def test_examples_of_tfds_are_the_same(
  make, monkeypatch, make_config, tokenizer
):
  items = (item('a', 'what?', 'characters'), item('b', 'who?', 'number'))
  there = make(*items)
  asked = []

  def read_tfds(spec, split, tfds_dir, key):
    asked.append((spec, split))
    return [
      {
        'id': x['id'],
        'question': x['question'],
        'context': CONTEXT,
        'answers': {
          'text': [y['text'] for y in x['answers']],
          'answer_start': np.array([y['answer_start'] for y in x['answers']]),
        },
      }
      for x in items
    ]

  monkeypatch.setattr(tables, 'read_tfds', read_tfds)
  config = make_config()
  task = dataclasses.replace(
    config.task, name='squad_v1.1', stride=8, max_question=8
  )
  here = squad.Squad(dataclasses.replace(config, task=task), tokenizer)
  assert asked == [('squad/v1.1', 'train'), ('squad/v1.1', 'validation')]
  assert here.fingerprint() == there.fingerprint()


def test_ids_and_all_answers_of_dev_are_in_the_fingerprint(make):
  asked = item('a', 'what?', 'characters')
  prints = [make(asked).fingerprint()]
  second = {'text': 'value', 'answer_start': CONTEXT.index('value')}
  for change in (
    {'id': 'b'},
    {'answers': [*asked['answers'], second]},
  ):
    prints.append(make(asked, dev=[asked | change]).fingerprint())
  assert len({*prints}) == 3


def test_a_stride_that_leaves_no_room_is_refused(make):
  with pytest.raises(
    errors.ConfigError, match=r'task.stride=40: must be below'
  ):
    make(item('a', 'what?', 'characters'), stride=40)


def test_a_missing_file_is_one_line(make):
  with pytest.raises(
    errors.ConfigError, match=r'train-v1.1.json: No such file'
  ):
    make.load()


@pytest.mark.parametrize(
  ('edit', 'said'),
  [
    (lambda x: x[:-9], 'is not JSON'),
    (lambda x: '{"version": 1}', "not in SQuAD's layout"),
    (lambda x: '{"data": []}', 'holds no questions'),
    (lambda x: x.replace('"question"', '"quest"'), 'behind question a'),
    (lambda x: x.replace('"characters"', '"letters"'), "'letters' is not at"),
    (lambda x: x.replace('"id": "b"', '"id": "a"'), 'there are two of this id'),
    (lambda x: x.replace(CONTEXT, ' '), 'its context is empty'),
    (lambda x: x.replace('"id": "b"', '"id": 7'), 'id=7: must be text'),
    (lambda x: x.replace('"what?"', 'null'), 'question=None: must be text'),
    (lambda x: x.replace('"what?"', r'"\ud800"'), 'question=.*: must be text'),
    (
      lambda x: x.replace('answer_start": ', 'answer_start": -'),
      'some text and',
    ),
    (lambda x: x.replace('answer_start": ', 'answer_start": 0.5'), 'must be'),
    (lambda x: x.replace('"characters"', '""'), 'must be some text and the'),
    (lambda x: x.replace('"characters"', 'null'), 'text=None: must be text'),
  ],
)
def test_damaged_files_are_one_line(make, tmp_path, edit, said):
  make(item('a', 'what?', 'characters'), item('b', 'who?', 'number'))
  path = tmp_path / 'train-v1.1.json'
  path.write_text(edit(path.read_text()))
  with pytest.raises(errors.DataError, match=said) as caught:
    make.load()
  assert str(path) in str(caught.value)
