"""Classification and regression of texts and of pairs: GLUE, or own files."""

import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from td_flax import errors, progress
from td_flax.config import Config
from td_flax.data import tfds_source
from td_flax.data.vocabulary import Tokenizer
from td_flax.model.task_model import FIRST, Output
from td_flax.tasks import glue, glue_score, tables
from td_flax.tasks.task import UNLABELED, Encoded, Task, assemble


class _Example(NamedTuple):
  """One example as it was read; `label` None where it is not known.

  `index` stands before its prediction.
  """

  place: str
  index: Any
  texts: tuple[str, ...]
  label: Any


class Sentences(Task):
  """A task of GLUE, or `classify` or `regress` on one's own files.

  Args:
    config: names the task and its files.
    tokenizer: makes the ids.

  Raises:
    errors.UserError: a file is missing, damaged or empty, a column is not
      there, or a label is not known.
  """

  def __init__(self, config: Config, tokenizer: Tokenizer):
    self.name = config.task.name
    self._spec = glue.TASKS.get(self.name)
    read = _glue if self._spec else _own
    examples = read(config)
    is_regression = self.name == 'regress' or bool(
      self._spec and not self._spec.labels
    )
    self.labels = (
      () if is_regression else self._known(examples['train'], config.task.train)
    )
    size = 1 if is_regression else len(self.labels)
    self.output = Output(FIRST, size, is_regression)
    if self._spec:
      self._metrics = self._spec.metrics
    else:
      numbers, classes = ('pearson', 'spearman'), ('accuracy', 'macro_f1')
      self._metrics = numbers if is_regression else classes
    self.metric = self._metrics[0]

    length = config.data.sequence_length
    self._num_cut = 0
    self._indices = {
      name: [x.index for x in split] for name, split in examples.items()
    }
    encoded = {
      name: Encoded(
        self._rows([x.texts for x in split], tokenizer, length),
        np.array([[self._number(x)] for x in split], self._label_type),
      )
      for name, split in examples.items()
    }
    if self._num_cut:
      total = sum(map(len, examples.values()))
      progress.write_line(
        f'{self.name}: {self._num_cut:,} of {total:,} examples were cut to '
        f'data.sequence_length={length}'
      )
    self.train = encoded.pop('train')
    self.dev = {k: v for k, v in encoded.items() if k.startswith('dev')}
    self.test = {k: v for k, v in encoded.items() if k not in self.dev}

  @property
  def _label_type(self) -> type:
    return np.float32 if self.output.is_regression else np.int32

  def _known(self, train: list[_Example], path: str) -> tuple[str, ...]:
    """The labels there are, in the order of their numbers."""
    if self._spec:
      return self._spec.labels
    found = {str(x.label) for x in train}
    if len(found) < 2:
      raise errors.DataError(
        f'task.train={path!r}: all examples have the label {found.pop()!r}; '
        'a classification needs two or more'
      )
    if all(x.isdecimal() for x in found):
      return tuple(sorted(found, key=lambda x: (int(x), x)))
    return tuple(sorted(found))

  def _number(self, example: _Example) -> float:
    """What the model learns of an example."""
    label = example.label
    if label is None:
      return UNLABELED
    if self.output.is_regression:
      try:
        number = float(label)
      except (ValueError, TypeError):
        number = math.nan
      if not math.isfinite(number):
        raise errors.DataError(
          f'{example.place}: the label {label!r} must be a number'
        )
      return number
    if self._spec and not isinstance(label, str):  # TFDS has numbers
      return int(label)
    if str(label) not in self.labels:
      raise errors.DataError(
        f'{example.place}: the label {label!r} must be one of '
        f'{", ".join(self.labels[:10])}'
      )
    return self.labels.index(str(label))

  def _rows(
    self, texts: list[tuple[str, ...]], tokenizer: Tokenizer, length: int
  ) -> Int[np.ndarray, 'S N']:
    """Rows of one text or of two; the longer one gives way."""
    rows = []
    parts = [tokenizer.encode_batch(list(x)) for x in zip(*texts, strict=True)]
    for ids in zip(*parts, strict=True):
      room = length - 1 - len(ids)
      kept = _fitting([len(x) for x in ids], room)
      self._num_cut += sum(kept) < sum(map(len, ids))
      cut = [x[:n] for x, n in zip(ids, kept, strict=True)]
      rows.append(assemble(tokenizer.special, length, *cut))
    return np.stack(rows)

  def _predicted(self, logits: Float[np.ndarray, 'S 1 C']) -> np.ndarray:
    if not self.output.is_regression:
      return np.argmax(logits[:, 0], axis=-1)
    return logits[:, 0, 0]

  def score(
    self, split: str, logits: Float[np.ndarray, 'S 1 C']
  ) -> dict[str, float]:
    """The task's official metrics, or of own files accuracy and macro F1."""
    labels, predicted = self.dev[split].labels[:, 0], self._predicted(logits)
    return {
      name: getattr(glue_score, name)(labels, predicted)
      for name in self._metrics
    }

  def predictions(
    self, split: str, logits: Float[np.ndarray, 'S 1 C']
  ) -> dict[str, str]:
    """A table `index, prediction`, as GLUE wants it submitted."""
    lines = ['index\tprediction']
    form = '.3f' if self._spec else '.6g'
    predicted = self._predicted(logits)
    if self._spec and self._spec.range:  # only a submission must keep to it
      predicted = np.clip(predicted, *self._spec.range)
    for index, x in zip(self._indices[split], predicted, strict=True):
      text = format(x, form) if self.output.is_regression else self.labels[x]
      lines.append(f'{index}\t{text}')
    file = f'{split}.tsv'
    if self._spec:
      file = self._spec.test.get(split, file)
    return {file: '\n'.join(lines) + '\n'}

  def details(self) -> dict[str, list[str]]:
    """The indices that stand before predictions."""
    return {name: [*map(str, x)] for name, x in self._indices.items()}


def _fitting(lengths: list[int], room: int) -> list[int]:
  """How much is kept of one text or of two, in `room` ids together."""
  if len(lengths) == 1:
    return [min(lengths[0], room)]
  first, second = lengths
  over = max(0, first + second - room)
  # The longer one is cut down to the other, then both alike.
  alone = min(over, abs(first - second))
  both, odd = divmod(over - alone, 2)
  cut_first, cut_second = both + odd, both
  if first >= second:
    cut_first += alone
  else:
    cut_second += alone
  return [first - cut_first, second - cut_second]


def _glue(config: Config) -> dict[str, list[_Example]]:
  """All splits that are there, `train` and `dev` at the least."""
  spec = glue.TASKS[config.task.name]
  if not config.data.task_dir:
    return _glue_of_tfds(config, spec)
  root = pathlib.Path(config.data.task_dir)
  if not (root / spec.folder).is_dir():
    raise errors.ConfigError(
      f'data.task_dir={str(root)!r}: holds no folder {spec.folder}; it must be '
      "the folder of GLUE's own download, or empty for TFDS"
    )

  def place(name: str) -> pathlib.Path:
    folder = glue.DIAGNOSTIC if name == glue.DIAGNOSTIC else spec.folder
    return root / folder / f'{name}.tsv'

  def split(name: str, *, labeled: bool) -> list[_Example]:
    rows = tables.read(
      place(name),
      (*spec.texts, spec.label if labeled else spec.index),
      'data.task_dir',
      names=spec.names if labeled else None,
      # A submission needs every row of a test file.
      skip_broken=labeled and spec.has_broken_rows,
    )
    if labeled:
      return _examples(rows, spec.texts, spec.label)
    return _examples(rows, spec.texts, None, spec.index)

  splits = {x: split(x, labeled=True) for x in ('train', *spec.dev)}
  for name in spec.test:
    if place(name).exists():
      splits[name] = split(name, labeled=False)
  return splits


def _glue_of_tfds(config: Config, spec: glue.Glue) -> dict[str, list[_Example]]:
  names = ['train', *spec.dev, *spec.test]
  splits = {}
  for name in names:
    dataset = f'glue/{config.task.name}'
    there = name.replace('dev', 'validation')
    if name == glue.DIAGNOSTIC:
      dataset, there = 'glue/ax', 'test'
      if not _is_prepared(dataset, config.data.tfds_dir):
        continue
    values = tables.read_tfds(
      dataset, there, config.data.tfds_dir, 'data.tfds_dir'
    )
    rows = [
      tables.Row(f'{dataset}@{there}: example {i}', x)
      for i, x in enumerate(values)
    ]
    # TFDS shuffles; a submission is in the order of GLUE's own file.
    rows.sort(key=lambda row: row.values['idx'])
    label = None if name in spec.test else 'label'
    splits[name] = _examples(rows, spec.tfds_texts, label, 'idx')
  return splits


def _is_prepared(dataset: str, tfds_dir: str) -> bool:
  """Whether a dataset that may be missing is there; says if it is not."""
  name = tfds_source.parse_name(dataset, 'data.tfds_dir')
  is_there = tfds_source.newest(name.folder(tfds_dir), None) is not None
  if not is_there:
    progress.write_line(
      f'{dataset}: is not there and not predicted; generate it with '
      f'`{name.command(tfds_dir)}`'
    )
  return is_there


def _own(config: Config) -> dict[str, list[_Example]]:
  task = config.task
  texts = (task.text, task.pair) if task.pair else (task.text,)
  splits = {}
  for name, path in (('train', task.train), ('dev', task.dev)):
    if not path:
      raise errors.ConfigError(
        f"task.{name}='': missing; task.name={task.name} needs a file"
      )
    rows = tables.read(path, (*texts, task.label), f'task.{name}')
    splits[name] = _examples(rows, texts, task.label)
  if task.test:
    splits['test'] = _examples(
      tables.read(task.test, texts, 'task.test'), texts, None
    )
  return splits


def _examples(
  rows: list[tables.Row],
  texts: tuple[str, ...],
  label: str | None,
  index: str | None = None,
) -> list[_Example]:
  """Examples of rows; without a column `index` they are numbered."""
  examples = []
  for number, (place, values) in enumerate(rows):
    for name in texts:
      if not isinstance(values[name], str):
        raise errors.DataError(
          f'{place}: {name!r} must be text, is {values[name]!r}'
        )
    if label and values[label] == '':
      raise errors.DataError(f'{place}: {label!r} is empty')
    examples.append(
      _Example(
        place,
        values[index] if index else number,
        tuple(values[name] for name in texts),
        values[label] if label else None,
      )
    )
  return examples
