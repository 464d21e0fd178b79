import dataclasses
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from hub_models import TEXTS, logits, make_run, randomized, rows_of

from td_flax import config as config_lib
from td_flax import errors, leaves, pretrained
from td_flax.data import word_piece
from td_flax.hub import card, export
from td_flax.model import bert

torch = pytest.importorskip('torch', reason='needs the extra `reference`')
transformers = pytest.importorskip(
  'transformers', reason='needs the extra `reference`'
)
safetensors = pytest.importorskip(
  'safetensors.numpy', reason='needs the extra `hf`'
)
safetensors_torch = pytest.importorskip(
  'safetensors.torch', reason='needs the extra `hf`'
)

pytestmark = pytest.mark.hf


def exported(path, config, tokenizer):
  model = randomized(config.model, tokenizer.vocab_size)
  run = card.Run(config=config, step=7, eval_loss=1.25, summary=None)
  export.export(path, config.model, nnx.split(model)[1], tokenizer, run)
  return model


@pytest.fixture(scope='module', params=['post', 'pre'])
def original(request, small, bpe, tmp_path_factory):
  config = small(norm=request.param)
  path = tmp_path_factory.mktemp('export') / 'hf'
  return path, config, exported(path, config, bpe)


@pytest.fixture
def folder(original, tmp_path):
  """An exported folder, its config and its model."""
  path, config, model = original
  return shutil.copytree(path, tmp_path / 'hf'), config, model


def read_back(path, tokenizer, pooler=False):
  found = pretrained.find(str(path), 'x')
  config = dataclasses.replace(found.model, pooler=pooler)
  model = randomized(config, tokenizer.vocab_size)
  graph, initial = nnx.split(model)
  return nnx.merge(graph, found.params(initial)), initial


def arrays(model):
  return leaves.to_host(nnx.split(model)[1])


def test_transformers_computes_the_same(folder, bpe):
  path, config, model = folder
  theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(
    path, output_loading_info=True
  )
  assert not any(info.values()), info
  tokenizer = transformers.AutoTokenizer.from_pretrained(path)
  length = config.model.max_positions
  texts = [text[:n] for text, n in zip(TEXTS, (9, 40, 500, 5000), strict=False)]
  batch = tokenizer(
    texts,
    return_tensors='pt',
    padding='max_length',
    truncation=True,
    max_length=length,
  )
  rows = rows_of(bpe, texts, length)
  np.testing.assert_array_equal(batch['input_ids'].numpy(), rows)
  with torch.no_grad():
    expected = theirs.eval()(**batch).logits.numpy()
  real = rows != bpe.special.pad
  found = logits(model, bpe, rows)
  np.testing.assert_allclose(found[real], expected[real], atol=1e-4)


def test_the_way_there_and_back_keeps_every_bit(folder, bpe):
  path, config, model = folder
  back, _ = read_back(path, bpe)
  before, after = arrays(model), arrays(back)
  assert before.keys() == after.keys()
  for name, array in before.items():
    assert array.tobytes() == after[name].tobytes(), name
  words = after['embeddings/word/embedding']
  assert len(words) == 640
  assert not words[bpe.vocab_size :].any()
  assert not after['head/bias'][bpe.vocab_size :].any()
  found = pretrained.find(str(path), 'x')
  assert found.model == config.model
  assert found.tokenizer.fingerprint == bpe.fingerprint
  found.check(config, bpe.fingerprint)


def test_the_fill_mask_pipeline_works(folder):
  fill = transformers.pipeline('fill-mask', model=str(folder[0]))
  guesses = fill('the [MASK] of a class')
  assert len(guesses) == 5
  assert guesses[0]['sequence'].startswith('the ')


def test_the_card_tells_what_was_trained(folder):
  text = (folder[0] / 'README.md').read_text()
  assert '| held-out loss | 1.2500 nats' in text
  assert '| steps | 7 of 100 |' in text
  assert 'Case is folded' in text
  assert 'started from' not in text


def test_the_card_of_a_continued_run_tells_what_it_started_from(small, bpe):
  config = config_lib.with_changes(small(), {'train.init_from': 'models/base'})
  run = card.Run(config=config, step=7, eval_loss=None, summary=None)
  text = card.write(run, config.model, bpe, num_params=9)
  assert '| started from | `models/base` |' in text


def test_a_folder_that_holds_something_is_left_alone(folder, bpe):
  path, config, _ = folder
  before = {x: x.read_bytes() for x in path.iterdir()}
  with pytest.raises(errors.ConfigError, match='exists; name a new folder'):
    exported(path, config, bpe)
  assert before == {x: x.read_bytes() for x in path.iterdir()}


def test_a_folder_beside_it_is_left_alone(small, bpe, tmp_path, monkeypatch):
  mine = tmp_path / 'hf.tmp' / 'mine'
  mine.parent.mkdir()
  mine.touch()
  # Before anything is computed.
  monkeypatch.setattr(export.fast_tokenizer, 'make', None)
  with pytest.raises(errors.ConfigError, match=r'hf\.tmp, which exists; del'):
    exported(tmp_path / 'hf', small(), bpe)
  assert mine.exists()


def test_the_folder_may_be_the_one_that_one_is_in(
  small, bpe, tmp_path, monkeypatch
):
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  exported(pathlib.Path(), small(), bpe)
  assert (tmp_path / 'here' / 'config.json').exists()


def test_a_failed_export_leaves_nothing(small, bpe, tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(export.weights, 'write', full)
  with pytest.raises(errors.CheckpointError, match='No space left'):
    exported(tmp_path / 'hf', small(), bpe)
  assert list(tmp_path.iterdir()) == []


def test_a_folder_that_reads_differently_is_not_kept(
  small, bpe, tmp_path, monkeypatch
):
  write = export.weights.write

  def damaged(path, tensors):
    name = 'bert.encoder.layer.0.attention.self.key.bias'
    write(path, {**tensors, name: tensors[name] + 1})

  monkeypatch.setattr(export.weights, 'write', damaged)
  with pytest.raises(errors.CheckpointError, match='key/bias is another one'):
    exported(tmp_path / 'hf', small(), bpe)
  assert list(tmp_path.iterdir()) == []


def rewritten(path, change):
  """Changes the tensors of a folder."""
  file = path / 'model.safetensors'
  tensors = safetensors.load_file(file)
  change(tensors)
  safetensors.save_file(tensors, file)


BIAS = 'cls.predictions.bias'
KEY = 'bert.encoder.layer.1.attention.self.key.weight'


@pytest.mark.parametrize(
  ('change', 'problem'),
  [
    (lambda x: x.pop(KEY), f'{KEY} is missing'),
    (lambda x: x.update({KEY: np.ones((3, 2), np.float32)}), r'shape \[3, 2\]'),
    (lambda x: x.pop('cls.predictions.bias'), 'predictions.bias is missing'),
    (
      lambda x: x.update({'bert.encoder.layer.9.x': x[KEY]}),
      'layer.9.x has no place',
    ),
    (
      lambda x: x.update(
        {'bert.embeddings.word_embeddings.weight': np.ones((9, 32), np.float32)}
      ),
      'has 9 rows, but config.json has vocab_size=600',
    ),
    (
      lambda x: x.update(
        {'cls.predictions.decoder.weight': np.ones((600, 32), np.float32)}
      ),
      'the two must be tied',
    ),
  ],
)
def test_weights_of_another_shape_are_one_line(folder, bpe, change, problem):
  path, _, _ = folder
  rewritten(path, change)
  with pytest.raises(errors.CheckpointError, match=problem) as error:
    read_back(path, bpe)
  assert '\n' not in str(error.value)


def with_rows(path, count):
  """A folder whose embedding has so many rows, as its config.json says."""

  def resize(tensors):
    for name in ('bert.embeddings.word_embeddings.weight', BIAS):
      tensors[name] = np.resize(
        tensors[name], (count, *tensors[name].shape[1:])
      )

  rewritten(path, resize)
  content = json.loads((path / 'config.json').read_text())
  (path / 'config.json').write_text(json.dumps(content | {'vocab_size': count}))


def test_a_few_rows_more_than_ids_are_padding(folder, bpe):
  path, _, model = folder
  with_rows(path, 728)
  back, _ = read_back(path, bpe)
  for name, array in arrays(model).items():
    np.testing.assert_array_equal(array, arrays(back)[name])


@pytest.mark.parametrize('rows', [599, 729])
def test_a_tokenizer_of_another_size_is_one_line(folder, rows):
  path, _, _ = folder
  with_rows(path, rows)
  with pytest.raises(errors.CheckpointError) as error:
    pretrained.find(str(path), 'x')
  assert str(error.value) == (
    f'{path}/tokenizer.model: has 600 ids, but config.json has '
    f'vocab_size={rows}: it is half-copied, or of another model'
  )


def cut(path):
  path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
  ('damage', 'problem'),
  [
    (lambda x: cut(x / 'model.safetensors'), 'cannot be read'),
    (lambda x: (x / 'model.safetensors').unlink(), 'holds no weights'),
    (lambda x: (x / 'config.json').unlink(), 'config.json: No such file'),
    (lambda x: cut(x / 'config.json'), 'must be the config.json'),
    (
      lambda x: [y.unlink() for y in x.glob('tokenizer*')],
      'holds no tokenizer',
    ),
  ],
)
def test_half_a_folder_is_one_line(folder, bpe, damage, problem):
  path, _, _ = folder
  damage(path)
  with pytest.raises(errors.UserError, match=problem) as error:
    read_back(path, bpe)
  assert '\n' not in str(error.value)


def test_a_missing_head_and_pooler_start_at_random(folder, bpe, capsys):
  path, _, model = folder
  rewritten(
    path,
    lambda x: [x.pop(y) for y in list(x) if y.startswith('cls.')],
  )
  back, initial = read_back(path, bpe, pooler=True)
  lines = capsys.readouterr().err.splitlines()
  assert lines == [
    f'warning: {path}: has no masked-LM head; it starts at random',
    f'warning: {path}: has no pooler; it starts at random',
  ]
  after, fresh = arrays(back), leaves.to_host(initial)
  for name in ('head/bias', 'head/dense/kernel', 'pooler/kernel'):
    np.testing.assert_array_equal(after[name], fresh[name])
  np.testing.assert_array_equal(
    after['embeddings/word/embedding'],
    arrays(model)['embeddings/word/embedding'],
  )


def as_torch(path):
  tensors = safetensors.load_file(path / 'model.safetensors')
  (path / 'model.safetensors').unlink()
  torch.save(
    {name: torch.tensor(x) for name, x in tensors.items()},
    path / 'pytorch_model.bin',
  )


def in_parts(path):
  tensors = safetensors.load_file(path / 'model.safetensors')
  (path / 'model.safetensors').unlink()
  where = {}
  for i, name in enumerate(tensors):
    where[name] = f'model-{i % 3}.safetensors'
  for file in set(where.values()):
    part = {name: tensors[name] for name in where if where[name] == file}
    safetensors.save_file(part, path / file)
  index = path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': where}))


def as_of_old(path):
  """Without `bert.`, norms as gamma and beta, what nothing needs beside."""

  def rename(tensors):
    for name in list(tensors):
      new = name.removeprefix('bert.')
      new = new.replace('LayerNorm.weight', 'LayerNorm.gamma')
      new = new.replace('LayerNorm.bias', 'LayerNorm.beta')
      tensors[new] = tensors.pop(name)
    tensors['embeddings.position_ids'] = np.arange(40)[None]
    tensors['cls.seq_relationship.bias'] = np.zeros(2, np.float32)
    words = tensors['embeddings.word_embeddings.weight']
    tensors['cls.predictions.decoder.weight'] = words

  rewritten(path, rename)


@pytest.mark.parametrize('change', [as_torch, in_parts, as_of_old])
def test_other_ways_to_store_the_same(folder, bpe, change):
  path, _, model = folder
  change(path)
  back, _ = read_back(path, bpe)
  for name, array in arrays(model).items():
    np.testing.assert_array_equal(array, arrays(back)[name])


def test_a_part_that_is_missing_is_named(folder, bpe):
  path, _, _ = folder
  in_parts(path)
  (path / 'model-1.safetensors').unlink()
  with pytest.raises(errors.CheckpointError, match=r'model-1\.safetensors: m'):
    read_back(path, bpe)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(folder, bpe, dtype):
  path, _, model = folder
  file = path / 'model.safetensors'
  tensors = safetensors_torch.load_file(file)
  halves = {name: x.to(dtype) for name, x in tensors.items()}
  safetensors_torch.save_file(halves, file)
  back, _ = read_back(path, bpe)
  for name, array in arrays(back).items():
    assert array.dtype == np.float32
    expected = torch.tensor(arrays(model)[name]).to(dtype).float().numpy()
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize('activation', ['gelu', 'gelu_tanh'])
def test_both_activations_are_told_apart(small, bpe, tmp_path, activation):
  config = small(activation=activation)
  model = exported(tmp_path / 'hf', config, bpe)
  theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / 'hf')
  rows = rows_of(bpe, TEXTS[:2], 40)
  with torch.no_grad():
    expected = theirs.eval()(input_ids=torch.tensor(rows)).logits.numpy()
  np.testing.assert_allclose(logits(model, bpe, rows), expected, atol=1e-4)


WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnop']


@pytest.mark.parametrize('kind', ['bpe', 'unigram', 'wordpiece'])
def test_the_exported_tokenizer_gives_the_same_ids(
  small, bpe, unigram, tmp_path, kind
):
  pieces = [*WORDS, *(f'##{x}' for x in WORDS[5:])]
  words = word_piece.WordPiece(pieces, 'x', lowercase=True)
  tokenizer = {'bpe': bpe, 'unigram': unigram, 'wordpiece': words}[kind]
  exported(tmp_path / 'hf', small(), tokenizer)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'hf')
  # Of a line under a title, unigram pieces in another order score the same.
  lines = [line for text in TEXTS[:5] for line in text.split('\n')]
  texts = [line for line in lines if any(map(str.isalpha, line))][:40]
  for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
    special = tokenizer.special
    assert theirs(text).input_ids == [special.cls, *ids, special.sep]
  found = pretrained.find(str(tmp_path / 'hf'), 'x')
  assert found.tokenizer.fingerprint == tokenizer.fingerprint


def test_export_needs_no_torch(small, bpe, tmp_path, monkeypatch):
  for name in ('torch', 'transformers'):
    monkeypatch.setitem(sys.modules, name, None)
  exported(tmp_path / 'hf', small(), bpe)
  assert (tmp_path / 'hf' / 'model.safetensors').is_file()


def test_a_pooler_is_left_out(tmp_path, small, bpe):
  exported(tmp_path / 'hf', small(pooler=True), bpe)
  _, info = transformers.AutoModelForMaskedLM.from_pretrained(
    tmp_path / 'hf', output_loading_info=True
  )
  assert not any(info.values()), info


def test_a_run_is_exported_and_started_from(tmp_path, small, bpe):
  """The command and `train.init_from` meet in the same folder."""
  run, model = make_run(tmp_path / 'run', small(norm='pre'), bpe)
  found = pretrained.find(str(run.path), '--workdir', 'best')
  assert (found.step, found.eval_loss) == (10, 1.5)
  params = found.params(bert.abstract_params(found.model, bpe.vocab_size))
  of_run = card.Run(found.config, found.step, found.eval_loss, None)
  export.export(tmp_path / 'hf', found.model, params, found.tokenizer, of_run)
  back, _ = read_back(tmp_path / 'hf', bpe)
  jax.tree.map(
    np.testing.assert_array_equal, nnx.split(back)[1], nnx.split(model)[1]
  )
  shutil.rmtree(tmp_path / 'run')
