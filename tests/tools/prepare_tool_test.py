import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = '--config=configs/quickstart.py'


def prepare(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'td_flax.tools.prepare', *map(str, arguments)],
    capture_output=True,
    text=True,
    cwd=ROOT,
    timeout=120,
    check=False,
  )


@pytest.fixture
def overrides(tmp_path):
  texts = [f'some {i} words of text number {i * i}' for i in range(400)]
  (tmp_path / 'corpus.txt').write_text('\n\n'.join(texts))
  return [
    f'--config.data.files={tmp_path}/corpus.txt',
    '--config.data.sequence_length=16',
    '--config.data.vocab_size=300',
  ]


def test_a_dataset_is_prepared_once_where_main_looks_for_it(
  overrides, tmp_path
):
  arguments = [CONFIG, f'--workdir={tmp_path}/run', *overrides]
  first = prepare(*arguments)
  assert first.returncode == 0, first.stderr
  headline, vocabulary, train, held_out = first.stdout.splitlines()
  assert headline.startswith(f'{tmp_path}/run/data: ')
  assert headline.endswith(', prepared')
  assert vocabulary.split()[:3] == ['tokenizer', '300', 'ids,']
  counts = {}
  for line in (train, held_out):
    split, rows, _, _, length, _, documents, *_ = line.split()
    assert int(rows.replace(',', '')) > 0
    assert length == '16'
    counts[split] = int(documents)
  assert counts.keys() == {'train', 'eval'}
  assert sum(counts.values()) == 400

  manifest = tmp_path / 'run' / 'data' / 'manifest.json'
  written = manifest.stat().st_mtime_ns
  again = prepare(*arguments)
  assert again.returncode == 0, again.stderr
  assert again.stdout == first.stdout.replace(
    ', prepared', ', was there already'
  )
  assert manifest.stat().st_mtime_ns == written


@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    ([], 2, '--config: missing; for example --config=configs/quickstart.py'),
    (
      [CONFIG, '--config.data.tokenizer=bpee'],
      2,
      "data.tokenizer='bpee': must be one of bpe, unigram or the path of",
    ),
    (['--config=configs/glue.py:sst2'], 2, "task.name='sst2': is a task to"),
    ([CONFIG, '--config.data.dir=' + 'x' * 300], 1, 'json: File name too long'),
    (['--tfds=lmb1'], 2, 'has no such dataset; did you mean lm1b?'),
    (['--tfds=a b'], 2, 'a TFDS dataset is NAME[/CONFIG][:VERSION]'),
    (['--tfds=lm1b:9.9.9'], 1, '9.9.9'),
    (['--tfds=lm1b', CONFIG], 2, '--config: does not go with --tfds'),
    ([CONFIG, '--tfds_dir=x'], 2, '--tfds_dir=x: goes with --tfds'),
  ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
  arguments, code, message, tmp_path
):
  if arguments and arguments[0].startswith('--tfds'):
    where = f'--tfds_dir={tmp_path}/tfds'
  else:
    where = f'--workdir={tmp_path}/run'
  run = prepare(*arguments, where)
  (line,) = run.stderr.splitlines()
  assert line.startswith('error: ')
  assert message in line
  assert (run.returncode, run.stdout) == (code, '')
  assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_manifest_is_one_line(tmp_path):
  (tmp_path / 'manifest.json').mkdir()
  run = prepare(CONFIG, f'--config.data.dir={tmp_path}')
  (line,) = run.stderr.splitlines()
  assert line.startswith(f'error: {tmp_path}/manifest.json: Is a directory; ')
  assert run.returncode == 1
