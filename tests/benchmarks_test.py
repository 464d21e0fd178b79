"""Most benchmarks run and write their figures; no figure is judged.

Not run here: huggingface.py needs models, report_runs.py the runs of others.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest
import small_run

ROOT = pathlib.Path(__file__).parents[1]
MODEL = [
  *small_run.options({'data.vocab_size': 300, 'train.batch_size': 4}),
  '--rounds=1',
]


def call(name, *arguments):
  return subprocess.run(
    [sys.executable, f'benchmarks/{name}.py', *arguments],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def run(name, tmp_path, *arguments):
  """Runs a benchmark; returns its JSON."""
  file = tmp_path / 'figures.json'
  done = call(name, *arguments, f'--json={file}')
  assert done.returncode == 0, done.stderr
  result = json.loads(file.read_text())
  assert f'benchmarks/{name}.py' in result['command']
  return result


def positive(values):
  return all(math.isfinite(value) and value > 0 for value in values)


def test_step_time(tmp_path):
  policies = ['cumulative_loss', 'random_ltd', 'attention', 'narrow']
  result = run(
    'step_time', tmp_path, *MODEL, f'--policies={",".join(policies)}'
  )
  assert list(result['policies']) == ['none', *policies]
  for row in result['policies'].values():
    assert positive([row['milliseconds'], row['step_time']['ratio']])
  assert result['policies']['cumulative_loss']['flops_ratio'] < 1


def test_selection(tmp_path):
  result = run('selection', tmp_path, *MODEL)
  assert set(result['milliseconds']) == {'step', 'routing', 'table'}
  assert positive(result['milliseconds'].values())


@pytest.mark.parametrize(
  ('name', 'option', 'message'),
  [
    ('selection', '--config.drop.policy=random_ltd', 'must be one of random,'),
    ('selection', '--config.train.microbatches=2', 'must be 1'),
    ('step_time', '--config.drop.stages=rest', 'one program is looked at'),
    ('step_time', '--json=README.md/x', 'cannot be written'),
    ('step_time', '--rounds=0', '--rounds=0'),
  ],
)
def test_a_mistake_is_told_before_anything_is_timed(name, option, message):
  done = call(name, *MODEL, option)
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1


def test_scaling(tmp_path):
  result = run('scaling', tmp_path, *MODEL, '--sweep=keep=8,16')
  keep = result['sweeps']['keep']
  assert list(keep) == ['8', '16']
  assert keep['16']['flops_ratio'] > 1


def test_vs_torch(tmp_path):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  result = run('vs_torch', tmp_path, *MODEL, '--dtypes=float32')
  assert positive(row['milliseconds'] for row in result['arms'])


def test_input_pipeline(tmp_path):
  result = run(
    'input_pipeline', tmp_path, '--text_mb=1', '--rows=2000', '--turns=1',
    '--steps=2', '--vocab_size=400', '--sequence_length=64',
  )  # fmt: skip
  rates = [
    arm['per_second']
    for part in ('reading', 'packing')
    for arm in result[part]['arms'].values()
  ]
  assert positive(rates)


def test_prepare_data(tmp_path):
  text = '\n\n'.join(f'some {i} words of text number {i}' for i in range(900))
  (tmp_path / 'corpus.txt').write_text(text)
  result = run(
    'prepare_data', tmp_path, f'--files={tmp_path}/corpus.txt', '--workers=1',
    '--vocab_size=300', '--sequence_length=32',
  )  # fmt: skip
  assert positive(result['mb_per_second_and_core'].values())
