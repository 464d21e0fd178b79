import dataclasses
import json

import pytest

from td_flax import errors
from td_flax.config import ModelConfig
from td_flax.data.vocabulary import SpecialIds
from td_flax.hub import architecture

OTHER = ModelConfig(
  norm='pre',
  num_layers=3,
  hidden_dim=20,
  num_heads=5,
  mlp_dim=7,
  max_positions=9,
  type_vocab_size=4,
  activation='gelu',
  dropout=0.3,
  attention_dropout=0.2,
  norm_eps=1e-5,
  init_stddev=0.01,
)


@pytest.mark.parametrize('model', [ModelConfig(), OTHER])
def test_a_description_is_read_back(tmp_path, model):
  content = architecture.describe(model, 33, SpecialIds())
  (tmp_path / 'config.json').write_text(json.dumps(content))
  assert ModelConfig(**architecture.read(tmp_path)) == model
  assert architecture.vocab_size(tmp_path) == 33


def test_what_is_left_out_is_bert_base(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  expected = dataclasses.replace(ModelConfig(), activation='gelu')
  assert ModelConfig(**architecture.read(tmp_path)) == expected


def test_what_megatron_bert_leaves_out_is_larger(tmp_path):
  content = {'model_type': 'megatron-bert', 'num_hidden_layers': 3}
  (tmp_path / 'config.json').write_text(json.dumps(content))
  assert ModelConfig(**architecture.read(tmp_path)) == ModelConfig(
    norm='pre',
    num_layers=3,
    hidden_dim=1024,
    num_heads=16,
    mlp_dim=4096,
    activation='gelu',
  )
  assert architecture.vocab_size(tmp_path) == 29_056


@pytest.mark.parametrize(
  'names', [{}, {'architectures': ['BertForMaskedLM']}, {'architectures': None}]
)
def test_without_a_model_type_it_is_bert(tmp_path, names):
  (tmp_path / 'config.json').write_text(json.dumps(names))
  assert architecture.read(tmp_path)['norm'] == 'post'


@pytest.mark.parametrize('content', ['null', '{"vocab_size": Infinity}'])
def test_a_size_that_is_no_number_is_one_line(tmp_path, content):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(errors.CheckpointError, match='must be a whole number'):
    architecture.vocab_size(tmp_path)


@pytest.mark.parametrize(
  ('content', 'problem'),
  [
    (None, 'No such file'),
    ('{"model_type": "be', 'must be the config'),
    ('[]', 'must be the config'),
    ('{"model_type": "roberta"}', r"'roberta': must be one of bert, megatron-"),
    ('null', 'must be the config'),
    ('3', 'must be the config'),
    ('{"model_type": null}', 'model_type=None: must be one of bert'),
    ('{"model_type": ["bert"]}', r"model_type=\['bert'\]: must be one of"),
    ('{"architectures": ["RobertaModel"]}', 'model_type=None: must be'),
    ('{"architectures": "BertModel"}', 'model_type=None: must be'),
    ('{"hidden_act": ["gelu"]}', r"hidden_act=\['gelu'\]: must be one of"),
    ('{"hidden_size": Infinity}', 'must be the config'),
    ('{"model_type": "bert", "hidden_act": "relu"}', "hidden_act='relu'"),
    ('{"model_type": "bert", "hidden_size": "wide"}', 'must be the config'),
    (
      '{"model_type": "bert", "position_embedding_type": "relative_key"}',
      "position_embedding_type='relative_key': must be absolute",
    ),
    ('{"model_type": "bert", "is_decoder": true}', 'is_decoder=True'),
    (
      '{"model_type": "bert", "num_attention_heads": 7}',
      'num_attention_heads=7: must be a divisor of hidden_size=768',
    ),
  ],
)
def test_another_architecture_is_one_line(tmp_path, content, problem):
  if content is not None:
    (tmp_path / 'config.json').write_text(content)
  with pytest.raises(errors.CheckpointError, match=problem) as error:
    architecture.read(tmp_path)
  assert str(error.value).startswith(str(tmp_path / 'config.json'))
  if content is not None:
    assert architecture.is_folder(tmp_path)
  assert '\n' not in str(error.value)
