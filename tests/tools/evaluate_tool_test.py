"""The command on two models, and its mistakes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from td_flax import errors
from td_flax.data.vocabulary import SpecialIds
from td_flax.hub import architecture
from td_flax.tasks import glue_suite, report


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'td_flax.tools.evaluate', *arguments],
    capture_output=True,
    text=True,
    timeout=300,
  )


RESULTS = {
  name: {
    'heldout': {
      'loss': 2.5 + i,
      'perplexity': 12.18,
      'accuracy': 0.25,
      'rows': 7,
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
  text = report.write(tmp_path / 'r', RESULTS, {'command': 'x'})
  assert '| plain | 3.5000 | 12.18 | 25.0% | 7 |' in text
  assert '| accuracy, % (chance: 50) | dropped | plain |' in text
  assert '| **overall** | 60.0 | 60.0 |' in text
  assert '| islands (term) | 50.0 | 50.0 |' in text
  assert (tmp_path / 'r' / 'report.md').read_text() == text
  saved = json.loads((tmp_path / 'r' / 'report.json').read_text())
  assert saved == {'command': 'x', 'models': RESULTS}


def glue(deviation):
  task = {'metric': 'matthews', 'mean': 0.25, 'deviation': deviation}
  return {'tasks': {'cola': task}, 'average': 0.25, 'seeds': 3}


def test_a_report_is_drawn(tmp_path):
  pyplot = pytest.importorskip(
    'matplotlib.pyplot', reason='needs the extra `plot`'
  )
  both = {
    name: suites | {'glue': glue(0.1)} for name, suites in RESULTS.items()
  }
  of_glue = {name: {'glue': glue(None)} for name in RESULTS}
  widths = []
  for name, results in (('a', RESULTS), ('b', both), ('c', of_glue)):
    report.write(tmp_path / name, results, {})
    widths.append(pyplot.imread(tmp_path / name / 'report.png').shape[1])
  assert widths[1] == 2 * widths[0] == 2 * widths[2]


def test_held_out_text_alone_is_not_drawn(tmp_path):
  alone = {'a': {'heldout': RESULTS['plain']['heldout']}}
  report.write(tmp_path, alone, {})
  assert not (tmp_path / 'report.png').exists()


def test_glue_is_a_table_of_means_and_deviations(tmp_path):
  results = {'a': {'glue': glue(0.0123)}, 'b': {'glue': glue(None)}}
  text = report.write(tmp_path, results, {})
  assert '## GLUE, dev, 3 seeds' in text
  assert '| cola (matthews) | 25.0 ± 1.2 | 25.0 |' in text
  assert '| **average** | 25.0 | 25.0 |' in text


def test_glue_is_fine_tuned_on_what_is_there(tmp_path):
  (tmp_path / 'RTE').mkdir()
  with pytest.raises(errors.ConfigError, match='holds no TASK'):
    glue_suite.tasks_in(str(tmp_path), [])
  (tmp_path / 'RTE' / 'train.tsv').touch()
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


@pytest.mark.parametrize(
  ('arguments', 'code', 'said'),
  [
    ([], 2, '--workdir: missing'),
    (['--workdir=x'], 2, '--output: missing'),
    (
      ['--workdir=x', '--output=y', '--suite=glu'],
      2,
      '--suite=glu: must be one of glue, blimp, heldout',
    ),
    (['--workdir=x', '--output=y'], 2, '--blimp_dir: missing'),
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
