"""Fine-tuned models in transformers: the same architecture and outputs."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hub_models import TEXTS, randomize

from td_flax import config as config_lib
from td_flax.hub import card, export
from td_flax.hub.architecture import Head
from td_flax.model.task_model import FIRST, SPAN, TOKENS, Output, TaskModel

torch = pytest.importorskip('torch', reason='needs the extra `reference`')
transformers = pytest.importorskip(
  'transformers', reason='needs the extra `reference`'
)
pytest.importorskip('safetensors', reason='needs the extra `hf`')

pytestmark = pytest.mark.hf

HEADS = {
  'SequenceClassification': Head(Output(FIRST, 3), ('no', 'maybe', 'yes')),
  'regression': Head(Output(FIRST, 1, is_regression=True)),
  'TokenClassification': Head(Output(TOKENS, 2), ('B-x', 'O')),
  'QuestionAnswering': Head(Output(SPAN)),
}
SUMMARY = {'step': 7, 'num_examples': 5, 'figures': {'accuracy': 0.75}}


def exported(path, config, tokenizer, head):
  is_first = head.output.reads == FIRST
  model_config = dataclasses.replace(config.model, pooler=is_first)
  config = dataclasses.replace(config, model=model_config)
  size, special = tokenizer.vocab_size, tokenizer.special
  made = TaskModel(model_config, head.output, size, special, nnx.Rngs(0))
  model = randomize(made, size)
  run = card.Run(config=config, step=7, eval_loss=None, summary=SUMMARY)
  params = nnx.split(model)[1]
  export.export(path, model_config, params, tokenizer, run, head)
  return model


def pairs(path):
  """Texts and questions about them, by the folder's own tokenizer."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(path)
  return tokenizer(
    [text[:20] for text in TEXTS[:3]],
    [text[20:n] for text, n in zip(TEXTS, (30, 60, 900), strict=False)],
    return_tensors='pt',
    padding='max_length',
    truncation=True,
    max_length=40,
  )


def assert_equal_outputs(model, theirs, batch):
  ids = batch['input_ids'].numpy()
  with torch.no_grad():
    output = theirs.eval()(**batch)
  found = np.asarray(model(jnp.asarray(ids)))
  if model.output.reads == SPAN:
    real = ids != model.special.pad
    expected = np.stack([output.start_logits, output.end_logits], axis=1)
    found, expected = found.swapaxes(1, 2)[real], expected.swapaxes(1, 2)[real]
  elif model.output.reads == TOKENS:
    real = ids != model.special.pad
    found, expected = found[real], output.logits.numpy()[real]
  else:
    found, expected = found[:, 0], output.logits.numpy()
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('norm', ['post', 'pre'])
@pytest.mark.parametrize('name', HEADS)
def test_transformers_computes_the_same(tmp_path, small, bpe, name, norm):
  head = HEADS[name]
  path = tmp_path / 'hf'
  model = exported(path, small(norm=norm), bpe, head)
  kind = 'SequenceClassification' if head.output.is_regression else name
  auto = getattr(transformers, f'AutoModelFor{kind}')
  theirs, info = auto.from_pretrained(path, output_loading_info=True)
  assert not any(info.values()), info
  assert type(theirs).__name__.endswith(f'BertFor{kind}')
  batch = pairs(path)
  assert batch['token_type_ids'].max() == 1
  assert_equal_outputs(model, theirs, batch)
  if head.labels:
    assert theirs.config.id2label == dict(enumerate(head.labels))
    assert theirs.config.label2id == {x: i for i, x in enumerate(head.labels)}
  problem = theirs.config.problem_type
  expected = {'SequenceClassification': 'single_label_classification'}
  assert problem == (expected | {'regression': 'regression'}).get(name)


def test_a_model_with_one_token_type_takes_pairs(tmp_path, small, bpe):
  config = small()
  one = dataclasses.replace(config.model, type_vocab_size=1)
  config = dataclasses.replace(config, model=one)
  path = tmp_path / 'hf'
  model = exported(path, config, bpe, HEADS['SequenceClassification'])
  theirs = transformers.BertForSequenceClassification.from_pretrained(path)
  assert_equal_outputs(model, theirs, pairs(path))


@pytest.mark.parametrize(
  ('changes', 'is_pair'),
  [
    ({'task.name': 'sst2'}, False),
    ({'task.name': 'rte'}, True),
    ({'task.name': 'regress'}, False),
    ({'task.name': 'regress', 'task.pair': 'title'}, True),
  ],
)
def test_the_card_of_a_pair_shows_two_texts(small, bpe, changes, is_pair):
  config = config_lib.with_changes(small(), changes)
  run = card.Run(config=config, step=7, eval_loss=None, summary=SUMMARY)
  head = HEADS['SequenceClassification']
  text = card.write(run, config.model, bpe, num_params=9, head=head)
  shown = "model({'text': 'A film that is worth its time.', 'text_pair': "
  assert (shown in text) == is_pair
  assert ("model('A film" in text) != is_pair


def test_the_card_tells_of_the_task(tmp_path, small, bpe):
  head = HEADS['TokenClassification']
  exported(tmp_path / 'hf', small(), bpe, head)
  text = (tmp_path / 'hf' / 'README.md').read_text()
  assert 'pipeline_tag: token-classification' in text
  assert '| dev: accuracy | 0.7500 |' in text
  assert 'masked' not in text
  content = json.loads((tmp_path / 'hf' / 'config.json').read_text())
  assert content['id2label'] == {'0': 'B-x', '1': 'O'}
