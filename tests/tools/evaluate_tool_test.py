"""The command on two models, and its mistakes."""

import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from flax import nnx

from td_flax import errors
from td_flax.data import sentence_piece
from td_flax.data.vocabulary import SpecialIds
from td_flax.hub import architecture
from td_flax.model import bert
from td_flax.tasks import glue_suite, report

TEXTS = [f'some {i} words of text number {i * i}' for i in range(100)]


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'td_flax.tools.evaluate', *map(str, arguments)],
    capture_output=True,
    text=True,
    env={key: x for key, x in os.environ.items() if key != 'XLA_FLAGS'},
    timeout=600,
  )


@pytest.fixture
def models(tmp_path, make_config, save_run):
  """Two workdirs with a checkpoint."""
  tokenizer = sentence_piece.train(
    TEXTS, kind='bpe', vocab_size=300, lowercase=True
  )
  config = make_config()
  paths = []
  for seed, name in enumerate(('one', 'two')):
    net = bert.Bert(config.model, tokenizer.vocab_size, nnx.Rngs(seed))
    params = jax.device_get(nnx.split(net)[1])
    made = save_run(tmp_path / name, config, tokenizer, params)
    paths.append(str(made.path))
  return paths


def write_data(folder):
  """A little of everything; returns the flags that name it."""
  (folder / 'text.txt').write_text('\n\n'.join(TEXTS))
  pairs = [
    {
      'sentence_good': text,
      'sentence_bad': ' '.join(reversed(text.split())),
      'UID': 'order',
      'linguistics_term': 'words',
      'field': 'syntax',
    }
    for text in TEXTS[:4]
  ]
  (folder / 'order.jsonl').write_text('\n'.join(map(json.dumps, pairs)))
  (folder / 'RTE').mkdir()
  lines = ['index\tsentence1\tsentence2\tlabel']
  for i, text in enumerate(TEXTS[:16]):
    label = 'entailment' if i % 2 else 'not_entailment'
    lines.append(f'{i}\t{text}\tnumber {i}\t{label}')
  for split in ('train', 'dev'):
    (folder / 'RTE' / f'{split}.tsv').write_text('\n'.join(lines))
  return (
    '--suite=glue,blimp,heldout',
    f'--glue_dir={folder}',
    f'--blimp_dir={folder}',
    f'--text={folder}/text.txt',
  )


def test_two_models_from_checkpoints_to_a_report(tmp_path, models):
  output = tmp_path / 'report'
  arguments = (
    f'--workdir={",".join(models)}',
    *write_data(tmp_path),
    '--seeds=1',
    '--epochs=1',
    f'--output={output}',
  )
  done = run(*arguments)
  assert done.returncode == 0, done.stderr
  assert (output / 'report.md').read_text().strip() == done.stdout.strip()
  assert '| model | loss, nats per token |' in done.stdout
  assert '| rte (accuracy) | ' in done.stdout
  assert '## BLiMP, 4 pairs' in done.stdout
  found = json.loads((output / 'report.json').read_text())
  assert found.keys() >= {'command', 'td_flax', 'jax', 'date', 'platform'}
  assert list(found['models']) == ['one', 'two']
  for suites in found['models'].values():
    assert suites['heldout']['loss'] == pytest.approx(5.7, abs=0.3)  # ln 300
    assert suites['blimp']['overall'] in (0, 0.25, 0.5, 0.75, 1)
    assert suites['glue']['average'] == suites['glue']['tasks']['rte']['mean']

  # As an interruption of the second model's fine-tuning leaves it.
  one, two = (
    output / f'glue/{name}/rte/runs/seed0/summary.json'
    for name in ('one', 'two')
  )
  two.unlink()
  before = one.stat().st_mtime_ns
  again = run(*arguments)
  assert again.returncode == 0, again.stderr
  assert again.stdout == done.stdout
  assert one.stat().st_mtime_ns == before
  assert two.exists()
  pyplot = pytest.importorskip(
    'matplotlib.pyplot', reason='needs the extra `plot`'
  )
  assert pyplot.imread(output / 'report.png').size


RESULTS = {
  name: {
    'heldout': {
      'loss': 2.5 + i,
      'perplexity': 12.18,
      'accuracy': 0.25,
      'rows': 7,
      'row_length': 128,
      'tokenizer': 'aa',
    },
    'blimp': {
      'overall': 0.6,
      'fields': {'syntax': 0.6},
      'terms': {'islands': 0.5, 'agreement': 0.7},
      'paradigms': {'a': 0.5, 'b': 0.7},
      'pairs': 2000,
    },
  }
  for i, name in enumerate(('dropped', 'plain'))
}


def test_a_report_shows_models_side_by_side(tmp_path):
  (tmp_path / 'r').mkdir()
  text = report.write(tmp_path / 'r', RESULTS, {'command': 'x'})
  assert '| plain | 3.5000 | 12.18 | 25.0% | 7 |' in text
  assert '| accuracy, % (chance: 50) | dropped | plain |' in text
  assert '| **overall** | 60.0 | 60.0 |' in text
  assert '| islands (term) | 50.0 | 50.0 |' in text
  assert (tmp_path / 'r' / 'report.md').read_text() == text
  assert 'do not compare' not in text
  saved = json.loads((tmp_path / 'r' / 'report.json').read_text())
  assert saved == {'command': 'x', 'models': RESULTS}


def test_a_report_may_lack_what_is_not_measured_yet(tmp_path):
  plain = {'heldout': RESULTS['plain']['heldout']}
  text = report.write(tmp_path, {'a': RESULTS['dropped'], 'b': plain}, {})
  assert '| b | 3.5000 |' in text
  assert '| accuracy, % (chance: 50) | a |\n' in text
  text = report.write(tmp_path, {'a': plain, 'b': {}}, {})
  assert '| a | 3.5000 |' in text


@pytest.mark.parametrize('other', [{'tokenizer': 'bb'}, {'row_length': 512}])
def test_losses_of_other_tokens_are_not_drawn_together(tmp_path, other):
  ours = RESULTS['dropped']['heldout']
  results = {'a': {'heldout': ours}, 'b': {'heldout': ours | other}}
  text = report.write(tmp_path, results, {})
  assert text.splitlines()[-1].startswith('Losses do not compare: the tok')
  report.draw(tmp_path, results)
  assert not (tmp_path / 'report.png').exists()


def glue(deviation):
  tasks = {'cola': {'matthews': 0.25}, 'mrpc': {'f1': 0.5, 'accuracy': 0.75}}
  return {
    'tasks': {
      name: {
        'official': list(means),
        'figures': {
          metric: {'mean': mean, 'deviation': deviation}
          for metric, mean in means.items()
        },
      }
      for name, means in tasks.items()
    },
    'average': 0.4375,
    'seeds': 3,
  }


def test_a_report_is_drawn(tmp_path):
  pyplot = pytest.importorskip(
    'matplotlib.pyplot', reason='needs the extra `plot`'
  )
  every = {
    name: suites | {'glue': glue(0.1)} for name, suites in RESULTS.items()
  }
  widths = {}
  for kind in ('all', 'heldout', 'blimp', 'glue'):
    results = every
    if kind != 'all':
      results = {name: {kind: suites[kind]} for name, suites in every.items()}
    (tmp_path / kind).mkdir()
    report.draw(tmp_path / kind, results)
    drawn = pyplot.imread(tmp_path / kind / 'report.png')
    widths[kind] = drawn.shape[1]
  alone = widths.pop('blimp')
  assert widths == {'all': 3 * alone, 'heldout': alone, 'glue': alone}


def test_glue_is_a_table_of_means_and_deviations(tmp_path):
  results = {'a': {'glue': glue(0.0123)}, 'b': {'glue': glue(None)}}
  text = report.write(tmp_path, results, {})
  assert '## GLUE, dev, 3 seeds' in text
  assert '| cola (matthews) | 25.0 ± 1.2 | 25.0 |' in text
  assert '| mrpc (f1) | 50.0 ± 1.2 | 50.0 |' in text
  assert '| mrpc (accuracy) | 75.0 ± 1.2 | 75.0 |' in text
  assert '| **average** | 43.8 | 43.8 |' in text


def test_metrics_of_a_task_are_averaged_before_tasks(tmp_path, monkeypatch):
  figures = {
    'mnli': {'accuracy': 0.5, 'dev_mismatched/accuracy': 0.7, 'loss': 9},
    'mrpc': {'f1': 0.8, 'accuracy': 0.9, 'loss': 9},
    'cola': {'matthews': 0.1, 'loss': 9},
  }

  def run(config, path, task, found, engine):
    means = {
      name: {'mean': x, 'deviation': None}
      for name, x in figures[path.name].items()
    }
    return {'points': [{'figures': means}]}

  monkeypatch.setattr(glue_suite.sweep, 'run', run)
  monkeypatch.setattr(glue_suite.fine_tuning, 'with_model', lambda x, _: x)
  monkeypatch.setattr(
    glue_suite,
    'Sentences',
    lambda config, _: types.SimpleNamespace(
      metric=next(iter(figures[config.task.name]))
    ),
  )
  model = types.SimpleNamespace(
    model=types.SimpleNamespace(max_positions=32), source='x', tokenizer=None
  )
  found = glue_suite.evaluate(
    model,
    None,
    tmp_path,
    'x',
    list(figures),
    seeds=1,
    epochs=1.0,
    learning_rate=1e-3,
  )
  scores = {name: x['score'] for name, x in found['tasks'].items()}
  assert scores == pytest.approx({'mnli': 0.6, 'mrpc': 0.85, 'cola': 0.1})
  assert found['average'] == pytest.approx((0.6 + 0.85 + 0.1) / 3)


def test_glue_is_fine_tuned_on_what_is_there(tmp_path):
  (tmp_path / 'RTE').mkdir()
  with pytest.raises(errors.ConfigError, match='holds no TASK'):
    glue_suite.tasks_in(str(tmp_path), [])
  (tmp_path / 'RTE' / 'train.tsv').touch()
  with pytest.raises(errors.ConfigError, match=r'holds no RTE/dev\.tsv'):
    glue_suite.tasks_in(str(tmp_path), [])
  (tmp_path / 'RTE' / 'dev.tsv').touch()
  assert glue_suite.tasks_in(str(tmp_path), []) == ['rte']
  with pytest.raises(errors.ConfigError, match='--glue_tasks=x: must be one'):
    glue_suite.tasks_in(str(tmp_path), ['x'])


@pytest.mark.hf
def test_a_model_without_a_masked_lm_head_is_not_scored(tmp_path, make_config):
  safetensors = pytest.importorskip(
    'safetensors.numpy', reason='needs the extra `hf`'
  )
  pytest.importorskip('tokenizers', reason='needs the extra `hf`')
  pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a']
  folder = tmp_path / 'hf'
  folder.mkdir()
  (folder / 'vocab.txt').write_text('\n'.join(pieces))
  content = architecture.describe(make_config().model, 6, SpecialIds())
  (folder / 'config.json').write_text(json.dumps(content))
  words = np.zeros((6, 16), np.float32)
  safetensors.save_file(
    {'bert.embeddings.word_embeddings.weight': words},
    folder / 'model.safetensors',
  )
  done = run(
    f'--workdir={folder}',
    '--suite=heldout',
    '--text=embedded',
    f'--output={tmp_path / "report"}',
  )
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert f'{folder}: has no masked-LM head' in line
  assert not (tmp_path / 'report').exists()


def test_a_place_that_cannot_be_written_is_one_line_at_once(tmp_path, models):
  (tmp_path / 'text.txt').write_text('some words')
  (tmp_path / 'file').touch()
  for output in ('file', 'file/x'):
    done = run(
      f'--workdir={models[0]}',
      '--suite=heldout',
      f'--text={tmp_path}/text.txt',
      f'--output={tmp_path}/{output}',
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    said = (
      f"--output='{tmp_path}/{output}': cannot be written (Not a directory)"
    )
    assert said in line


def test_a_text_that_is_not_there_leaves_nothing(tmp_path, models):
  done = run(
    f'--workdir={models[0]}',
    '--suite=heldout',
    f'--text={tmp_path}/nope.txt',
    f'--output={tmp_path}/report',
  )
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert 'nope.txt' in line
  assert not (tmp_path / 'report').exists()


@pytest.mark.parametrize(
  ('arguments', 'code', 'said'),
  [
    ([], 2, '--workdir: missing'),
    (['--workdir=x', '--output=gs://b/x'], 2, 'must be a local folder'),
    (['--workdir=x'], 2, '--output: missing'),
    (
      ['--workdir=x', '--output=y', '--suite=glu'],
      2,
      '--suite=glu: must be one of glue, blimp, heldout',
    ),
    (['--workdir=x', '--output=y'], 2, '--blimp_dir: missing'),
    (
      ['--workdir=x', '--output=y', '--learning_rate=0'],
      2,
      '--learning_rate=0.0: must be a finite number above 0',
    ),
    (['--workdir=x', '--output=y', '--epochs=nan'], 2, '--epochs=nan: must be'),
    (
      ['--workdir=x', '--output=y', '--suite=heldout', '--text=z'],
      2,
      "--workdir='x': does not exist",
    ),
  ],
)
def test_mistakes_are_one_line(arguments, code, said):
  done = run(*arguments)
  assert done.returncode == code
  (line,) = done.stderr.splitlines()
  assert said in line
