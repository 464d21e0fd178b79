"""Scores of runs: their data, what is missing, one after another."""

import json

import pytest

from td_flax import artifacts, errors, pretrained
from td_flax.compare import scores
from td_flax.compare.settings import Scores
from td_flax.tasks import blimp, glue_suite, scorer


def wanted(*names, folder='', limit=0, seeds=1, epochs=3.0, rate=5e-5):
  return Scores(names, str(folder), str(folder), limit, seeds, epochs, rate)


def save(run, content):
  folder = run / 'scores'
  folder.mkdir(exist_ok=True)
  (folder / 'scores.json').write_text(json.dumps(content))


BLIMP = {
  'made_with': scores.made_with('blimp', wanted('blimp')),
  'metric': 'accuracy',
  'score': 0.625,
  'figures': {},
}


@pytest.fixture
def glue(tmp_path):
  (tmp_path / 'RTE').mkdir()
  (tmp_path / 'RTE' / 'train.tsv').touch()
  return tmp_path


def test_data_that_is_not_there_is_one_line(glue):
  for names, said in (
    (['blimp'], r"blimp_dir='.*': holds no \.jsonl file"),
    (['cola'], r"glue_dir='.*': holds no CoLA/train\.tsv"),
    (['rte'], r"glue_dir='.*': holds no RTE/dev\.tsv"),
  ):
    with pytest.raises(errors.ConfigError, match='^' + said):
      scores.check(wanted(*names, folder=glue))
  (glue / 'RTE' / 'dev.tsv').touch()
  scores.check(wanted('rte', folder=glue))


class Letters:
  """Every letter is a token."""

  def encode_batch(self, texts):
    return [list(text) for text in texts]


def test_a_sentence_too_long_for_the_models_is_one_line(tmp_path):
  pair = {'sentence_good': 'abc', 'sentence_bad': 'abcd', 'UID': 'x'}
  pair |= {'linguistics_term': 'x', 'field': 'x'}
  (tmp_path / 'x.jsonl').write_text(json.dumps(pair))
  chosen = wanted('blimp', folder=tmp_path)
  scores.check_lengths(chosen, Letters(), 6)
  scores.check_lengths(wanted('rte'), Letters(), 5)
  with pytest.raises(errors.DataError, match=r"'abcd'.*: has 4 .* takes 3"):
    scores.check_lengths(chosen, Letters(), 5)


def test_what_is_there_is_not_missing(tmp_path):
  both = wanted('blimp', 'rte')
  assert scores.missing(tmp_path, both) == ['blimp', 'rte']
  assert scores.figures(tmp_path, both) == {}
  save(tmp_path, {'blimp': BLIMP})
  assert scores.missing(tmp_path, both) == ['rte']
  expected = {'blimp': {'metric': 'accuracy', 'score': 0.625}}
  assert scores.figures(tmp_path, both) == expected
  assert scores.figures(tmp_path, wanted('rte')) == {}


def test_a_score_that_is_not_finite_is_none(tmp_path):
  save(tmp_path, {'blimp': BLIMP | {'score': float('nan')}})
  assert scores.missing(tmp_path, wanted('blimp')) == []
  expected = {'blimp': {'metric': 'accuracy', 'score': None}}
  assert scores.figures(tmp_path, wanted('blimp')) == expected


def test_a_score_made_in_another_way_is_refused(tmp_path):
  save(tmp_path, {'blimp': BLIMP})
  with pytest.raises(
    errors.CheckpointError, match='blimp_limit=0 there, 5 here; '
  ):
    scores.missing(tmp_path, wanted('blimp', limit=5))
  assert scores.missing(tmp_path, wanted('rte', limit=5)) == ['rte']


def test_a_score_of_other_data_is_refused(tmp_path):
  (tmp_path / 'RTE').mkdir()
  (tmp_path / 'RTE' / 'dev.tsv').write_text('one')
  chosen = wanted('blimp', 'rte', folder=tmp_path)
  made = {name: scores.made_with(name, chosen) for name in chosen.names}
  run = tmp_path / 'run'
  run.mkdir()
  save(run, {name: BLIMP | {'made_with': x} for name, x in made.items()})
  assert scores.missing(run, chosen) == []
  (tmp_path / 'other' / 'RTE').mkdir(parents=True)
  (tmp_path / 'other' / 'RTE' / 'dev.tsv').write_text('two')
  with pytest.raises(errors.CheckpointError, match=r'rte was made .*: data='):
    scores.missing(run, wanted('blimp', 'rte', folder=tmp_path / 'other'))


@pytest.mark.parametrize(
  'text', ['{"bl', '[]', '{"blimp": {}}', '{"blimp": 1}']
)
def test_a_damaged_file_is_one_line(tmp_path, text):
  save(tmp_path, {})
  (tmp_path / 'scores' / 'scores.json').write_text(text)
  with pytest.raises(errors.CheckpointError, match=r'json: damaged') as raised:
    scores.missing(tmp_path, wanted('blimp'))
  assert '\n' not in str(raised.value)


def test_an_interruption_repeats_only_what_is_missing(tmp_path, monkeypatch):
  begun = []

  def score(*_):
    begun.append('blimp')
    return {'overall': 0.5, 'paradigms': {'a': 0.5}}

  def tune(model, engine, workdir, folder, tasks, **how):
    (name,) = tasks
    assert how == {'seeds': 2, 'epochs': 0.5, 'learning_rate': 1e-3}
    begun.append(name)
    run = workdir / name / 'runs' / 'seed0'
    (run / 'checkpoints' / '3').mkdir(parents=True, exist_ok=True)
    if begun.count(name) == 1 and name == 'rte':
      raise errors.Stopped('a signal')
    (run / 'summary.json').touch()
    figures = {'f1': {'mean': 0.25}}
    found = {'metric': 'f1', 'mean': 0.25, 'figures': figures}
    return {'tasks': {name: found}, 'average': 0.25, 'seeds': how['seeds']}

  monkeypatch.setattr(pretrained, 'find', lambda *_: None)
  monkeypatch.setattr(blimp, 'read', lambda *_: [])
  monkeypatch.setattr(blimp, 'evaluate', score)
  monkeypatch.setattr(scorer, 'Scorer', lambda *_: None)
  monkeypatch.setattr(glue_suite, 'evaluate', tune)
  all_ = wanted('blimp', 'mrpc', 'rte', seeds=2, epochs=0.5, rate=1e-3)
  with pytest.raises(errors.Stopped):
    scores.add(tmp_path, scores.missing(tmp_path, all_), all_)
  assert scores.missing(tmp_path, all_) == ['rte']
  folder = tmp_path / 'scores'
  # What the interrupted one has saved is needed, the finished one's is not.
  assert (folder / 'rte/runs/seed0/checkpoints/3').exists()
  assert not (folder / 'mrpc/runs/seed0/checkpoints').exists()
  scores.add(tmp_path, scores.missing(tmp_path, all_), all_)
  assert begun == ['blimp', 'mrpc', 'rte', 'rte']
  assert scores.missing(tmp_path, all_) == []
  assert not (folder / 'rte/runs/seed0/checkpoints').exists()
  found = json.loads((folder / 'scores.json').read_text())
  assert found['mrpc'] == {
    'made_with': {
      'data': artifacts.fingerprint({}),  # there is none here
      'score_seeds': 2,
      'score_epochs': 0.5,
      'score_learning_rate': 1e-3,
    },
    'metric': 'f1',
    'score': 0.25,
    'figures': {'f1': {'mean': 0.25}},
  }
  assert found['blimp']['figures']['paradigms'] == {'a': 0.5}
