"""The command on a run, and its mistakes."""

import json
import random
import shutil
import subprocess
import sys

import pytest

from td_flax import config as config_lib
from td_flax import train
from td_flax.insight import page


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'td_flax.tools.token_report', *arguments],
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A finished run on text whose frequent words are easy."""
  path = tmp_path_factory.mktemp('run')
  rng = random.Random(0)
  words = [''.join(rng.choices('abcdefghijklmnop', k=5)) for _ in range(150)]
  texts = [
    ' '.join(rng.choice(['the', 'of', rng.choice(words)]) for _ in range(40))
    for _ in range(80)
  ]
  (path / 'corpus.txt').write_text('\n\n'.join(texts))
  raw = config_lib.default()
  raw.data.files = str(path / 'corpus.txt')
  raw.data.sequence_length = 32
  raw.data.vocab_size = 340
  raw.data.eval_fraction = 0.2
  raw.model.update(
    num_layers=3, hidden_dim=16, num_heads=2, mlp_dim=32, max_positions=32
  )
  raw.drop.update(policy='cumulative_loss', first_layer=1, last_layer=1)
  raw.train.update(num_steps=20, batch_size=8)
  raw.eval.every = 20
  raw.log.every = 5
  raw.log.tensorboard = False
  train.train(config_lib.load(raw), path / 'run')
  return path / 'run'


def test_a_run_becomes_a_page(workdir, tmp_path):
  done = run(f'--workdir={workdir}', f'--output={tmp_path}', '--num_rows=20')
  assert done.returncode == 0, done.stderr
  content = json.loads((tmp_path / 'report.json').read_text())
  assert content['policy'] == 'cumulative_loss'
  assert content['step'] == 20
  # Half of the tokens go on: pins and predictions take some of the room.
  tokens = sum(x['tokens'] for x in content['position'])
  kept = sum(x['tokens'] * x['share'] for x in content['position'])
  assert 0 < kept < tokens / 2
  assert tokens == sum(x['tokens'] for x in content['frequency'])
  assert content['drift']['step'] == [5, 10, 15, 20]
  least, most = (
    [x['importance'] for x in content['extremes'][name]]
    for name in ('least', 'most')
  )
  assert least == sorted(least)
  assert most == sorted(most, reverse=True)
  html = (tmp_path / 'index.html').read_text()
  assert 'http' not in html  # it needs nothing else
  assert html.count('<p class="row">') == page._SAMPLES
  assert 'title="importance ' in html


def test_plots_are_in_the_page(workdir, treebank, tmp_path):
  pytest.importorskip('matplotlib', reason='needs the extra `plot`')
  arguments = [f'--workdir={workdir}', f'--conllu={treebank}']
  done = run(*arguments, f'--output={tmp_path}')
  assert done.returncode == 0, done.stderr
  html = (tmp_path / 'index.html').read_text()
  for name in ('importance', 'drift', 'shares', 'probe'):
    png = (tmp_path / f'{name}.png').read_bytes()
    assert png.startswith(b'\x89PNG')
    assert f'<img alt="{name}"' in html


@pytest.fixture(scope='module')
def treebank(tmp_path_factory):
  """Sentences of the run's words, whose class is their first letter's."""
  rng = random.Random(1)
  path = tmp_path_factory.mktemp('treebank') / 'x.conllu'
  sentences = []
  for _ in range(60):
    words = [''.join(rng.choices('abcdefghijklmnop', k=5)) for _ in range(6)]
    sentences.append(
      '\n'.join(
        f'{i}\t{x}\t_\t{"NOUN" if x < "i" else "VERB"}' + '\t_' * 6
        for i, x in enumerate(words, 1)
      )
    )
  path.write_text('\n\n'.join(sentences) + '\n')
  return path


def test_layers_are_probed_with_and_without_dropping(
  workdir, treebank, tmp_path
):
  arguments = [f'--workdir={workdir}', f'--conllu={treebank}']
  arguments += [f'--against={workdir}', f'--output={tmp_path}']
  done = run(*arguments)
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'report.json').read_text())['probe']
  assert found['train_words'] > 2 * found['test_words'] > 0
  full, dropping, against = (
    found['curves'][name] for name in ('full', 'dropping', 'against')
  )
  assert against['all'] == full['all']  # the same run
  assert [len(x) for x in dropping.values()] == [4, 4, 4]
  # Nothing is dropped before layer 1.
  assert dropping['all'][:2] == full['all'][:2]
  # A first letter is known where first tokens are.
  assert full['all'][0] > found['baselines']['majority'] + 0.1
  html = (tmp_path / 'index.html').read_text()
  assert 'layer 2' in html
  assert html.count('<th>the other run</th>') == 3


def test_without_output_the_page_lies_in_the_run(workdir):
  done = run(f'--workdir={workdir}/checkpoints/20', '--num_rows=4')
  assert done.returncode == 0, done.stderr
  page_path = workdir / 'token_report/index.html'
  assert done.stdout.strip() == f'wrote {page_path}'
  assert page_path.exists()


def test_rows_of_another_dataset_are_refused(workdir, tmp_path):
  other = shutil.copytree(workdir, tmp_path / 'run')
  config = json.loads((other / 'config.json').read_text())
  config['fingerprints']['dataset'] = '0' * 64
  (other / 'config.json').write_text(json.dumps(config))
  done = run(f'--workdir={other}', f'--output={tmp_path / "x"}')
  assert done.returncode == 1
  assert f'{other / "data"}: is not the dataset that' in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


def report_of_text(workdir, tmp_path, content):
  """The folder of a report on a text of one's own."""
  text = tmp_path / 'mine.txt'
  text.write_text(content)
  output = tmp_path / 'report'
  done = run(f'--workdir={workdir}', f'--text={text}', f'--output={output}')
  assert done.returncode == 0, done.stderr
  return output


def test_text_of_ones_own_is_escaped(workdir, tmp_path):
  output = report_of_text(workdir, tmp_path, 'the <b>the</b> of & the a b c')
  assert '<b>' not in (output / 'index.html').read_text()


def test_a_text_of_one_token_has_a_page_without_shares(workdir, tmp_path):
  output = report_of_text(workdir, tmp_path, 'the')
  assert (output / 'index.html').exists()
  assert not (output / 'shares.png').exists()


@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    (['--output={tmp}/x'], 2, '--workdir: missing'),
    (['--workdir=gs://bucket/run'], 2, '--output: missing; must name a local'),
    (['--workdir={run}', '--output=gs://b/x'], 2, 'must be a local folder'),
    (
      ['--workdir={run}', '--output={tmp}/2.conllu/x'],
      2,
      "2.conllu/x': cannot be written (Not a directory)",
    ),
    (['--workdir={tmp}/no', '--output={tmp}/x'], 2, 'does not exist'),
    (
      ['--workdir={run}', '--output={tmp}/x', '--text={tmp}/no.txt'],
      2,
      '--text: no file matches',
    ),
    (
      ['--workdir={run}', '--output={tmp}/x', '--conllu={tmp}/no.txt'],
      2,
      'must end in .conllu',
    ),
    (
      ['--workdir={run}', '--output={tmp}/x', '--text=a', '--conllu=b'],
      2,
      '--conllu: must be empty where --text is given',
    ),
    (
      ['--workdir={run}', '--output={tmp}/x', '--against={run}'],
      2,
      '--against: needs --conllu',
    ),
    (
      ['--workdir={run}', '--output={tmp}/x', '--conllu={tmp}/2.conllu'],
      1,
      'rows hold 2 sentences; a probe needs at least 4, of two word classes',
    ),
  ],
)
def test_mistakes_are_one_line_and_leave_nothing(
  workdir, tmp_path, arguments, code, message
):
  word = '1\tab\t_\tNOUN' + '\t_' * 6
  (tmp_path / '2.conllu').write_text(f'{word}\n\n{word}\n')
  done = run(*(x.format(tmp=tmp_path, run=workdir) for x in arguments))
  assert done.returncode == code
  assert message in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert not (tmp_path / 'x').exists()
