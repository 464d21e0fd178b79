import shlex
import types

import numpy as np
import pytest

from td_flax import summary

CONTENT = {
  'step': 1200,
  'devices': 2,
  'platform': 'cpu',
  'first_eval_loss': 9.01,
  'last_eval_loss': 5.5,
  'skipped_updates': 0,
  'layer_tokens_kept': 0.75,
  'flops_ratio': 0.7551,
}

ARGUMENTS = {'config': '--config=c.py', 'workdir': '--workdir=a'}


@pytest.fixture
def page(make_config, tmp_path):
  packed = types.SimpleNamespace(
    directory=tmp_path / 'packed',
    tokenizer=types.SimpleNamespace(legend='(x) begins a word'),
  )

  def make(
    content=CONTENT, place=f'{tmp_path}/', arguments=ARGUMENTS, **overrides
  ):
    config = make_config(**overrides)
    return summary.page(content, config, place, packed, arguments)

  return make


def test_commands_can_be_pasted_whatever_the_folder_is_called(page):
  text = page(place='my runs/a', drop__policy='random')
  line = next(x for x in text.splitlines() if 'tools.export' in x)
  assert shlex.split(line)[3:] == [
    '--workdir=my runs/a', '--output=my runs/a_hf',
  ]  # fmt: skip


def test_the_page_says_what_happened_and_where_it_is(page, tmp_path):
  text = page(drop__policy='random')
  for words in (
    '1,200 steps',
    '9.010 -> 5.500',
    '25.0% of layer-tokens',
    '0.755 of',
    str(tmp_path / 'checkpoints'),
    str(tmp_path / 'packed'),
    str(tmp_path / 'tensorboard'),
    '--config.drop.policy=none',
    f'td_flax.tools.export --workdir={tmp_path} --output={tmp_path}_hf',
  ):
    assert words in text
  assert 'tokens/s' not in text  # a run that was already done took no step
  assert 'most important' not in text
  assert 'skipped updates' not in text


def test_what_lies_in_a_bucket_is_named_by_its_url(page):
  text = page(
    place='gs://b/runs/one', data__dir='gs://b/rows', drop__policy='random'
  )
  for words in (
    ' gs://b/runs/one/checkpoints ',
    ' gs://b/rows ',
    '--workdir=gs://b/runs/one_plain',
    '--workdir=gs://b/runs/one --output=one_hf',
  ):
    assert words in text


def test_the_command_without_dropping_runs_in_another_folder(page, tmp_path):
  arguments = ARGUMENTS | {'config.train.seed': '--config.train.seed=3'}
  command = (
    'python -m td_flax.main --config=c.py --config.train.seed=3 '
    f'--config.drop.policy=none --workdir={tmp_path}_plain'
  )
  assert f'{command}\n' in page(arguments=arguments, drop__policy='random')


def test_what_no_command_trained_is_not_said_to_be_run_again(page):
  text = page(arguments=None, drop__policy='random')
  assert 'without dropping' not in text
  assert '--config.drop.policy' not in text
  assert 'td_flax.tools.export' in text


def test_the_page_leaves_out_what_does_not_apply(page):
  text = page(log__tensorboard=False)
  assert 'tensorboard' not in text
  assert 'without dropping' not in text  # nothing was dropped


def test_speed_and_skipped_updates_are_told(page):
  speed = {
    'tokens_per_second': 12345.6,
    'data_wait_share': 0.004,
    'model_flops_per_second': 2.34e11,
    'compile_seconds': 41.26,
    'compile_cached': False,
    'eval_compile_seconds': 9.0,
  }
  text = page({**CONTENT, **speed, 'skipped_updates': 3})
  assert '12,346 tokens/s on 2 cpu devices, 0.4% of the time' in text
  assert '234.0 GFLOP/s, matrix' in text
  assert 'MFU' not in text  # of a CPU
  assert '41.3 s for the train step, 9.0 s for the evaluation' in text
  assert 'skipped updates  3' in text
  speed |= {
    'model_flops_per_second': 1.5e15,
    'mfu': 0.512,
    'compile_cached': True,
  }
  text = page({**CONTENT, **speed})
  assert '1,500.0 TFLOP/s, 51.2% of' in text
  assert 'train step (kept from an earlier run)' in text


def test_the_loss_in_a_policys_own_geometry_is_told_where_there_is_one(page):
  own = {'first_eval_own_loss': 9.02, 'last_eval_own_loss': 5.1}
  assert 'as trained       9.020 -> 5.100,' in page(CONTENT | own)
  assert 'as trained' not in page()


def test_extremes_come_from_known_ids_that_are_no_specials(page, special):
  tokenizer = types.SimpleNamespace(special=special, piece=lambda i: f'<{i}>')
  table = np.arange(40, dtype=np.float32)
  known = np.ones(40, bool)
  known[39] = False  # the largest, but never updated
  found = summary.extremes(tokenizer, table, known)
  lines = page({**CONTENT, **found}).splitlines()
  start = next(i for i, line in enumerate(lines) if 'most important' in line)
  assert '(x) begins a word' in lines[start - 1]
  rows = [line.split() for line in lines[start + 1 : start + 11]]
  assert [row[0] for row in rows] == [f'<{i}>' for i in range(38, 28, -1)]
  # Ids 0 to 4 are the specials.
  assert [row[2] for row in rows] == [f'<{i}>' for i in range(5, 15)]
  assert summary.extremes(tokenizer, table, None) == {}
  assert summary.extremes(tokenizer, table, np.zeros(40, bool)) == {}


def test_a_run_in_stages_is_compared_to_one_without(page):
  text = page(drop__stages='50% policy=random; rest')
  assert '--config.drop.policy=none --config.drop.stages= --workdir=' in text
