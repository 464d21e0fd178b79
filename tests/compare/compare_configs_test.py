"""The shipped comparisons: every question asks what it says it does."""

import dataclasses
import json
import pathlib
import runpy

import pytest

from td_flax import config as config_lib
from td_flax import errors, stages
from td_flax.compare import plan, settings
from td_flax.data.vocabulary import SpecialIds
from td_flax.hub import architecture

FOLDER = pathlib.Path(__file__).parents[2] / 'configs/compare'
MINI = 'verdict', 'longer', 'rivals', 'rates', 'layers', 'schedules'
CONTINUED = 'rivals', 'scores', 'long_rows'


def load(file, *arguments):
  raw = runpy.run_path(str(FOLDER / f'{file}.py'))['get_config'](*arguments)
  raw.base.data.files = raw.base.data.files or 'my_texts/*.txt'
  return settings.load(raw)


@pytest.fixture
def folder(tmp_path):
  model = dataclasses.replace(
    config_lib.ModelConfig(), num_layers=6, hidden_dim=384, max_positions=512
  )
  described = architecture.describe(model, 99, SpecialIds())
  (tmp_path / 'config.json').write_text(json.dumps(described))
  return str(tmp_path)


def check(found):
  """Arms that differ, each as short as its shortest run, and the controls."""
  assert len(set(found.arms.values())) == len(found.arms)
  arms = plan.arms(found, vocab_size=99)
  assert {'plain', 'random'} < arms.keys()
  assert ('shallow' in arms) == (not found.base.train.init_from)
  lengths = plan.lengths(found, dict.fromkeys(arms, 0.7))
  assert plan.configs(found, arms, lengths, pathlib.Path('data'))


def policies(found):
  return {
    part.config.drop.policy
    for config in found.arms.values()
    for part in stages.of(config)
  }


def test_no_file_is_left_out():
  assert {x.stem for x in FOLDER.glob('*.py')} == {'continued', 'mini', 'smoke'}
  check(load('smoke'))


@pytest.mark.parametrize('question', MINI)
def test_mini(question):
  found = load('mini', question)
  check(found)
  assert found.name == question
  if question == 'rivals':
    assert policies(found) == {
      'none', 'cumulative_loss', 'frequency', 'random', 'random_ltd',
      'attention', 'narrow', 'mask_later',
    }  # fmt: skip


@pytest.mark.parametrize('question', CONTINUED)
def test_continued_takes_the_model_of_a_folder(question, folder):
  found = load('continued', f'{question}:{folder}')
  check(found)
  assert found.name == f'continued_{question}'
  assert found.base.train.init_from == found.base.data.tokenizer == folder
  assert found.base.model.hidden_dim == 384
  for arm in found.arms.values():
    assert arm.drop.last_layer < 5  # the last one takes all tokens up
  if question == 'scores':
    assert {'narrow', 'mask_later'} < policies(found)


@pytest.mark.parametrize('text', ['rivals', 'rivals:', 'rival:x', ''])
def test_continued_needs_a_question_and_a_folder(text):
  with pytest.raises(errors.ConfigError) as raised:
    load('continued', text)
  assert f'continued.py:{text}: must be rivals|scores' in str(raised.value)
