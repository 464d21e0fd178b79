"""Words and their labels, from files to scores and back."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from td_flax import errors
from td_flax.tasks import tag

NAMES = """-DOCSTART- -X- O O

The DT O
object NN B-thing
class NN I-thing

Python NN B-lang
is VB O
"""
CONLLU = """# text = It's a string
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\tit\tPRON\tPRP\t_\t0\troot\t_\t_
2\t's\tbe\tAUX\tVBZ\t_\t0\tcop\t_\t_
2.1\tx\tx\tX\tX\t_\t0\tcop\t_\t_
3\ta string\ta\tNOUN\tNN\t_\t0\tdet\t_\t_

1\tEnd\tend\tVERB\tVB\t_\t0\troot\t_\t_
"""


@pytest.fixture
def make(tmp_path, make_config, tokenizer):
  def make(train, dev=None, test=None, ending='iob', length=32, **values):
    config = make_config(data__sequence_length=length, model__max_positions=64)
    texts = {'train': train, 'dev': dev or train, 'test': test}
    for name, text in texts.items():
      if text is not None:
        path = tmp_path / f'{name}.{ending}'
        path.write_text(text, encoding='utf-8')
        values[name] = str(path)
    task = dataclasses.replace(config.task, name='tag', **values)
    return tag.Tag(dataclasses.replace(config, task=task), tokenizer)

  return make


def peaks(task, split='dev'):
  """Outputs that predict the labels, and the first one elsewhere."""
  labels = getattr(task, split)[split].labels
  return np.eye(task.output.size, dtype=np.float32)[np.maximum(labels, 0)]


def test_columns_of_names(make, tokenizer):
  task = make(NAMES)
  assert task.metric == 'f1'
  assert task.output.size == 4  # B-lang, B-thing, I-thing, O
  ids, labels = task.train
  assert len(ids) == 2
  words = tokenizer.encode_batch(['The', 'object', 'class'])
  begins = 1 + np.cumsum([0, *map(len, words)])
  special = tokenizer.special
  row = [special.cls, *np.concatenate(words), special.sep]
  np.testing.assert_array_equal(ids[0][: len(row)], row)
  assert labels[0][begins[:3]].tolist() == [3, 1, 2]
  assert (labels[0] >= 0).sum() == 3
  assert task.score('dev', peaks(task)) == {
    'accuracy': 1,
    'precision': 1,
    'recall': 1,
    'f1': 1,
  }
  assert task.predictions('dev', peaks(task)) == {
    'dev.tsv': 'The\tO\nobject\tB-thing\nclass\tI-thing\n\n'
    'Python\tB-lang\nis\tO\n'
  }


def test_wrong_entities_cost(make):
  task = make(NAMES)
  logits = np.zeros_like(peaks(task))
  logits[..., 3] = 1  # O
  figures = task.score('dev', logits)
  assert figures['f1'] == 0
  assert figures['accuracy'] == pytest.approx(2 / 5)


@pytest.mark.parametrize(
  ('label', 'names'),
  [
    ('label', 'PRON AUX NOUN VERB'),
    ('upos', 'PRON AUX NOUN VERB'),
    ('4', 'PRP VBZ NN VB'),
  ],
)
def test_words_of_conllu(make, label, names):
  task = make(CONLLU, ending='conllu', label=label)
  assert task.metric == 'accuracy'
  text = task.predictions('dev', peaks(task))['dev.tsv']
  a, b, c, d = names.split()
  assert text == f"It\t{a}\n's\t{b}\na string\t{c}\n\nEnd\t{d}\n"
  assert task.score('dev', peaks(task)) == {'accuracy': 1, 'macro_f1': 1}


def test_a_column_may_be_named(make):
  task = make('a X 1\nb Y 2\n', label='1')
  text = task.predictions('dev', peaks(task))['dev.tsv']
  assert text == 'a\tX\nb\tY\n'


def test_test_files_need_no_labels(make):
  task = make(NAMES, test='Python\nis\n')
  assert (task.test['test'].labels == -1).all()
  written = task.predictions('test', peaks(task, 'test'))
  assert written == {'test.tsv': 'Python\tB-lang\nis\tB-lang\n'}
  conllu = CONLLU.replace('PRON', '_')
  task = make(CONLLU, test=conllu, ending='conllu')
  assert (task.test['test'].labels >= 0).sum() == 3


def test_a_word_without_ids_is_unknown(make, tokenizer):
  task = make('a X\n\u200b Y\nb X\n')
  (ids,) = task.train.ids
  assert (ids == tokenizer.special.unk).sum() == 1
  assert (task.train.labels >= 0).sum() == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
  st.lists(
    st.lists(st.text('abcdefß你', min_size=1, max_size=30), min_size=1),
    min_size=1,
    max_size=4,
  ),
  st.integers(8, 32),
)
def test_every_word_has_one_label_whatever_the_length(make, sentences, length):
  labels = ['X', 'Y', 'Z']
  lines, count = [], 0
  for sentence in [*sentences, ['a', 'b']]:
    for word in sentence:
      lines.append(f'{word} {labels[count % 3]}')
      count += 1
    lines.append('')
  task = make('\n'.join(lines), length=length)
  assert (task.train.labels >= 0).sum() == count
  logits = peaks(task)
  assert task.score('dev', logits) == {'accuracy': 1, 'macro_f1': 1}
  text = task.predictions('dev', logits)['dev.tsv']
  assert text.replace('\t', ' ').strip() == '\n'.join(lines).strip()


@pytest.mark.parametrize(
  ('text', 'values', 'said'),
  [
    ('', {}, 'holds no sentence'),
    ('a X\nb X\n', {}, 'must hold two labels or more'),
    ('a X\nb\n', {}, r'train.iob:2: must have 2 columns'),
    ('a X\nb Y\n', {'label': '3'}, r'train.iob:1: must have at least 4'),
    ('a X\nb Y\n', {'label': '0'}, "task.label='0': must be `label` for"),
    ('a X\nb Y\n', {'label': 'pos'}, "task.label='pos': must be"),
    ('a\tb\n', {'ending': 'conllu'}, r'train.conllu:1: must be 10 columns'),
    (CONLLU, {'ending': 'conllu', 'label': '12'}, 'a column from 0 to 9'),
    (
      CONLLU.replace('3\ta', 'x\ta'),
      {'ending': 'conllu'},
      r"train.conllu:6: must begin with the number of a word.*'x'",
    ),
  ],
)
def test_files_that_cannot_be_used_are_one_line(make, text, values, said):
  with pytest.raises(errors.UserError, match=said) as caught:
    make(text, **values)
  assert '\n' not in str(caught.value)


def test_words_and_sentences_are_in_the_fingerprint(make):
  text = 'one X\nword Y\n'
  prints = [make(text, dev=x).fingerprint() for x in (text, text.upper())]
  assert prints[0] != prints[1]  # the ids are the same: case is folded
  with_test = [
    make(text, test=x).fingerprint() for x in ('one\n', 'ONE\n', 'one\n')
  ]
  assert with_test[0] == with_test[2] != with_test[1]


def test_an_unknown_label_names_its_line(make):
  with pytest.raises(
    errors.DataError, match=r"dev.iob:2: the label 'Z' must be one of .* X, Y"
  ):
    make('a X\nb Y\n', dev='a X\nb Z\n')


def test_files_must_be_there_and_utf_8(make, tmp_path, make_config, tokenizer):
  with pytest.raises(errors.ConfigError, match=r'task\.train: missing'):
    tag.Tag(make_config(), tokenizer)
  make('a X\nb Y\n')
  (tmp_path / 'train.iob').write_bytes(b'a X\n\xff Y\n')
  config = make_config()
  task = dataclasses.replace(
    config.task, train=str(tmp_path / 'train.iob'), dev='missing.iob'
  )
  config = dataclasses.replace(config, task=task)
  with pytest.raises(errors.DataError, match=r'train.iob:2: byte 0xff is not'):
    tag.Tag(config, tokenizer)
