"""The command as people run it."""

import json
import subprocess
import sys

import jax
import pytest
import support
from flax import nnx

from td_flax.data import sentence_piece
from td_flax.model import bert

TEXTS = ['a good film of the year', 'the bad film was a waste of time'] * 200


def run(*arguments, module='td_flax.finetune'):
  return support.run([sys.executable, '-m', module, *arguments])


@pytest.fixture(scope='module')
def tokenizer():
  return sentence_piece.train(TEXTS, kind='bpe', vocab_size=300, lowercase=True)


@pytest.fixture
def pretrain(tmp_path, make_config, save_run, tokenizer):
  """Makes a workdir with a checkpoint."""

  def make(**changes):
    config = make_config(**changes)
    net = bert.Bert(config.model, tokenizer.vocab_size, nnx.Rngs(3))
    params = jax.device_get(nnx.split(net)[1])
    return save_run(tmp_path / 'pretrained', config, tokenizer, params).path

  return make


@pytest.fixture
def pretrained(pretrain):
  return pretrain()


def test_glue_from_a_checkpoint_to_a_submission(tmp_path, pretrained):
  folder = tmp_path / 'glue' / 'SST-2'
  folder.mkdir(parents=True)
  rows = ''.join(f'{text}\t{i % 2}\n' for i, text in enumerate(TEXTS[:32]))
  for name in ('train', 'dev'):
    (folder / f'{name}.tsv').write_text(f'sentence\tlabel\n{rows}')
  (folder / 'test.tsv').write_text('index\tsentence\n0\tgood\n1\tbad\n')
  arguments = (
    '--config=configs/glue.py:sst2',
    f'--checkpoint={pretrained}',
    f'--config.data.task_dir={tmp_path / "glue"}',
    '--config.data.sequence_length=32',
    '--config.task.epochs=4',
    '--config.task.seeds=2',
    '--config.optimizer.learning_rate=1e-3',
    '--config.train.batch_size=8',
    f'--workdir={tmp_path / "sst2"}',
  )
  done = run(*arguments)
  assert done.returncode == 0, done.stderr
  assert '| runs | 2 |' in done.stdout
  results = json.loads((tmp_path / 'sst2' / 'results.json').read_text())
  assert results['model'] == str(pretrained / 'checkpoints' / '10')
  (point,) = results['points']
  assert [x['seed'] for x in point['runs']] == [0, 1]
  assert all(x['step'] == 16 for x in point['runs'])
  submission = (tmp_path / 'sst2' / 'predictions' / 'SST-2.tsv').read_text()
  header, *lines = submission.splitlines()
  assert header == 'index\tprediction'
  assert [line.split('\t')[0] for line in lines] == ['0', '1']
  again = run(*arguments)
  assert again.returncode == 0
  assert 'training:' not in again.stderr
  assert again.stdout == done.stdout

  scratch = run(
    *arguments[:-1],
    '--from_scratch',
    '--config.task.seeds=1',
    f'--workdir={tmp_path / "scratch"}',
  )
  assert scratch.returncode == 0, scratch.stderr
  results = json.loads((tmp_path / 'scratch' / 'results.json').read_text())
  assert results['model'] == 'random weights'


def tiny(model, workdir):
  """The options that all tasks share."""
  return (
    f'--checkpoint={model}',
    '--config.data.sequence_length=32',
    '--config.task.epochs=1',
    '--config.train.batch_size=8',
    '--config.parallel.num_devices=1',
    f'--workdir={workdir}',
  )


def figures_of(workdir):
  """Of the only run."""
  results = json.loads((workdir / 'results.json').read_text())
  return results['best']['figures']


def test_squad_from_a_checkpoint_to_predictions(tmp_path, pretrained):
  context = '. '.join(TEXTS[:6])
  items = [
    {
      'id': f'q{i}',
      'question': 'what was it?',
      'answers': [
        {'text': word, 'answer_start': context.index(word)}
        for word in ('film', 'a good film')
      ],
    }
    for i in range(8)
  ]
  data = [{'paragraphs': [{'context': context, 'qas': items}]}]
  for split in ('train', 'dev'):
    path = tmp_path / f'{split}-v1.1.json'
    path.write_text(json.dumps({'data': data}))
  done = run(
    '--config=configs/squad.py:v1.1',
    *tiny(pretrained, tmp_path / 'squad'),
    f'--config.data.task_dir={tmp_path}',
    '--config.task.stride=8',
    '--config.task.max_question=8',
  )
  assert done.returncode == 0, done.stderr
  figures = figures_of(tmp_path / 'squad')
  assert list(figures) == ['loss', 'exact', 'f1']
  assert 0 <= figures['exact'] <= figures['f1'] <= 1
  folder = tmp_path / 'squad' / 'predictions'
  predicted, nbest = (
    json.loads((folder / name).read_text())
    for name in ('predictions.json', 'nbest_predictions.json')
  )
  assert list(predicted) == list(nbest) == [x['id'] for x in items]
  assert all(text in context for text in predicted.values())
  assert all(nbest[x][0]['text'] == text for x, text in predicted.items())


def test_tagging_from_a_checkpoint_to_predictions(tmp_path, pretrained):
  sentences = [text.split() for text in TEXTS[:8]]
  tags = {'a': 'DET', 'the': 'DET', 'film': 'NOUN', 'year': 'NOUN'}
  lines = []
  for words in sentences:
    for i, word in enumerate(words, 1):
      columns = [i, word, '_', tags.get(word, 'X'), *'______']
      lines.append('\t'.join(map(str, columns)))
    lines.append('')
  path = tmp_path / 'words.conllu'
  path.write_text('\n'.join(lines) + '\n')
  done = run(
    '--config=configs/own_task.py:tag',
    *tiny(pretrained, tmp_path / 'tag'),
    *(f'--config.task.{split}={path}' for split in ('train', 'dev', 'test')),
    '--config.task.label=upos',
  )
  assert done.returncode == 0, done.stderr
  figures = figures_of(tmp_path / 'tag')
  assert list(figures) == ['loss', 'accuracy', 'macro_f1']
  assert all(0 <= figures[x] <= 1 for x in ('accuracy', 'macro_f1'))
  for split in ('dev', 'test'):
    text = (tmp_path / 'tag' / 'predictions' / f'{split}.tsv').read_text()
    written = [
      [line.split('\t') for line in block.splitlines()]
      for block in text.split('\n\n')
    ]
    assert [[word for word, _ in block] for block in written] == sentences
    assert {tag for block in written for _, tag in block} <= {
      'DET',
      'NOUN',
      'X',
    }


def test_two_processes_learn_what_one_does(tmp_path, pretrain, run_together):
  model = pretrain(data__sequence_length=64, model__max_positions=64)
  # Batches of both lengths: one row in eight is long.
  rows = [text * (5 if i % 8 == 7 else 1) for i, text in enumerate(TEXTS[:32])]
  lines = ''.join(f'{text}\t{i % 2}\n' for i, text in enumerate(rows))
  (tmp_path / 'rows.tsv').write_text(f'text\tlabel\n{lines}')
  arguments = (
    '--config=configs/own_task.py:classify',
    f'--checkpoint={model}',
    f'--config.task.train={tmp_path / "rows.tsv"}',
    f'--config.task.dev={tmp_path / "rows.tsv"}',
    '--config.data.sequence_length=64',
    '--config.task.epochs=1',
    '--config.task.seeds=2',
    '--config.optimizer.learning_rate=1e-3',
    '--config.train.batch_size=8',
    '--config.log.every=1',
    '--config.parallel.num_devices=1',  # of each process
  )
  done = run(*arguments, f'--workdir={tmp_path / "one"}')
  assert done.returncode == 0, done.stderr
  command = [
    *(sys.executable, '-m', 'td_flax.finetune', *arguments),
    f'--workdir={tmp_path / "two"}',
  ]
  for code, output, _ in run_together(
    command, command, stderr=subprocess.STDOUT
  ):
    assert code == 0, output
    assert '| runs | 2 |' in output
  for seed in ('seed0', 'seed1'):
    one, two = (
      support.metrics(tmp_path / name / 'runs' / seed)
      for name in ('one', 'two')
    )
    for row, reference in zip(one, two, strict=True):
      for name in ('step', 'train/loss', 'eval/loss', 'eval/accuracy'):
        assert row.get(name) == pytest.approx(reference.get(name), abs=1e-5)
  written = [
    (tmp_path / name / 'predictions' / 'dev.tsv').read_text()
    for name in ('one', 'two')
  ]
  assert written[0] == written[1]


@pytest.mark.parametrize(
  ('arguments', 'code', 'said'),
  [
    ([], 2, '--config: missing'),
    (['--config=configs/glue.py:rt'], 2, "task.name='rt': must be one of cola"),
    (['--config=configs/glue.py'], 2, 'get_config() missing 1 required'),
    (['--config=configs/quickstart.py'], 2, "task.name='': missing"),
    (['--config=configs/glue.py:rte'], 2, '--checkpoint: missing'),
    (
      ['--config=configs/glue.py:rte', '--checkpoint=nowhere'],
      2,
      "--checkpoint='nowhere': does not exist",
    ),
  ],
)
def test_mistakes_are_one_line(arguments, code, said):
  done = run(*arguments)
  assert done.returncode == code
  (line,) = done.stderr.splitlines()
  assert said in line


def test_mistakes_with_a_checkpoint_leave_nothing(tmp_path, pretrained):
  for argument, said in (
    ('--config.task.grid=train.batch=1', 'did you mean train.batch_size'),
    ('--config.data.sequence_length=64', 'at most model.max_positions=32'),
    (f'--config.data.task_dir={tmp_path}', 'holds no folder RTE'),
  ):
    done = run(
      '--config=configs/glue.py:rte',
      f'--checkpoint={pretrained}',
      '--config.data.sequence_length=32',
      argument,
      f'--workdir={tmp_path / "rte"}',
    )
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'rte').exists()


def test_pretraining_refuses_a_task():
  done = run('--config=configs/glue.py:rte', module='td_flax.main')
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert 'python -m td_flax.finetune' in line
