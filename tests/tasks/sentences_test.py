"""GLUE in its official layouts, and own files."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from td_flax import errors
from td_flax.tasks import glue, sentences, tables

# A few lines of every task, in the layout of GLUE's own download; {label} is
# filled in where there is one.
HEADERS = {
  'cola': ('', 'x\t{label}\t\tthe first text', 'index\tsentence'),
  'sst2': ('sentence\tlabel', 'the first text \t{label}', 'index\tsentence'),
  'mrpc': (
    'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String',
    '{label}\t1\t2\t"the first text\tthe other one',
    'index\t#1 ID\t#2 ID\t#1 String\t#2 String',
  ),
  'stsb': (
    'index\tgenre\tsentence1\tsentence2\tscore',
    '0\tx\tthe first text\tthe other one\t{label}',
    'index\tgenre\tsentence1\tsentence2',
  ),
  'qqp': (
    'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate',
    '0\t1\t2\tthe first text\tthe other one\t{label}',
    'id\tquestion1\tquestion2',
  ),
  'mnli': (
    'index\tsentence1\tsentence2\tlabel1\tgold_label',
    '0\tthe first text\tthe other one\tx\t{label}',
    'index\tsentence1\tsentence2',
  ),
  'qnli': (
    'index\tquestion\tsentence\tlabel',
    '0\tthe first text\tthe other one\t{label}',
    'index\tquestion\tsentence',
  ),
  'rte': (
    'index\tsentence1\tsentence2\tlabel',
    '0\tthe first text\tthe other one\t{label}',
    'index\tsentence1\tsentence2',
  ),
  'wnli': (
    'index\tsentence1\tsentence2\tlabel',
    '0\tthe first text\tthe other one\t{label}',
    'index\tsentence1\tsentence2',
  ),
}


def write(root, task):
  """A folder with four examples a split; returns the labels."""
  spec = glue.TASKS[task]
  folder = root / spec.folder
  folder.mkdir(parents=True, exist_ok=True)
  header, line, test = HEADERS[task]
  labels = [*spec.labels, *spec.labels][:4] or ['0.0', '1.5', '5.0', '2.25']
  lines = [line.replace('{label}', label) for label in labels]
  for name in ('train', *spec.dev):
    text = '\n'.join([header, *lines] if header else lines) + '\n'
    (folder / f'{name}.tsv').write_text(text, encoding='utf-8-sig')
  columns = test.split('\t')
  for name in spec.test:
    place = folder
    if name == glue.DIAGNOSTIC:
      place = root / 'diagnostic'
      place.mkdir(exist_ok=True)
    rows = [
      '\t'.join('text' if x in spec.texts else index for x in columns)
      for index in '73'
    ]
    (place / f'{name}.tsv').write_text('\n'.join([test, *rows, '']))
  return labels


@pytest.fixture
def make(tmp_path, make_config, tokenizer):
  def make(name, length=32, **values):
    config = make_config(data__sequence_length=length)
    task = dataclasses.replace(config.task, name=name, **values)
    data = dataclasses.replace(config.data, task_dir=str(tmp_path))
    config = dataclasses.replace(config, task=task, data=data)
    return sentences.Sentences(config, tokenizer)

  return make


def peaks(task, numbers):
  """Outputs that predict these numbers."""
  if task.output.is_regression:
    return np.asarray(numbers, np.float32)[:, None, None]
  return np.eye(task.output.size, dtype=np.float32)[numbers][:, None]


@pytest.mark.parametrize('name', glue.TASKS)
def test_every_task_is_read_scored_and_written(make, tmp_path, tokenizer, name):
  labels = write(tmp_path, name)
  task, spec = make(name), glue.TASKS[name]
  is_pair = len(spec.texts) == 2
  first, second = tokenizer.encode_batch(
    ['"the first text' if name == 'mrpc' else 'the first text', 'the other one']
  )
  special = tokenizer.special
  expected = [special.cls, *first, special.sep]
  if is_pair:
    expected += [*second, special.sep]
  np.testing.assert_array_equal(task.train.ids[0][: len(expected)], expected)
  assert (task.train.ids[0][len(expected) :] == special.pad).all()
  assert list(task.dev) == list(spec.dev)
  assert list(task.test) == list(spec.test)

  numbers = task.train.labels[:, 0]
  if spec.labels:
    assert [spec.labels[x] for x in numbers] == labels
    assert task.train.labels.dtype == np.int32
  else:
    np.testing.assert_array_equal(numbers, [float(x) for x in labels])
  right = peaks(task, numbers)
  for split in task.dev:
    figures = task.score(split, right)
    assert list(figures) == list(spec.metrics)
    assert all(x == pytest.approx(1) for x in figures.values())
  for split, file in spec.test.items():
    assert (task.test[split].labels == -1).all()
    written = task.predictions(split, right[:2])
    header, *rows = written[file].splitlines()
    assert header == 'index\tprediction'
    shown = ['0.000', '1.500'] if name == 'stsb' else labels[:2]
    assert rows == [f'7\t{shown[0]}', f'3\t{shown[1]}']


def test_submissions_of_similarity_stay_in_its_range(make, tmp_path):
  write(tmp_path, 'stsb')
  task = make('stsb')
  text = task.predictions('test', peaks(task, [-1, 7.5]))
  assert text['STS-B.tsv'].splitlines()[1:] == ['7\t0.000', '3\t5.000']
  # Outputs are scored as they are: those of the labels, on a longer scale.
  labels = task.dev['dev'].labels[:, 0]
  figures = task.score('dev', peaks(task, 2 * labels - 3))
  assert figures == {'pearson': pytest.approx(1), 'spearman': pytest.approx(1)}


def test_a_task_without_test_files_predicts_none(make, tmp_path):
  write(tmp_path, 'rte')
  (tmp_path / 'RTE' / 'test.tsv').unlink()
  assert make('rte').test == {}


@pytest.mark.parametrize('has_diagnostic', [True, False])
def test_numbers_of_tfds_are_the_labels(
  has_diagnostic, monkeypatch, tmp_path, make_config, tokenizer, capsys
):
  asked = []

  def read_tfds(spec, split, tfds_dir, key):
    asked.append((spec, split))
    label = -1 if 'test' in split else 2
    return [{'premise': 'one', 'hypothesis': 'two', 'label': label, 'idx': 0}]

  monkeypatch.setattr(tables, 'read_tfds', read_tfds)
  if has_diagnostic:
    (tmp_path / 'glue' / 'ax' / '2.0.0').mkdir(parents=True)
  config = make_config(data__tfds_dir=str(tmp_path))
  config = dataclasses.replace(
    config, task=dataclasses.replace(config.task, name='mnli')
  )
  task = sentences.Sentences(config, tokenizer)
  assert asked == [
    ('glue/mnli', 'train'),
    ('glue/mnli', 'validation_matched'),
    ('glue/mnli', 'validation_mismatched'),
    ('glue/mnli', 'test_matched'),
    ('glue/mnli', 'test_mismatched'),
    *([('glue/ax', 'test')] if has_diagnostic else []),
  ]
  assert task.train.labels.tolist() == [[2]]
  assert task.test['test_matched'].labels.tolist() == [[-1]]
  told = capsys.readouterr().err
  if has_diagnostic:
    assert list(task.predictions('diagnostic', peaks(task, [0]))) == ['AX.tsv']
  else:
    assert f'--tfds=glue/ax --tfds_dir={tmp_path}`' in told


def test_submissions_follow_the_file_that_tfds_shuffled(
  monkeypatch, make_config, tokenizer
):
  texts = 'the', 'class', 'object'

  def read_tfds(spec, split, tfds_dir, key):
    rows = [
      {'sentence': text, 'label': i % 2, 'idx': i}
      for i, text in enumerate(texts)
    ]
    return [rows[i] for i in (2, 0, 1)]

  monkeypatch.setattr(tables, 'read_tfds', read_tfds)
  config = make_config()
  config = dataclasses.replace(
    config, task=dataclasses.replace(config.task, name='cola')
  )
  task = sentences.Sentences(config, tokenizer)
  written = task.predictions('test', peaks(task, [1, 0, 1]))
  assert written['CoLA.tsv'].splitlines()[1:] == ['0\t1', '1\t0', '2\t1']
  for row, ids in zip(
    task.test['test'].ids, tokenizer.encode_batch(texts), strict=True
  ):
    assert row[1 : 1 + len(ids)].tolist() == ids.tolist()


def test_own_files_have_own_columns_and_labels(make, tmp_path):
  for name in ('train', 'dev'):
    (tmp_path / f'{name}.csv').write_text(
      'stars,review,title\n10,good,A\n2,bad,B\n10,fine,C\n'
    )
  (tmp_path / 'test.jsonl').write_text('{"review": "x", "title": "y"}\n')
  files = {
    'train': str(tmp_path / 'train.csv'),
    'dev': str(tmp_path / 'dev.csv'),
    'test': str(tmp_path / 'test.jsonl'),
  }
  columns = {'text': 'review', 'pair': 'title', 'label': 'stars'}
  task = make('classify', **files, **columns)
  assert task.train.labels[:, 0].tolist() == [1, 0, 1]  # 2 comes before 10
  figures = task.score('dev', peaks(task, [1, 1, 1]))
  assert figures == {
    'accuracy': pytest.approx(2 / 3),
    'macro_f1': pytest.approx(0.4),
  }
  written = task.predictions('test', peaks(task, [0]))
  assert written == {'test.tsv': 'index\tprediction\n0\t2\n'}

  numbers = make('regress', **files, **columns)
  assert numbers.output.is_regression
  assert numbers.train.labels[:, 0].tolist() == [10, 2, 10]
  written = numbers.predictions('test', peaks(numbers, [0.00012345]))
  assert written == {'test.tsv': 'index\tprediction\n0\t0.00012345\n'}
  assert numbers.score('dev', peaks(numbers, [10, 2, 10])) == {
    'pearson': pytest.approx(1),
    'spearman': pytest.approx(1),
  }


def test_labels_that_are_the_same_number_have_an_order(make, tmp_path):
  path = tmp_path / 'rows.tsv'
  numbers = ['1', '01', '001', '2', '02', '0001']
  path.write_text('\n'.join(['text\tlabel', *(f'x\t{x}' for x in numbers)]))
  task = make('classify', train=str(path), dev=str(path))
  assert task.labels == ('0001', '001', '01', '1', '02', '2')


def test_indices_of_test_files_are_in_the_fingerprint(make, tmp_path):
  write(tmp_path, 'rte')
  before = make('rte').fingerprint()
  assert make('rte').fingerprint() == before
  file = tmp_path / 'RTE' / 'test.tsv'
  file.write_text(file.read_text().replace('7\t', '8\t'))
  assert make('rte').fingerprint() != before


def test_the_longer_text_of_a_pair_gives_way(make, tmp_path, tokenizer, capsys):
  for name in ('train', 'dev'):
    (tmp_path / f'{name}.csv').write_text(
      f'a,b,y\n{"long " * 40},short,0\nx,y,1\n'
    )
  files = {x: str(tmp_path / f'{x}.csv') for x in ('train', 'dev')}
  task = make('classify', length=16, text='a', pair='b', label='y', **files)
  row = task.train.ids[0]
  (short,) = tokenizer.encode_batch(['short'])
  ends = np.flatnonzero(row == tokenizer.special.sep)
  assert ends[-1] == 15
  np.testing.assert_array_equal(row[ends[0] + 1 : -1], short)
  assert '2 of 4 examples were cut' in capsys.readouterr().err


@given(st.lists(st.integers(0, 60), min_size=1, max_size=2), st.integers(0, 60))
def test_cutting_fills_the_room_and_spares_the_shorter_text(lengths, room):
  kept = sentences._fitting(lengths, room)
  assert sum(kept) == min(sum(lengths), room)
  assert all(0 <= k <= n for k, n in zip(kept, lengths, strict=True))
  if sum(kept) < sum(lengths) and len(kept) == 2:
    cut = [k < n for k, n in zip(kept, lengths, strict=True)]
    assert abs(kept[0] - kept[1]) <= 1 if all(cut) else True
    for i in (0, 1):
      if cut[i] and not cut[1 - i]:
        assert kept[i] >= kept[1 - i] - 1


def test_only_rows_that_are_broken_in_glue_itself_are_left_out(
  make, tmp_path, capsys
):
  for name in ('qqp', 'rte'):
    write(tmp_path, name)
    for split in ('train', 'dev', 'test'):
      path = tmp_path / glue.TASKS[name].folder / f'{split}.tsv'
      path.write_text(path.read_text() + '9\tbroken\n')
  with pytest.raises(errors.DataError, match=r"train.tsv:6: has no 'sentence2"):
    make('rte')
  with pytest.raises(errors.DataError, match=r"test.tsv:4: has no 'question2'"):
    make('qqp')
  (tmp_path / 'QQP' / 'test.tsv').unlink()
  assert len(make('qqp').train.ids) == 4
  assert 'train.tsv: 1 broken rows are left out' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('edit', 'said'),
  [
    ('0\tone\ttwo\tmaybe', r":6: the label 'maybe' must be one of entailment"),
    (None, 'holds no folder RTE'),
  ],
)
def test_mistakes_in_glue_are_one_line(make, tmp_path, edit, said):
  if edit:
    write(tmp_path, 'rte')
    with (tmp_path / 'RTE' / 'train.tsv').open('a') as file:
      file.write(edit + '\n')
  with pytest.raises(errors.UserError, match=said):
    make('rte')


@pytest.mark.parametrize(
  ('name', 'content', 'values', 'said'),
  [
    ('classify', None, {}, "task.train='': missing"),
    ('classify', 'text,label\na,1\nb,1\n', {}, r"x\.csv'.*have the label '1'"),
    ('classify', 'text,label\na,1\nb,\n', {}, r"x\.csv:3: 'label' is empty"),
    ('regress', 'text,label\na,1\nb,x\n', {}, r":3: the label 'x' must be a"),
    ('regress', 'text,label\na,1\nb,nan\n', {}, 'must be a number'),
    ('classify', 'text,label\na,1\n', {'label': 'y'}, "has no column 'y'"),
  ],
)
def test_mistakes_in_own_files_are_one_line(
  make, tmp_path, name, content, values, said
):
  if content:
    path = tmp_path / 'x.csv'
    path.write_text(content)
    values = {'train': str(path), 'dev': str(path), **values}
  with pytest.raises(errors.UserError, match=said):
    make(name, **values)


def test_text_must_be_text(make, tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_text('{"text": 3, "label": 1}\n')
  with pytest.raises(errors.DataError, match=r":1: 'text' must be text, is 3"):
    make('classify', train=str(path), dev=str(path))
