import pickle
import shutil
import sysconfig

import pytest

from td_flax import errors
from td_flax.data import embedded

SOURCE = embedded.EmbeddedSource('embedded', None)


@pytest.fixture(scope='module')
def blocks():
  return list(SOURCE.blocks())


@pytest.fixture
def library(tmp_path, monkeypatch):
  """A standard library of a few modules."""
  root = tmp_path / 'lib'
  for name in ('pydoc_data/topics.py', 'argparse.py', 'textwrap.py'):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(f'{sysconfig.get_path("stdlib")}/{name}', root / name)
  monkeypatch.setattr(sysconfig, 'get_path', {'stdlib': str(root)}.get)
  embedded._documents.cache_clear()
  yield root
  embedded._documents.cache_clear()


def test_it_is_megabytes_of_english(blocks):
  text = ' '.join(x for block in blocks for x in block.documents())
  assert 1_500_000 < sum(block.num_bytes for block in blocks) < 4_000_000
  words = text.lower().split()
  assert words.count('the') / len(words) > 0.04
  assert '>>>' not in text


def test_blocks_are_small_named_and_pickle(blocks):
  assert len({block.name for block in blocks}) == len(blocks) >= 4
  assert pickle.loads(pickle.dumps(blocks)) == blocks
  texts = [x for block in blocks for x in block.documents()]
  assert min(map(len, texts)) >= embedded.MIN_CHARS


def test_documents_are_topics_and_modules_in_order(library):
  topics = embedded._topics(library / 'pydoc_data/topics.py')
  (block, *rest) = SOURCE.blocks()
  texts = [x for part in (block, *rest) for x in part.documents()]
  assert texts[0] == embedded.clean(topics[0])
  assert texts[-2].startswith('Command-line parsing library')
  assert texts[-1].startswith('Text wrapping and filling.')


def test_the_inventory_identifies_the_sources(library):
  (before,) = SOURCE.inventory()
  (again,) = SOURCE.inventory()
  assert again == before
  with (library / 'textwrap.py').open('a') as file:
    file.write('# patched by a distributor\n')
  (after,) = SOURCE.inventory()
  assert after['sha256'] != before['sha256']
  assert after['bytes'] == before['bytes'] + 27


@pytest.mark.parametrize('name', ['pydoc_data/topics.py', 'argparse.py'])
def test_a_library_without_sources_is_refused(library, name):
  (library / name).unlink()
  for read in (SOURCE.inventory, lambda: list(SOURCE.blocks())):
    with pytest.raises(
      errors.DataError, match=f'^embedded: .*{name} is missing: .*sources'
    ):
      read()


def test_docstrings_come_in_source_order_whatever_they_are_nested_in(tmp_path):
  path = tmp_path / 'module.py'
  path.write_text(
    '"""Zero."""\n'
    'try:\n'
    '  class A:\n'
    '    """One.\n\n      Dedented.\n    """\n'
    '    def f(self):\n'
    '      """Two."""\n'
    'except ImportError:\n'
    '  async def g():\n'
    '    """Three."""\n'
    'else:\n'
    '  text = """No docstring."""\n'
    'def h(): "Four."\n'
  )
  assert embedded._docstrings(path) == (
    'Zero.\n\nOne.\n\nDedented.\n\nTwo.\n\nThree.\n\nFour.'
  )


def test_cleaning_leaves_prose():
  text = (
    'Heading\n*******\n\nIt says **much**\n\n\n\n>>> f(1)\n2\n\n'
    '+---+---+\n| a | b |\n+===+---+\n\n   indented, stays\n   as it is\n'
    '\n-----\n'
  )
  assert embedded.clean(text) == (
    'Heading\n\nIt says **much**\n\n| a | b |\n\n'
    '   indented, stays\n   as it is'
  )
