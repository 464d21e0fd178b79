"""The command, and pretraining that starts from what it wrote."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip('safetensors', reason='needs the extra `hf`')
pytest.importorskip('tokenizers', reason='needs the extra `hf`')
pytestmark = pytest.mark.hf

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def run(module, *arguments):
  return subprocess.run(
    [sys.executable, '-m', module, *arguments],
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('export')
  done = run(
    'td_flax.main',
    f'--config={CONFIGS}/quickstart.py',
    f'--workdir={folder}/run',
    *(f'--config.{x}' for x in SMALL),
    '--config.model.hidden_dim=32',
    '--config.data.vocab_size=800',
  )
  assert done.returncode == 0, done.stderr
  return folder / 'run'


SMALL = (
  'train.num_steps=6',
  'train.batch_size=8',
  'eval.every=2',
  'eval.num_rows=16',
  'checkpoint.every=2',
  'log.every=2',
)


def export(workdir, output, *arguments):
  return run(
    'td_flax.tools.export',
    f'--workdir={workdir}',
    f'--output={output}',
    *arguments,
  )


def test_a_run_becomes_a_folder_and_a_folder_a_run(workdir, tmp_path):
  folder = tmp_path / 'hf'
  done = export(workdir, folder, '--step=best')
  assert done.returncode == 0, done.stderr
  assert f'{folder}: step 6, ' in done.stdout
  assert 'ids differ on 0 of 2,000 lines' in done.stdout
  assert not done.stderr
  summary = json.loads((workdir / 'summary.json').read_text())
  loss = f'{summary["last_eval_loss"]:.4f}'
  assert f'| held-out loss | {loss} nats' in (folder / 'README.md').read_text()

  done = run(
    'td_flax.main',
    f'--config={CONFIGS}/continue_pretraining.py:{folder}',
    f'--workdir={tmp_path}/continued',
    *(f'--config.{x}' for x in SMALL),
    '--config.data.files=embedded',
    '--config.data.eval_fraction=0.05',
  )
  assert done.returncode == 0, done.stderr
  went_on = json.loads((tmp_path / 'continued' / 'summary.json').read_text())
  assert went_on['first_eval_loss'] == pytest.approx(
    summary['last_eval_loss'], rel=1e-5
  )
  assert went_on['last_eval_loss'] < went_on['first_eval_loss']


def test_a_fine_tuned_model_says_the_same_there(workdir, tmp_path):
  transformers = pytest.importorskip(
    'transformers', reason='needs the extra `reference`'
  )
  texts = ['a string of text', 'the number of bits', 'strings', 'a float'] * 8
  labels = ['no', 'yes'] * 16
  pairs = zip(texts, labels, strict=True)
  lines = ''.join(f'{text}\t{label}\n' for text, label in pairs)
  (tmp_path / 'rows.tsv').write_text(f'text\tlabel\n{lines}')
  done = run(
    'td_flax.finetune',
    f'--config={CONFIGS}/own_task.py:classify',
    f'--checkpoint={workdir}',
    f'--workdir={tmp_path}/tuned',
    f'--config.task.train={tmp_path}/rows.tsv',
    f'--config.task.dev={tmp_path}/rows.tsv',
    '--config.train.batch_size=8',
    '--config.task.epochs=20',
    '--config.optimizer.learning_rate=3e-3',
  )
  assert done.returncode == 0, done.stderr
  tuned = tmp_path / 'tuned' / 'runs' / 'seed0'
  done = export(tuned, tmp_path / 'hf')
  assert done.returncode == 0, done.stderr
  classify = transformers.pipeline('text-classification', str(tmp_path / 'hf'))
  predicted = (tuned / 'predictions' / 'dev.tsv').read_text().split()[3::2]
  assert [x['label'] for x in classify(texts)] == predicted
  assert predicted == labels  # learned: both occur

  (tuned / 'summary.json').unlink()
  done = export(tuned, tmp_path / 'unfinished')
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert 'exported when its run is finished' in line
  assert not (tmp_path / 'unfinished').exists()


def test_an_unfinished_run_is_exported_too(workdir, tmp_path):
  (tmp_path / 'run').mkdir()
  for name in ('config.json', 'tokenizer', 'checkpoints'):
    copy = shutil.copytree if (workdir / name).is_dir() else shutil.copy
    copy(workdir / name, tmp_path / 'run' / name)
  done = export(tmp_path / 'run' / 'checkpoints' / '4', tmp_path / 'hf')
  assert done.returncode == 0, done.stderr
  assert 'step 4' in done.stdout
  assert 'tokens/s' not in (tmp_path / 'hf' / 'README.md').read_text()


@pytest.mark.parametrize(
  ('arguments', 'code', 'said'),
  [
    (['--output=x'], 2, '--workdir: missing'),
    (['--workdir={0}'], 2, '--output: missing'),
    (['--workdir={0}', '--output=x', '--step=7'], 2, "no step '7'"),
    (['--workdir={0}', '--output={0}'], 2, 'exists; name a new folder'),
    (['--workdir={0}', '--output=.'], 2, "='.': exists; name a new folder"),
    (['--workdir={0}', '--output=gs://b/x'], 2, 'must be a local folder'),
    (['--workdir=nope', '--output=x'], 2, "--workdir='nope': does not exist"),
    (['--workdir={0}/data', '--output=x'], 1, 'neither a workdir'),
    (['--wrkdir={0}'], 2, 'did you mean --workdir?'),
  ],
)
def test_mistakes_are_one_line(workdir, arguments, code, said):
  done = run('td_flax.tools.export', *(x.format(workdir) for x in arguments))
  assert done.returncode == code
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ')
  assert said in line


def test_a_damaged_checkpoint_is_not_exported(workdir, tmp_path):
  shutil.copytree(workdir, tmp_path / 'run')
  state = tmp_path / 'run' / 'checkpoints' / '6' / 'state'
  for path in filter(pathlib.Path.is_file, state.rglob('*')):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
  done = export(tmp_path / 'run', tmp_path / 'hf')
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert 'checkpoints/6' in line
  assert not (tmp_path / 'hf').exists()
