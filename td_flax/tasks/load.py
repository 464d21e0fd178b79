"""A config becomes its task."""

from td_flax import progress
from td_flax.config import Config
from td_flax.data.vocabulary import Tokenizer
from td_flax.tasks.sentences import Sentences
from td_flax.tasks.squad import Squad
from td_flax.tasks.tag import Tag
from td_flax.tasks.task import Task


def load(config: Config, tokenizer: Tokenizer) -> Task:
  """Reads the examples of `task.name` and makes ids of them.

  Raises:
    errors.UserError: the files cannot be used.
  """
  kind = Sentences
  if config.task.name.startswith('squad'):
    kind = Squad
  elif config.task.name == 'tag':
    kind = Tag
  task = kind(config, tokenizer)
  counts = {'train': task.train, **task.dev, **task.test}
  progress.write_line(
    f'{task.name}: '
    + ', '.join(f'{len(x.ids):,} rows {name}' for name, x in counts.items())
  )
  return task
