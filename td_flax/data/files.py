"""Local text files: .txt and .jsonl, plain or compressed.

The parent process decompresses a file and cuts it into blocks behind a blank
line (.txt) or a line (.jsonl); decoding, parsing and splitting into documents
are left to the workers. A block knows the number of its first line, so that
errors name the line of the (decompressed) file.
"""

import bz2
import dataclasses
import glob
import itertools
import json
import lzma
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import zstandard

from td_flax import errors

BLOCK_BYTES = 8_000_000
_READ_BYTES = 2**18  # of the file as it lies on disk

# What ends a document. Blank lines are made of the same characters whether they
# are looked for in bytes (to cut) or in text (to split).
_BLANK = r'[ \t\r\f\v]*'
_ENDS = {
  '.txt': re.compile(rf'\n{_BLANK}\n'.encode()),
  '.jsonl': re.compile(rb'\n'),
}
_BLANK_LINES = re.compile(rf'\n{_BLANK}\n')
_BLANK_CHARACTERS = ' \t\r\f\v\n'
_BOM = '\ufeff'

# Objects with `decompress`, `eof` and `unused_data`, each for one stream.
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
  '.gz': lambda: zlib.decompressobj(wbits=31),
  '.xz': lzma.LZMADecompressor,
  '.bz2': bz2.BZ2Decompressor,
  '.zst': lambda: _ZSTD.decompressobj(),
}
# Large published corpora are written with `zstd --long=31`.
_ZSTD = zstandard.ZstdDecompressor(max_window_size=2**31)
_DAMAGED = (zlib.error, lzma.LZMAError, zstandard.ZstdError)


@dataclasses.dataclass(frozen=True)
class FileSource:
  """The files that one glob matches, sorted by path."""

  spec: str
  weight: float | None
  paths: tuple[str, ...]
  text_field: str
  block_bytes: int = BLOCK_BYTES

  def inventory(self) -> list[dict[str, Any]]:
    """Names without directories, and sizes on disk."""
    return [
      {'name': os.path.basename(path), 'bytes': os.path.getsize(path)}
      for path in self.paths
    ]

  def identities(self) -> list[str]:
    """What no other source may read too."""
    return [os.path.realpath(path) for path in self.paths]

  def blocks(self) -> Iterator['FileBlock']:
    """Decompresses and cuts file after file."""
    for path in self.paths:
      kind, compression = _kind(path)
      cuts = cut(read(path, compression), _ENDS[kind], self.block_bytes)
      for i, (first_line, data) in enumerate(cuts):
        yield FileBlock(
          f'{path}:{i}', path, kind, first_line, data, self.text_field
        )


@dataclasses.dataclass(frozen=True)
class FileBlock:
  """Whole documents of one file, as bytes."""

  name: str
  path: str
  kind: str
  first_line: int
  data: bytes = dataclasses.field(repr=False)
  text_field: str

  @property
  def num_bytes(self) -> int:
    """Bytes of the decompressed file, JSON's included."""
    return len(self.data)

  def documents(self) -> Iterator[str]:
    """Decodes and splits; raises errors.DataError with file and line."""
    return (document for _, document in self._numbered())

  def place(self, index: int) -> str:
    """The file and the number of the document's first line."""
    number, _ = next(itertools.islice(self._numbered(), index, None))
    return f'{self.path}:{number}'

  def _numbered(self) -> Iterator[tuple[int, str]]:
    text, number = self._text(), self.first_line
    if self.kind == '.jsonl':
      for i, line in enumerate(text.split('\n'), number):
        if line.strip():
          yield i, self._field(i, line)
      return
    for piece in _BLANK_LINES.split(text.replace('\r\n', '\n')):
      document = piece.lstrip(_BLANK_CHARACTERS)
      if document:
        skipped = piece.count('\n', 0, len(piece) - len(document))
        yield number + skipped, document.strip()
      number += piece.count('\n') + 2  # and those of the blank line behind it

  def _text(self) -> str:
    try:
      text = self.data.decode('utf-8')
    except UnicodeDecodeError as error:
      line = self.first_line + self.data.count(b'\n', 0, error.start)
      utf16 = self.first_line == 1 and self.data[:2] in (
        b'\xff\xfe',
        b'\xfe\xff',
      )
      raise errors.DataError(
        f'{self.path}:{line}: byte 0x{self.data[error.start]:02x} is not '
        'UTF-8; convert the file, for example with `iconv -f '
        f'{"UTF-16" if utf16 else "WINDOWS-1252"} -t UTF-8`'
      ) from error
    return text.removeprefix(_BOM) if self.first_line == 1 else text

  def _field(self, number: int, line: str) -> str:
    where = f'{self.path}:{number}'
    try:
      record = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise errors.DataError(f'{where}: not a line of JSON: {error}') from error
    if not isinstance(record, dict):
      raise errors.DataError(
        f'{where}: must be a JSON object, is a {type(record).__name__}'
      )
    if self.text_field not in record:
      raise errors.DataError(
        f'{where}: no field {self.text_field!r}; set text_field to one of '
        f'{", ".join(record) or "its fields (it has none)"}'
      )
    text = record[self.text_field]
    if not isinstance(text, str):
      strings = [name for name, value in record.items() if type(value) is str]
      raise errors.DataError(
        f'{where}: field {self.text_field!r} must be a string, is a '
        f'{type(text).__name__}; those that are: {", ".join(strings) or "none"}'
      )
    if '\\u' in line:  # JSON can spell half a character, UTF-8 cannot
      try:
        text.encode()
      except UnicodeEncodeError as error:
        raise errors.DataError(
          f'{where}: field {self.text_field!r} holds half a surrogate pair, '
          f'\\u{ord(text[error.start]):04x}'
        ) from error
    return text


def matches(pattern: str) -> list[str]:
  """The files a glob matches, sorted; a file of that very name comes first."""
  pattern = os.path.expanduser(pattern)
  if os.path.isfile(pattern):
    return [pattern]  # its name may hold '[' or '*'
  found = glob.glob(pattern, recursive=True)
  return sorted({path for path in found if os.path.isfile(path)})


def find(
  spec: str, weight: float | None, text_field: str, key: str
) -> FileSource:
  """The source of a glob.

  Raises:
    errors.ConfigError: no file matches, or one is of an unknown kind.
  """
  paths = matches(spec)
  if not paths:
    is_directory = os.path.isdir(os.path.expanduser(spec))
    pattern = os.path.join(spec, '*.txt')
    raise errors.ConfigError(
      f'{key}: {spec} is a directory; name its files, for example {pattern}'
      if is_directory
      else f'{key}: no file matches {spec!r} (from {os.getcwd()})'
    )
  for path in paths:
    kind, _ = _kind(path)
    if kind not in _ENDS:
      raise errors.ConfigError(
        f'{key}: {path}: unknown kind of file; valid are '
        f'{" and ".join(_ENDS)}, plain or with {", ".join(_DECOMPRESSORS)}'
      )
  return FileSource(spec, weight, tuple(paths), text_field)


def _kind(path: str) -> tuple[str, str]:
  """`('.jsonl', '.xz')`; the second is '' for a plain file."""
  suffixes = [suffix.lower() for suffix in pathlib.PurePath(path).suffixes]
  kind, last = ['', '', *suffixes][-2:]
  return (kind, last) if last in _DECOMPRESSORS else (last, '')


def read(path: str, compression: str) -> Iterator[bytes]:
  """Yields the bytes of a file, decompressed.

  Args:
    path: the file.
    compression: its last extension, '' for none.

  Raises:
    errors.DataError: it cannot be read, is damaged or truncated.
  """
  try:
    with open(path, 'rb') as raw:
      if not compression:
        yield from iter(lambda: raw.read(_READ_BYTES), b'')
        return
      try:
        yield from _decompress(raw, _DECOMPRESSORS[compression])
      except EOFError as error:
        raise errors.DataError(
          f'{path}: truncated: its {compression} stream has no end after byte '
          f'{raw.tell():,}'
        ) from error
      except (*_DAMAGED, OSError) as error:  # bz2 raises OSError
        raise errors.DataError(
          f'{path}: damaged {compression} stream in the {_READ_BYTES:,} bytes '
          f'before byte {raw.tell():,}: {error}'
        ) from error
  except OSError as error:
    raise errors.DataError(
      f'{path}: cannot be read: {error.strerror or error}'
    ) from error


def _decompress(raw: BinaryIO, new: Callable[[], Any]) -> Iterator[bytes]:
  """Any number of concatenated streams; zeros between them are padding."""
  stream = None
  while data := raw.read(_READ_BYTES):
    while data:
      if stream is None or stream.eof:
        data = data.lstrip(b'\0')
        if not data:
          break
        stream = new()
      yield stream.decompress(data)
      data = stream.unused_data
  if stream is None or not stream.eof:  # compressors write a stream of nothing
    raise EOFError


def cut(
  pieces: Iterator[bytes], end: re.Pattern[bytes], block_bytes: int
) -> Iterator[tuple[int, bytes]]:
  """Cuts a stream of bytes behind matches of `end`.

  Args:
    pieces: the stream.
    end: what ends a document, in one line or from one newline to another.
    block_bytes: a block ends at the first match behind so many bytes; a
      document that is longer makes a longer block.

  Yields:
    The number of a block's first line, from 1, and its bytes. Together they
    are the stream.
  """
  first_line, pending = 1, bytearray()
  start = block_bytes  # no match that counts lies before
  for piece in pieces:
    pending += piece
    while start < len(pending):
      match = end.search(pending, start)
      stop = match and match.end()
      del match  # it locks `pending`
      if stop is None:
        # A match may begin at the last newline; the line behind it may grow.
        newline = pending.rfind(b'\n', start)
        start = len(pending) if newline < 0 else newline
        break
      block = bytes(pending[:stop])
      del pending[:stop]
      yield first_line, block
      first_line += block.count(b'\n')
      start = block_bytes
  if pending:
    yield first_line, bytes(pending)
