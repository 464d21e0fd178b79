"""Where documents come from: a list of sources, cut into blocks of documents.

A *source* is one entry of `data.files`. In the parent process it is cut into
*blocks*, a few MB of raw text that end on a document boundary; worker processes
turn blocks into documents. Both steps are deterministic.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from td_flax import errors
from td_flax.data import embedded, files, tfds_source

_MAX_WEIGHT = 1e100  # sums of weights stay finite


class Block(Protocol):
  """A piece of a source; pickled and sent to a worker process."""

  @property
  def name(self) -> str:
    """Names the block in messages; unique among all sources of one list."""

  @property
  def num_bytes(self) -> int:
    """Bytes of text, for a progress bar; an estimate for TFDS."""

  def documents(self) -> Iterator[str]:
    """Yields documents in order, also those that are blank.

    Raises:
      errors.DataError: the text is damaged; names the file and the line.
    """

  def place(self, index: int) -> str:
    """Names the document that `documents` yields after `index` others."""


class Source(Protocol):
  """One entry of `data.files`."""

  @property
  def spec(self) -> str:
    """The entry as written, without its weight."""

  @property
  def weight(self) -> float | None:
    """The number behind '='; None where none was given."""

  def inventory(self) -> list[dict[str, Any]]:
    """What is read, each with a `name` and `bytes`; identifies the source.

    Cheap: no text is read. Directories are no part of it.
    """

  def identities(self) -> list[str]:
    """What is read, spelled so that two sources that share it agree."""

  def blocks(self) -> Iterator[Block]:
    """Cuts the source, in order, holding one block in memory.

    Raises:
      errors.DataError: a file cannot be read or decompressed.
    """


def parse(
  specs: str, *, text_field: str, tfds_dir: str, key: str = 'data.files'
) -> list[Source]:
  """Reads `'a/*.txt=2,tfds:lm1b,embedded'` and finds what it names.

  A weight is what stands behind the last '='. A path that holds a comma is
  written with '?' in its place.

  Args:
    specs: comma list of SPEC[=WEIGHT]; SPEC is `embedded`, `tfds:NAME` or a
      glob (`**` crosses directories, `~` is the home directory).
    text_field: field of a .jsonl line or a TFDS example that holds the text.
    tfds_dir: where TFDS datasets lie; '' is TFDS's own default.
    key: the config key that messages name.

  Returns:
    The sources in the order written.

  Raises:
    errors.ConfigError: an entry is empty, its weight is not a positive number,
      it names no file, a file of an unknown kind, a split or field that is not
      there, or two entries read the same file.
    errors.DataError: a TFDS dataset is not there or cannot be read.
  """
  sources = []
  for entry in specs.split(','):
    spec, weight = _split_weight(entry.strip(), key)
    if spec == 'embedded':
      source = embedded.EmbeddedSource(spec, weight)
    elif spec.startswith(tfds_source.PREFIX):
      source = tfds_source.find(spec, weight, text_field, tfds_dir, key)
    else:
      source = files.find(spec, weight, text_field, key)
    sources.append(source)
  _check_disjoint(sources, key)
  return sources


def _split_weight(entry: str, key: str) -> tuple[str, float | None]:
  if not entry:
    raise errors.ConfigError(
      f'{key}: an entry is empty; valid is SPEC[=WEIGHT]'
    )
  spec, sign, right = entry.rpartition('=')
  if not sign:
    return entry, None
  try:
    weight = float(right)
  except ValueError as error:
    if files.matches(entry):
      return entry, None  # the '=' belongs to the path
    raise errors.ConfigError(
      f'{key}: {entry}: no such file, and {right!r} is no weight: it must be a '
      'number above 0'
    ) from error
  if not (spec and 0 < weight <= _MAX_WEIGHT):
    raise errors.ConfigError(
      f'{key}: {entry}: the weight must be a number above 0, at most '
      f'{_MAX_WEIGHT:g}'
    )
  return spec, weight


def _check_disjoint(sources: list[Source], key: str) -> None:
  # Otherwise a document weighs twice, unseen, and block names are ambiguous.
  owners: dict[str, str] = {}
  for source in sources:
    for identity in source.identities():
      if identity in owners:
        raise errors.ConfigError(
          f'{key}: {identity} is read twice, by {owners[identity]!r} and '
          f'{source.spec!r}; give it a weight instead'
        )
      owners[identity] = source.spec
