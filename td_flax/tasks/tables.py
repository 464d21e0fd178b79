"""Examples with named columns: .tsv, .csv and .jsonl files, and TFDS."""

import csv
import io
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from td_flax import errors, progress
from td_flax.data import tfds_source


class Row(NamedTuple):
  """One example.

  Attributes:
    place: where it stands, for messages.
    values: by column.
  """

  place: str
  values: dict[str, Any]


def read(
  path: str | pathlib.Path,
  columns: Sequence[str],
  key: str,
  *,
  names: Sequence[str] | None = None,
  skip_broken: bool = False,
) -> list[Row]:
  """The rows of a file.

  Args:
    path: of a .tsv file, in which a quote is a letter like any other, of a .csv
      or of a .jsonl file.
    columns: those that every row must have.
    key: the config key that errors name.
    names: of the columns of a file without a line of names.
    skip_broken: leave rows without some of the `columns`, or with more fields
      than there are columns, out, with a warning.

  Raises:
    errors.ConfigError: there is no such file, it is of no known kind, or a
      column is not there.
    errors.DataError: the file is empty or damaged, a column occurs twice, or
      a row is broken; of one column, is blank with others behind it.
  """
  path = pathlib.Path(path)
  readers: dict[str, Callable[..., Iterator[Row]]] = {
    '.tsv': _separated,
    '.csv': _separated,
    '.jsonl': _json_lines,
  }
  if path.suffix not in readers:
    raise errors.ConfigError(
      f'{key}={str(path)!r}: must end in {", ".join(readers)}'
    )
  try:
    text = path.read_bytes().decode('utf-8-sig')
  except OSError as error:
    raise errors.ConfigError(f'{key}: {path}: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise errors.DataError(f'{path}: is not UTF-8 ({error})') from error
  rows, broken = [], []
  for row in readers[path.suffix](path, text, columns, names):
    problem = _problem(row.values, columns)
    if not problem:
      rows.append(row)
    elif not skip_broken:
      raise errors.DataError(f'{row.place}: {problem}')
    else:
      broken.append(row.place)
  if broken:
    progress.write_line(
      f'warning: {path}: {len(broken)} broken rows are left out, the first at '
      f'{broken[0]}'
    )
  if not rows:
    raise errors.DataError(f'{path}: holds no examples')
  return rows


def _problem(values: dict[Any, Any], columns: Sequence[str]) -> str:
  """What is broken about a row; '' if nothing."""
  if None in values:
    return 'has more fields than there are columns'
  missing = [x for x in columns if values.get(x) is None]
  return f'has no {missing[0]!r}' if missing else ''


def read_tfds(
  spec: str, split: str, tfds_dir: str, key: str
) -> list[dict[str, Any]]:
  """All examples of a split of a dataset that TFDS prepared as array_record.

  Args:
    spec: such as `glue/sst2`.
    split: such as `validation`.
    tfds_dir: where datasets lie; '' is TFDS's own default.
    key: the config key that errors name.

  Raises:
    errors.UserError: it is not there; names the command that prepares it.
  """
  return tfds_source.examples(
    f'{tfds_source.PREFIX}{spec}@{split}', tfds_dir, key
  )


def _separated(
  path: pathlib.Path,
  text: str,
  columns: Sequence[str],
  names: Sequence[str] | None,
) -> Iterator[Row]:
  lines = _fields(path, text)
  if names is None:
    _, names = next(lines, (1, ()))
    absent = [x for x in columns if x not in names]
    if absent:
      raise errors.ConfigError(
        f'{path}:1: has no column {absent[0]!r}; there are '
        f'{", ".join(names) or "none"}'
      )
    twice = [x for x in columns if names.count(x) > 1]
    if twice:
      raise errors.DataError(f'{path}:1: has two columns {twice[0]!r}')
  blank = 0
  for number, fields in lines:
    if not fields or fields == ['']:
      blank = blank or number
      continue
    # It may be an example, and the numbers of those behind it would be wrong.
    if blank and len(names) == 1:
      raise errors.DataError(f'{path}:{blank}: is blank')
    # What is too many has the name None, what lacks the value None.
    yield Row(f'{path}:{number}', dict(itertools.zip_longest(names, fields)))


def _fields(path: pathlib.Path, text: str) -> Iterator[tuple[int, list[str]]]:
  """The numbers of lines and their fields."""
  if path.suffix == '.tsv':
    # Text may hold what `splitlines` takes for the end of a line.
    for number, line in enumerate(text.split('\n'), 1):
      yield number, line.removesuffix('\r').split('\t')
    return
  # No field is too long, such as a whole document.
  csv.field_size_limit(max(csv.field_size_limit(), len(text)))
  reader = csv.reader(io.StringIO(text, newline=''), strict=True)
  number = 1
  try:
    for fields in reader:
      yield number, fields
      number = reader.line_num + 1
  except csv.Error as error:
    raise errors.DataError(f'{path}:{number}: {error}') from error


def _json_lines(
  path: pathlib.Path,
  text: str,
  columns: Sequence[str],
  names: Sequence[str] | None,
) -> Iterator[Row]:
  del columns, names  # a line brings its own
  for number, line in enumerate(text.split('\n'), 1):
    if not line.strip():
      continue
    place = f'{path}:{number}'
    try:
      values = json.loads(line)
      # JSON can spell half a character, UTF-8 cannot.
      json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
      raise errors.DataError(
        f'{place}: holds half a surrogate pair, '
        f'\\u{ord(error.object[error.start]):04x}'
      ) from error
    except (ValueError, RecursionError) as error:
      raise errors.DataError(f'{place}: is not JSON ({error})') from error
    if not isinstance(values, dict):
      raise errors.DataError(f'{place}: must be a JSON object')
    yield Row(place, values)
