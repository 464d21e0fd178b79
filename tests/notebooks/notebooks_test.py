"""The notebooks, executed cell by cell at sizes that show only that they work.

They need the extra `notebooks`.
"""

import json
import os
import pathlib
import re
import sys

import pytest
import support

jupytext = pytest.importorskip('jupytext', reason='needs the extra `notebooks`')

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / 'notebooks'
SOURCES = sorted(FOLDER.glob('*.py'))
STEPS = 6
SIZES = {
  'data.vocab_size': 300,
  'data.tokenizer_sample_mb': 1,
  'model.num_layers': 3,
  'model.hidden_dim': 16,
  'model.num_heads': 2,
  'model.mlp_dim': 32,
}
DROP = {'drop.first_layer': 1, 'drop.last_layer': 1}
LENGTH = {
  'data.sequence_length': 32,
  'data.eval_fraction': 0.1,
  'train.batch_size': 8,
  'eval.num_rows': 16,
  'log.tensorboard': False,
}


def options(values, prefix='config'):
  return ' '.join(f'--{prefix}.{key}={value}' for key, value in values.items())


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """As FILES."""
  path = tmp_path_factory.mktemp('notebooks') / 'corpus.txt'
  path.write_text(
    '\n\n'.join(f'some {i} words of text number {i * i}' for i in range(400))
  )
  return str(path)


@pytest.fixture
def execute(tmp_path, monkeypatch):
  nbclient = pytest.importorskip('nbclient')

  def run(name, **environment):
    for key, value in (
      {'steps': STEPS, 'runs': tmp_path} | environment
    ).items():
      monkeypatch.setenv(f'TD_FLAX_NOTEBOOK_{key.upper()}', str(value))
    # One device, this Python and this checkout, whatever is installed.
    monkeypatch.setenv('XLA_FLAGS', '')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    folder = pathlib.Path(sys.executable).parent
    monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
    notebook = jupytext.read(FOLDER / f'{name}.ipynb')
    # Where Jupyter starts.
    client = nbclient.NotebookClient(
      notebook,
      timeout=support.TIMEOUT,
      resources={'metadata': {'path': str(FOLDER)}},
    )
    client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable
    client.execute()
    return [cell.get('outputs', []) for cell in notebook.cells]

  return run


def text_of(outputs):
  """All that was printed."""
  return ''.join(x.get('text', '') for cell in outputs for x in cell)


def shown(outputs, mime):
  """What was displayed as a type."""
  found = [x.get('data', {}).get(mime) for cell in outputs for x in cell]
  return [x for x in found if x]


@pytest.mark.parametrize('source', SOURCES, ids=lambda x: x.stem)
def test_a_notebook_is_its_source(source):
  cells = jupytext.read(source).cells
  paired = json.loads(source.with_suffix('.ipynb').read_text())['cells']
  assert [(x.cell_type, x.source) for x in cells] == [
    (x['cell_type'], ''.join(x['source'])) for x in paired
  ]
  # Without outputs and counts: a diff shows what somebody changed.
  code = [x for x in paired if x['cell_type'] == 'code']
  assert not any(x['outputs'] or x['execution_count'] for x in code)


def test_every_notebook_has_a_source_and_installs_alike():
  assert [x.stem for x in SOURCES] == [
    x.stem for x in sorted(FOLDER.glob('*.ipynb'))
  ]
  cells = [
    cell.source
    for source in SOURCES
    for cell in jupytext.read(source).cells
    if 'pip install -q' in cell.source
  ]
  assert len(cells) == len(SOURCES)
  assert len(set(cells)) == 1


# As in an environment without td_flax, installed in whatever way.
_HIDE = """
import os, sys
sys.path = [x for x in sys.path if not os.path.exists(f'{x}/td_flax/main.py')]
sys.meta_path = [x for x in sys.meta_path if 'editable' not in str(x)]
"""
# They write down how they are called; what git makes is a clone's outline.
_STUBS = {
  'git': 'mkdir -p td_flax/td_flax td_flax/configs\n'
  'touch td_flax/td_flax/__init__.py td_flax/configs/quickstart.py',
  'pip': 'exit $PIP_EXITS',
}


@pytest.fixture
def install(tmp_path, monkeypatch):
  """Executes the cell that installs, in a new session on Colab."""
  pytest.importorskip('IPython')
  notebook = jupytext.read(FOLDER / 'quickstart.ipynb')
  sizes, cell = [x.source for x in notebook.cells if x.cell_type == 'code'][:2]
  home, calls = tmp_path / 'content', tmp_path / 'calls'
  home.mkdir()
  for name, script in _STUBS.items():
    path = tmp_path / 'bin' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\necho {name} $* >> {calls}\n{script}\n')
    path.chmod(0o755)
  monkeypatch.setenv('PATH', f'{tmp_path}/bin{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  monkeypatch.delenv('PYTHONPATH', raising=False)

  def run(folder=home, before=_HIDE, pip_exits=0):
    """How it ended, and what was called; `calls` begins anew."""
    script = tmp_path / 'cell.ipy'
    script.write_text('\n'.join((before, sizes, cell, '!pwd')))
    calls.write_text('')
    done = support.run(
      [sys.executable, '-m', 'IPython', '--colors=NoColor', str(script)],
      cwd=folder,
      env=os.environ | {'PIP_EXITS': str(pip_exits)},
    )
    called = [x.split()[0] for x in calls.read_text().splitlines()]
    return done, called, calls.read_text()

  return run


def where(done):
  """Where the notebook goes on."""
  assert done.returncode == 0, done.stdout + done.stderr
  return pathlib.Path(done.stdout.split()[-1])


def test_colab_clones_and_installs_once(install, tmp_path):
  clone = tmp_path / 'content/td_flax'
  done, called, text = install(pip_exits=1)
  assert 'AssertionError' in done.stdout
  assert called == ['git', 'pip']
  assert text.endswith(' ./td_flax[hf,plot]\n')
  # What the failure left is no installation.
  done, called, _ = install()
  assert (where(done), called) == (clone, ['pip'])
  # Nor does a restarted session, which begins above the clone, stay there.
  done, called, _ = install(
    before=f'import sys; sys.path.append({str(ROOT)!r})'
  )
  assert (where(done), called) == (clone, [])


def test_jupyter_installs_the_clone_that_it_is_in(install):
  done, called, text = install(folder=FOLDER)
  assert (where(done), called) == (ROOT, ['pip'])
  assert text.endswith(' ./..[hf,plot]\n')


def test_what_an_installed_clone_lacks_is_installed(install):
  installed = f'import sys; sys.path.append({str(ROOT)!r})'
  for package in 'matplotlib', 'tokenizers':
    _, called, _ = install(
      folder=FOLDER, before=f'{installed}; sys.modules[{package!r}] = None'
    )
    assert called == ['pip']


def test_quickstart(execute, tmp_path):
  sizes = SIZES | DROP | LENGTH
  sizes |= {'data.vocab_size': 400, 'log.every': 2, 'eval.every': 3}
  outputs = execute('quickstart', options=options(sizes))
  said = text_of(outputs)
  assert f'quickstart: {STEPS} steps done' in said
  assert len(shown(outputs, 'image/png')) == 1
  (page,) = shown(outputs, 'text/html')
  assert page.count('line-through') > 5
  assert text_of(outputs[-1:]).count('%') == 5
  assert (tmp_path / 'quickstart/summary.json').exists()


def test_bring_your_own_text(execute, corpus, tmp_path):
  pytest.importorskip('safetensors', reason='needs the extra `hf`')
  outputs = execute(
    'bring_your_own_text',
    files=corpus,
    options=options(LENGTH),
    sizes=options(SIZES | DROP | {'model.max_positions': 32}),
  )
  assert 'bert_mini_text: 6 steps done' in text_of(outputs)
  assert 'continue_pretraining: 6 steps done' in text_of(outputs)
  config = json.loads((tmp_path / 'continued_exported/config.json').read_text())
  assert config['num_hidden_layers'] == 3
  last = text_of(outputs[-1:])
  assert "'model.safetensors'" in last
  # A bar of transformers may stand before the first of them.
  answers = re.findall(r' [0-9]+\.[0-9]%  ', last)
  assert len(answers) == 5 or 'pip install transformers' in last


def test_compare_policies(execute, corpus):
  # `early_half` names layers of its own, up to the fourth.
  sizes = SIZES | LENGTH | {'model.num_layers': 6, 'model.max_positions': 32}
  outputs = execute(
    'compare_policies',
    files=corpus,
    seeds=1,
    options=options(sizes, 'config.base') + ' --config.timing_rounds=3',
  )
  (report,) = shown(outputs, 'text/markdown')
  arms = 'plain published early_half early_third shallow_third random shallow'
  for arm in arms.split():
    assert f'| {arm} |' in report
  assert '## Equal steps' in report
  assert '## Equal time' in report
  assert len(shown(outputs, 'image/png')) == 3
