"""Commands, links and error messages in the documentation are real ones."""

import ast
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import sys

import pytest
import support

from td_flax import config as config_lib
from td_flax import step

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
  path
  for pattern in ('*.md', 'docs/**/*.md', 'launch/*.md', 'notebooks/*.md')
  for path in ROOT.glob(pattern)
)

# They measure against the extra `reference`, and import it first.
_WITH_REFERENCE = 'benchmarks/huggingface.py', 'benchmarks/vs_torch.py'

# Runs a program up to the point where its command line has been read: flags,
# and, with --config, the whole config with its overrides, checked.
_PARSE = """
import argparse, runpy, sys
from absl import app
from td_flax import flags

def parsed(main, flags_parser):
  flags_parser(sys.argv)
  values = flags.flags.FLAGS
  if 'config' in values and values['config'].value:
    flags.load(flags_parser.keywords['schema'])
  sys.exit(0)

def arguments(self, *given):
  real(self, *given)
  sys.exit(0)

app.run = parsed
real, argparse.ArgumentParser.parse_args = (
  argparse.ArgumentParser.parse_args, arguments)
program, sys.argv = sys.argv[1], sys.argv[1:]
if program.endswith('.py'):
  sys.path.insert(0, program.rpartition('/')[0])
  runpy.run_path(program, run_name='__main__')
else:
  runpy.run_module(program, run_name='__main__')
"""


_PROGRAM = (
  r'(python (-m |benchmarks/)|pip install |launch/\S+ |gcloud |jupytext )\S'
)


def commands() -> list[str]:
  """Of code blocks, continuations joined, and of `code` between words."""
  found = []
  for page in PAGES:
    text = page.read_text()
    lines = re.findall(
      r'^(?: {4}|```.*\n)(.+)', text.replace('\\\n', ' '), flags=re.MULTILINE
    )
    prose = re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r'`([^`]+)`', prose):
      lines.append(re.sub(r'^(?=td_flax\.\S+ --)', 'python -m ', code))
    for line in lines:
      for part in ' '.join(line.split()).split(' && '):
        part = re.sub(r'^([A-Z_]+=\S+ )+', '', part)
        if re.match(_PROGRAM, part):
          found.append(part)
  return sorted(set(found))


def beginning(pattern: str) -> list[str]:
  return [command for command in commands() if re.match(pattern, command)]


def programs() -> list[str]:
  return beginning('python (-m td_flax|benchmarks)')


def test_the_pages_are_found() -> None:
  assert len(programs()) >= 25
  assert any('td_flax.tools.compare' in command for command in programs())


@pytest.fixture(scope='module')
def somewhere(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A folder like a clone, with the models that the pages call DIR, MINILM."""
  folder = tmp_path_factory.mktemp('clone')
  for name in ('configs', 'benchmarks'):
    (folder / name).symlink_to(ROOT / name)
  model = {
    'model_type': 'bert',
    'vocab_size': 100,
    'hidden_size': 32,
    'num_hidden_layers': 6,
    'num_attention_heads': 2,
    'intermediate_size': 64,
    'max_position_embeddings': 512,
    'type_vocab_size': 2,
    'hidden_act': 'gelu',
    'layer_norm_eps': 1e-12,
  }
  for name in ('DIR', 'MINILM'):
    (folder / name).mkdir()
    (folder / name / 'config.json').write_text(json.dumps(model))
  return folder


@pytest.mark.parametrize('command', programs())
def test_a_command_line_is_understood(
  command: str, somewhere: pathlib.Path
) -> None:
  for name, value in (
    ('$DATA', str(somewhere)),
    ('=FILE', '=configs/quickstart.py'),
    ('POLICY', 'none'),
  ):
    command = command.replace(name, value)
  arguments = shlex.split(command)[1:]
  if arguments[0] == '-m':
    del arguments[0]
  if arguments[0] in _WITH_REFERENCE:
    for module in ('torch', 'transformers'):
      pytest.importorskip(module, reason='needs the extra `reference`')
  done = support.run(
    [sys.executable, '-c', _PARSE, *arguments],
    cwd=somewhere,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('command', beginning('launch/'))
def test_a_launch_command_can_be_printed(
  command: str, tmp_path: pathlib.Path
) -> None:
  for name in ('BUCKET', 'DATA', 'PWD'):
    command = command.replace(f'${name}', name.lower())
  verb, name, *rest = shlex.split(command)
  done = support.run(
    ['bash', str(ROOT / verb), name, '--dry-run', *rest],
    env=os.environ | {'TD_FLAX_LAUNCH_HOME': str(tmp_path)},
  )
  assert done.returncode == 0, done.stderr
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('command', beginning('python -m pytest'))
def test_pytest_knows_the_options_markers_and_paths(command: str) -> None:
  arguments = shlex.split(command)[3:]
  done = support.run(
    [sys.executable, '-m', 'pytest', *arguments, '--markers'],
  )
  assert done.returncode == 0, done.stderr
  before = ['', *arguments]
  for option, argument in zip(before, arguments, strict=False):
    if option == '-m':
      assert f'@pytest.mark.{argument}:' in done.stdout
    elif '/' in argument:
      assert (ROOT / argument).exists()


# What is asked of gcloud, with its flags, as in its reference.
_GCLOUD = {
  'auth login': set(),
  'config set project': set(),
  'services enable': set(),
  'storage buckets create': {'--location'},
  'storage cp': {'-r'},
}


@pytest.mark.parametrize('command', beginning('gcloud'))
def test_gcloud_has_the_verb(command: str) -> None:
  line = command.removeprefix('gcloud ')
  (verb,) = [x for x in _GCLOUD if line.startswith(f'{x} ') or line == x]
  given = [x.partition('=')[0] for x in line.split() if x.startswith('-')]
  assert set(given) <= _GCLOUD[verb]


@pytest.mark.parametrize('command', beginning('jupytext'))
def test_jupytext_finds_nothing_to_do(
  command: str, tmp_path: pathlib.Path
) -> None:
  pytest.importorskip('jupytext', reason='needs the extra `notebooks`')
  copy = tmp_path / 'notebooks'
  shutil.copytree(ROOT / 'notebooks', copy)
  done = support.run(
    [sys.executable, '-m', *shlex.split(command)],
    cwd=tmp_path,
  )
  assert done.returncode == 0, done.stderr
  for path in copy.glob('*.ipynb'):
    assert path.read_text() == (ROOT / 'notebooks' / path.name).read_text()


def test_extras_exist() -> None:
  setup = (ROOT / 'setup.py').read_text()
  named = re.findall(r"'(?:\.|td_flax)\[([a-z,]+)\]'", '\n'.join(commands()))
  assert named
  for extra in {x for group in named for x in group.split(',')}:
    assert f"'{extra}'" in setup, extra


@pytest.mark.parametrize('page', PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_links_lead_somewhere(page: pathlib.Path) -> None:
  for target in re.findall(r'\]\(([^)#\s]+)', page.read_text()):
    if not re.match(r'[a-z]+:', target):
      assert (page.parent / target).exists(), target


def _messages() -> str:
  """Every string of the package and of launch/, `…` for what is filled in."""
  texts = []
  for path in (ROOT / 'launch').glob('*.sh'):
    variable = r'\$(\w+|\{[^}]*\}|\([^)]*\))'
    texts.append(re.sub(variable, '…', path.read_text()))
  for path in sorted((ROOT / 'td_flax').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        parts = [getattr(part, 'value', None) for part in node.values]
        texts.append(''.join(x if isinstance(x, str) else '…' for x in parts))
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        texts.append(node.value)
  return '\n'.join(texts)


def test_messages_that_are_explained_exist() -> None:
  text = (ROOT / 'docs/guides/troubleshooting.md').read_text()
  text = text.partition('## No error')[0]
  listed = re.findall(r'^\| `([^`]+)` \|', text, flags=re.MULTILINE)
  assert len(listed) >= 30
  known = _messages()
  for message in listed:
    pattern = '.*'.join(re.escape(part) for part in message.split('…'))
    assert re.search(pattern, known), message


@pytest.mark.parametrize('name', ['bert_base_td', 'bert_large_td'])
def test_configs_say_how_many_flops_dropping_leaves(name: str) -> None:
  module = runpy.run_path(str(ROOT / f'configs/{name}.py'))
  counted = []
  for policy in ('cumulative_loss', 'none'):
    raw = module['get_config']()
    raw.drop.policy = policy
    config = config_lib.load(raw)
    (plan,) = step.passes(config, consistent=False)
    counted.append(step.plan_flops(config, plan, config.data.vocab_size))
  ratio = f'{counted[0] / counted[1]:.3f}'
  assert f' {ratio} of its matmul FLOPs' in module['__doc__']


def test_every_module_is_on_the_map() -> None:
  text = (ROOT / 'docs/architecture.md').read_text()
  modules = {path.relative_to(ROOT) for path in ROOT.glob('td_flax/**/*.py')}
  modules -= {path for path in modules if path.name == '__init__.py'}
  policies = {x for x in modules if x.parent.name == 'policies'}  # one row
  assert len(modules - policies) > 80
  for path in modules - policies:
    assert f'`{path}`' in text or f'`{path.name}`' in text, path
