"""English prose that every Python installation carries.

The help topics of `pydoc_data` and the docstrings of the standard library, read
from source files by `ast`: no module is imported. It differs a little from one
version of Python to the next, and some distributors patch it; the inventory's
sha256 says which text it was.
"""

import ast
import dataclasses
import functools
import hashlib
import os
import pathlib
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

from td_flax import errors

BLOCK_CHARS = 250_000
MIN_CHARS = 200  # shorter documents hold a name and a sentence at most

_TOPICS = 'pydoc_data/topics.py'
# Bundled programs and their tests, and tables generated as code.
_SKIPPED = {
  'encodings', 'ensurepip', 'idlelib', 'lib2to3', 'pydoc_data', 'test',
  'tests', 'turtledemo', '__pycache__',
}  # fmt: skip
_DEFINITIONS = (
  ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
)  # fmt: skip
# Underlines of headings and borders of tables.
_RULER = re.compile(r'^[^\w\n]+(?:\n|\Z)', re.MULTILINE)
_EMPTY_LINES = re.compile(r'\n\s*\n')


@dataclasses.dataclass(frozen=True)
class EmbeddedSource:
  """Help topics, then modules, each in alphabetical order."""

  spec: str
  weight: float | None

  def inventory(self) -> list[dict[str, Any]]:
    """One entry: the version of Python, and what its sources hash to."""
    sha256, num_bytes = fingerprint()
    return [
      {
        'name': 'embedded',
        'python': platform.python_version(),
        'bytes': num_bytes,
        'sha256': sha256,
      }
    ]

  def identities(self) -> list[str]:
    """There is one such source."""
    return ['embedded']

  def blocks(self) -> Iterator['EmbeddedBlock']:
    """Extracts the documents (3 s, once per process) and groups them."""
    group: list[str] = []
    count = 0
    for document in _documents():
      group.append(document)
      if sum(map(len, group)) >= BLOCK_CHARS:
        yield EmbeddedBlock(f'embedded:{count}', tuple(group))
        group, count = [], count + 1
    if group:
      yield EmbeddedBlock(f'embedded:{count}', tuple(group))


@dataclasses.dataclass(frozen=True)
class EmbeddedBlock:
  """Some of the documents."""

  name: str
  texts: tuple[str, ...] = dataclasses.field(repr=False)

  @property
  def num_bytes(self) -> int:
    """Bytes of the documents' text."""
    return sum(len(text.encode()) for text in self.texts)

  def documents(self) -> Iterator[str]:
    """The documents as they are."""
    yield from self.texts

  def place(self, index: int) -> str:
    """The block and the document's number within it."""
    return f'{self.name}, document {index}'


def fingerprint() -> tuple[str, int]:
  """The sha256 over names and contents of the files read, and their bytes.

  Raises:
    errors.DataError: this Python has no sources of its standard library.
  """
  digest, num_bytes = hashlib.sha256(), 0
  root = _root()
  for name in [_TOPICS, *_modules(root)]:
    data = (root / name).read_bytes()
    digest.update(f'{name}\0{len(data)}\0'.encode() + data)
    num_bytes += len(data)
  return digest.hexdigest(), num_bytes


@functools.cache
def _documents() -> list[str]:
  root = _root()
  texts = [
    *_topics(root / _TOPICS),
    *(_docstrings(root / name) for name in _modules(root)),
  ]
  return [text for text in map(clean, texts) if len(text) >= MIN_CHARS]


def _root() -> pathlib.Path:
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  for name in (_TOPICS, 'argparse.py'):
    if not (root / name).is_file():
      raise errors.DataError(
        f'embedded: {root / name} is missing: this Python comes without the '
        'sources of its standard library; name text files instead, for example '
        "'my_texts/*.txt'"
      )
  return root


def _modules(root: pathlib.Path) -> list[str]:
  """Paths below `root` of the standard library's modules, sorted."""
  found = []
  for folder, folders, names in os.walk(root):
    if folder == str(root):
      folders[:] = [x for x in folders if x in sys.stdlib_module_names]
      names = [x for x in names if x[:-3] in sys.stdlib_module_names]
    folders[:] = [x for x in folders if x not in _SKIPPED]
    found += [
      os.path.relpath(os.path.join(folder, name), root).replace(os.sep, '/')
      for name in names
      if name.endswith('.py')
    ]
  return sorted(found)


def _topics(path: pathlib.Path) -> list[str]:
  """The values of the one dict that the file assigns, sorted by name."""
  values = [
    ast.literal_eval(node.value)
    for node in ast.parse(path.read_bytes()).body
    if isinstance(node, ast.Assign)
  ]
  return [text for _, text in sorted(values[0].items())]


def _docstrings(path: pathlib.Path) -> str:
  """All docstrings of a module in the order of its source."""
  return '\n\n'.join(_walk(ast.parse(path.read_bytes())))


def _walk(node: ast.AST) -> Iterator[str]:
  if isinstance(node, _DEFINITIONS) and (text := ast.get_docstring(node)):
    yield text
  # Definitions are statements: going through expressions would double the time.
  for block in ('body', 'handlers', 'orelse', 'finalbody'):
    children = getattr(node, block, [])
    for child in children if isinstance(children, list) else []:
      yield from _walk(child)


def clean(text: str) -> str:
  """Prose only: no sessions at a prompt, no rulers, one empty line at most.

  Args:
    text: paragraphs between empty lines.

  Returns:
    The paragraphs that hold no `>>>`, without lines made of punctuation.
  """
  paragraphs = (_RULER.sub('', x) for x in _EMPTY_LINES.split(text))
  return '\n\n'.join(
    stripped
    for paragraph in paragraphs
    if '>>>' not in paragraph and (stripped := paragraph.strip('\n').rstrip())
  ).strip()
