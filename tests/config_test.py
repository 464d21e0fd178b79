import dataclasses
import importlib.util
import json
import pathlib

import pytest

from td_flax import config as config_lib
from td_flax import errors
from td_flax.data.vocabulary import SpecialIds
from td_flax.hub import architecture

FOLDER = pathlib.Path(__file__).parents[1] / 'configs'
CONTINUED = FOLDER / 'continue_pretraining.py'  # takes an argument
TASKS = {
  'glue': (
    'cola',
    'sst2',
    'mrpc',
    'stsb',
    'qqp',
    'mnli',
    'qnli',
    'rte',
    'wnli',
  ),
  'squad': ('v1.1', 'v2.0'),
  'own_task': ('classify', 'regress', 'tag'),
}  # take an argument too
CONFIGS = [
  path
  for path in sorted(set(FOLDER.glob('*.py')) - {CONTINUED})
  if path.stem not in TASKS
]


def load(**overrides):
  raw = config_lib.default()
  for key, value in overrides.items():
    section, name = key.split('__')
    raw[section][name] = value
  return config_lib.load(raw)


def experiment(path, *arguments):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*arguments)


@pytest.mark.smoke
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_named_like_its_file(path):
  raw = experiment(path)
  if path.stem == 'bert_mini_text':
    with pytest.raises(errors.ConfigError, match=r'data\.files'):
      config_lib.load(raw)
    raw.data.files = 'my_texts/*.txt'
  assert config_lib.load(raw).name == path.stem


@pytest.mark.parametrize(
  ('stem', 'argument'), [(x, y) for x, names in TASKS.items() for y in names]
)
def test_every_task_has_a_config(stem, argument):
  config = config_lib.load(experiment(FOLDER / f'{stem}.py', argument))
  assert config.task.name.endswith(argument)
  assert config.name.endswith(argument)


@pytest.mark.smoke
def test_continued_pretraining_takes_the_model_of_a_folder(tmp_path):
  model = dataclasses.replace(
    config_lib.ModelConfig(), num_layers=6, hidden_dim=384, activation='gelu'
  )
  described = architecture.describe(model, 99, SpecialIds())
  (tmp_path / 'config.json').write_text(json.dumps(described))
  raw = experiment(CONTINUED, str(tmp_path))
  raw.data.files = 'my_texts/*.txt'
  config = config_lib.load(raw)
  assert config.model == model
  assert config.name == CONTINUED.stem
  assert config.train.init_from == config.data.tokenizer == str(tmp_path)
  assert (config.drop.first_layer, config.drop.last_layer) == (2, 4)


def test_bert_base_is_the_published_recipe():
  config = config_lib.load(experiment(CONFIGS[0].with_name('bert_base.py')))
  train, optimizer = config.train, config.optimizer
  assert (train.batch_size, train.num_steps) == (512, 1_000_000)
  assert (config.data.sequence_length, config.num_predicted) == (512, 76)
  assert optimizer.learning_rate == 1e-4
  assert optimizer.warmup * train.num_steps == 10_000
  assert (optimizer.weight_decay, optimizer.clip_norm) == (0.01, 1.0)
  assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.999)
  assert (config.model.norm, config.model.norm_eps) == ('post', 1e-12)
  assert config.model.dropout == config.model.attention_dropout == 0.1
  assert config.drop.policy == 'none'


@pytest.mark.parametrize(
  ('name', 'first', 'last'),
  [('bert_base_td', 5, 10), ('bert_large_td', 11, 22)],
)
def test_dropping_configs_differ_from_their_baseline_in_drop_alone(
  name, first, last
):
  dropped = config_lib.load(experiment(CONFIGS[0].with_name(f'{name}.py')))
  plain_file = CONFIGS[0].with_name(f'{name.removesuffix("_td")}.py')
  plain = config_lib.load(experiment(plain_file))
  assert dropped.drop.policy == 'cumulative_loss'
  assert (dropped.drop.first_layer, dropped.drop.last_layer) == (first, last)
  assert dropped.num_kept == 256
  same = dataclasses.replace(dropped, name=plain.name, drop=plain.drop)
  assert same == plain


@pytest.mark.smoke
@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    (
      {'drop__policy': 'attenton'},
      "drop.policy='attenton': must be one of attention, cum",
    ),
    ({'drop__keep': 0.0}, 'drop.keep=0.0: must be above 0'),
    ({'model__norm': 'mid'}, "model.norm='mid': must be one of post, pre"),
    (
      {'data__vocab_size': 70_000},
      'vocab_size=70000: must be from 300 to 65,536',
    ),
    ({'data__sequence_length': 1024}, 'at most model.max_positions=512'),
    ({'model__num_heads': 7}, 'model.num_heads=7: must be a divisor of'),
    ({'train__microbatches': 7}, 'a divisor of train.batch_size=512'),
    ({'data__files': ' '}, "data.files=' ': must be a comma list"),
    ({'data__eval_fraction': 0.0}, 'data.eval_fraction=0.0: must be above 0'),
    ({'train__profile_steps': '9'}, 'must be two steps START:STOP'),
    ({'train__profile_steps': '1:²'}, 'must be two steps START:STOP'),
    (
      {'train__profile_steps': '1:' + '9' * 5000},
      'must be two steps START:STOP',
    ),
    ({'train__num_steps': 2**31}, 'must be from 1 to below 2**31'),
    (
      {'drop__policy': 'random_ltd', 'drop__noise': 0.5},
      'drop.noise=0.5: must be 0: drop.policy=random_ltd has no scores',
    ),
    (
      {'drop__policy': 'random', 'model__num_layers': 1},
      'model.num_layers=1: must be at least 2 with drop.policy=random',
    ),
    (
      {'task__name': 'cola', 'drop__policy': 'random'},
      "drop.policy='random': must be 'none': fine-tuning sends all tokens",
    ),
    (
      {'task__name': 'cola', 'drop__stages': '10%; rest keep=0.6'},
      "drop.stages='10%; rest keep=0.6': must be '': fine-tuning",
    ),
    ({'optimizer__learning_rate': float('nan')}, 'must be a finite number'),
  ],
)
def test_a_bad_value_is_named_with_what_is_valid(overrides, message):
  with pytest.raises(errors.ConfigError) as error:
    load(**overrides)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'drop__last_layer': 11}, 'drop.last_layer=11: must be at most 10'),
    ({'drop__first_layer': 11}, 'at most drop.last_layer=10'),
    ({'drop__keep': 513.0}, 'drop.keep=513.0: must be at most'),
    ({'drop__keep': 100.5}, 'or a whole number of tokens above'),
    ({'drop__keep': 77.0}, 'at least P+2=78 tokens of 512 (here k=77)'),
    ({'drop__keep': 0.15}, 'at least P+2=78 tokens of 512 (here k=77)'),
  ],
)
def test_impossible_dropping_is_refused_unless_nothing_is_dropped(
  overrides, message
):
  with pytest.raises(errors.ConfigError) as error:
    load(drop__policy='random', **overrides)
  assert message in str(error.value)
  load(drop__policy='none', **overrides)


def test_random_ltd_keeps_at_least_one_token():
  assert load(drop__policy='random_ltd', drop__keep=1 / 512).num_kept == 1
  with pytest.raises(errors.ConfigError) as error:
    load(drop__policy='random_ltd', drop__keep=0.0005)
  assert 'must be at least one token of 512 (here k=0)' in str(error.value)


def test_the_smallest_and_largest_possible_k_are_accepted():
  assert load(drop__policy='random', drop__keep=78.0).num_kept == 78
  assert load(drop__policy='random', drop__keep=1.0).num_kept == 512
  assert load(drop__policy='random', drop__keep=512.0).num_kept == 512


@pytest.mark.parametrize('name', ['', '.', '..', 'a/b', '/tmp'])
def test_the_name_is_one_of_a_folder(name):
  raw = config_lib.default()
  raw.name = name
  with pytest.raises(errors.ConfigError, match='must be a name without /'):
    config_lib.load(raw)


def test_unknown_keys_and_missing_ones_are_named():
  raw = config_lib.default()
  raw.drop.polcy = 'none'
  with pytest.raises(errors.ConfigError, match=r'drop.polcy.*drop.policy\?'):
    config_lib.load(raw)
  raw = config_lib.default()
  del raw.drop.policy
  with pytest.raises(errors.ConfigError, match=r'drop.policy: missing'):
    config_lib.load(raw)


def test_types_are_checked_where_ml_collections_does_not():
  raw = config_lib.default().to_dict()
  raw['train']['num_steps'] = True
  with pytest.raises(errors.ConfigError, match='must be a whole number'):
    config_lib.load(config_lib.ml_collections.ConfigDict(raw))


@pytest.mark.parametrize('value', [3.5, True, '8', None])
def test_changes_are_not_cast(value):
  config = config_lib.Config()
  with pytest.raises(errors.ConfigError, match='must be a whole number'):
    config_lib.with_changes(config, {'train.batch_size': value})


def test_whole_numbers_are_numbers():
  raw = config_lib.default().to_dict()
  raw['drop']['keep'] = 128
  config = config_lib.load(config_lib.ml_collections.ConfigDict(raw))
  assert config.num_kept == 128


def test_predicted_positions_are_counted_as_in_the_paper():
  assert config_lib.num_predicted(0.15, 512) == 76
  assert config_lib.num_predicted(0.15, 128) == 19
  assert config_lib.num_predicted(0.15, 3) == 1
