import re

import numpy as np
import pytest

from td_flax import checkpoint, errors, step
from td_flax.data import sentence_piece
from td_flax.devices import OneDevice
from td_flax.insight import sentence
from td_flax.workdir import Workdir

TEXT = 'the cat & the dog <sat> on the mat and the hen sat on the hat'


@pytest.fixture
def run(tmp_path, make_config):
  """A run whose table finds `the`, and everything that begins it, easy."""
  corpus = [f'the {a}{b} sat on {b}{a}' for a in 'cdhmnp' for b in 'aeiou'] * 4
  tokenizer = sentence_piece.train(
    corpus, kind='bpe', vocab_size=300, lowercase=True
  )
  config = make_config(drop__policy='cumulative_loss')
  steps = step.Steps(
    config, tokenizer.vocab_size, tokenizer.special, OneDevice()
  )
  table = np.full(tokenizer.vocab_size, 5, np.float32)
  for index in range(len(table)):
    if 'the' in tokenizer.piece(index):
      table[index] = 1
  state = steps.init(table)
  made = Workdir(tmp_path / 'run')
  prints = {'tokenizer': tokenizer.fingerprint, 'dataset': 'x'}
  made.claim(config, prints, tokenizer)
  saved = checkpoint.Checkpoints(made.checkpoints, keep=1, keep_best=False)
  content = {'params': state.params, 'importance': state.importance}
  saved.save(1, content, {}, eval_loss=None, wait=True)
  saved.close()
  return str(tmp_path / 'run'), tokenizer


def test_what_the_table_finds_easy_is_struck_through(run):
  workdir, tokenizer = run
  page = sentence.coloured(workdir, TEXT)
  tokens = re.findall(
    r'<span style="([^"]*)" title="\d+%">([^<]*)</span>', page
  )
  (ids,) = tokenizer.encode_batch([TEXT])
  assert len(tokens) == min(len(ids), 30) + 2
  dropped = [piece for style, piece in tokens if 'line-through' in style]
  assert len(dropped) == len(tokens) - round(len(tokens) / 2)
  assert dropped.count('▁the') == [x for _, x in tokens].count('▁the') > 3
  assert '[CLS]' not in dropped
  # Text and ground have colours of their own: any page will do.
  assert all('color:#000' in x and 'background:#' in x for x, _ in tokens)
  assert '<sat>' not in page


def test_a_text_too_short_to_drop_from_is_refused(run):
  with pytest.raises(errors.DataError, match='at least 14 tokens, not'):
    sentence.coloured(run[0], 'the cat')
