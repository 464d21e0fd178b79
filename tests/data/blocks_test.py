import dataclasses
import itertools
import pydoc_data.topics
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from td_flax import errors, layout
from td_flax.data import blocks, sentence_piece

TEXTS = sorted(pydoc_data.topics.topics.values())[:12]


@dataclasses.dataclass(frozen=True)
class Block:
  texts: tuple[str, ...]
  name: str = 'some.txt:0'  # the first block, not the line

  @property
  def num_bytes(self) -> int:
    return sum(len(text.encode()) for text in self.texts)

  def documents(self) -> Iterator[str]:
    yield from self.texts

  def place(self, index: int) -> str:
    return f'some.txt:{10 * index + 1}'


@pytest.fixture(scope='module')
def vocabulary():
  return sentence_piece.train(TEXTS, kind='bpe', vocab_size=500, lowercase=True)


@pytest.fixture
def job(vocabulary, tmp_path):
  vocabulary.save(tmp_path / 'tokenizer')
  (tmp_path / layout.BLOCKS).mkdir()
  return blocks.Job(tmp_path, 'build', vocabulary.fingerprint, 32, seed=0)


def text_ids(job, file):
  ids = np.load(job.directory / file).reshape(-1)
  return ids[ids > 4].tolist()


def test_a_record_is_written_last_and_counts_what_was_packed(job, vocabulary):
  record = blocks.pack_block(job, 3, 1, 0.0, Block(tuple(TEXTS)))
  assert blocks.finished(job, 3) == record
  train = record['splits']['train']
  assert (train['documents'], record['source']) == (12, 1)
  assert train['text_bytes'] == Block(tuple(TEXTS)).num_bytes
  expected = np.concatenate(vocabulary.encode_batch(TEXTS)).tolist()
  assert text_ids(job, train['shard']['file']) == expected
  counts = np.load(job.directory / record['counts']['file'])
  assert counts.sum() == train['rows'] * 32
  assert counts.sum() - counts[0] == train['tokens']
  assert record['splits']['eval']['shard'] is None


@pytest.mark.parametrize('file', ['train-00000.npy', 'blocks/00000.counts.npy'])
def test_a_block_whose_files_are_not_whole_is_not_finished(job, file):
  blocks.pack_block(job, 0, 0, 0.0, Block(tuple(TEXTS)))
  path = job.directory / file
  whole = path.read_bytes()
  path.write_bytes(whole[:-1])
  assert blocks.finished(job, 0) is None
  path.unlink()
  assert blocks.finished(job, 0) is None
  blocks.pack_block(job, 0, 0, 0.0, Block(tuple(TEXTS)))
  assert path.read_bytes() == whole
  assert blocks.finished(job, 0) is not None


def test_a_record_of_another_build_is_refused(job):
  blocks.pack_block(job, 0, 0, 0.0, Block(tuple(TEXTS)))
  other = dataclasses.replace(job, build='another')
  with pytest.raises(
    errors.DataError, match=r'00000\.json: belongs to another'
  ):
    blocks.finished(other, 0)


def test_a_damaged_record_means_packing_again(job):
  blocks.pack_block(job, 0, 0, 0.0, Block(tuple(TEXTS)))
  (job.directory / 'blocks' / '00000.json').write_text('{"build": "bu')
  assert blocks.finished(job, 0) is None


def test_a_long_document_is_named_and_encoded_whole(
  job, vocabulary, monkeypatch
):
  monkeypatch.setattr(blocks, '_LONG_BYTES', 1000)
  monkeypatch.setattr(blocks, '_PART_CHARS', 100)
  long = ' '.join(TEXTS)
  record = blocks.pack_block(job, 0, 0, 0.0, Block(('short', long, 'end')))
  (warning,) = record['long_documents']
  assert warning.startswith('some.txt:11: a document of 0.1 MB begins with')
  expected = np.concatenate(vocabulary.encode_batch(['short', long, 'end']))
  assert text_ids(job, 'train-00000.npy') == expected.tolist()


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(text=st.text(' \nab', max_size=60))
def test_parts_are_the_text_cut_at_white_space(text):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(blocks, '_PART_CHARS', 7)
    parts = list(blocks._parts(text))
  assert ''.join(parts) == text
  assert max(map(len, parts)) <= 7
  for part, following in itertools.pairwise(parts):
    if not set(part[1:]).isdisjoint(' \n'):
      assert following[0] in ' \n'


def test_documents_with_nothing_to_encode_are_counted(job):
  record = blocks.pack_block(job, 0, 0, 0.0, Block(('a b', '\u200b', '', ' ')))
  train = record['splits']['train']
  assert (train['documents'], train['empty_documents']) == (1, 3)
  assert record['first_empty_document'] == 'some.txt:11'
  whole = blocks.pack_block(job, 1, 0, 0.0, Block(('a b',)))
  assert whole['first_empty_document'] is None


def test_identical_documents_fall_on_one_side(job):
  texts = tuple(f'text {i % 50}' for i in range(200))
  record = blocks.pack_block(job, 0, 0, 0.5, Block(texts))
  counts = [x['documents'] for x in record['splits'].values()]
  assert sum(counts) == 200
  assert all(count % 4 == 0 and 40 < count < 160 for count in counts)


def test_a_split_is_drawn_by_the_seed_alone():
  texts = [f'text {i}' for i in range(4000)]

  def held_out(seed):
    return [
      blocks.is_held_out(blocks.document_key(x, seed), 0.1) for x in texts
    ]

  assert held_out(1) == held_out(1)
  # Five standard deviations of a binomial count.
  assert abs(sum(held_out(1)) - 400) < 95
  both = sum(a and b for a, b in zip(held_out(1), held_out(2), strict=True))
  assert both < 75


def test_a_sampled_block_offers_train_documents_below_the_bound():
  block = Block(tuple(f'text {i}' for i in range(1000)))
  everything = blocks.sample_block(block, 0, 0.2, 2**64)
  assert everything.num_train + everything.num_eval == 1000
  assert len(everything.documents) == everything.num_train
  assert min(key for key, _ in everything.documents) >= 0.2 * 2**64
  some = blocks.sample_block(block, 0, 0.2, 2**63)
  assert some.documents == [x for x in everything.documents if x[0] < 2**63]
  assert some.num_train == everything.num_train


def test_blank_documents_are_no_part_of_a_sample():
  sampled = blocks.sample_block(Block(('a', ' \n', '', 'b')), 0, 0.0, 2**64)
  assert [text for _, text in sampled.documents] == ['a', 'b']
  assert (sampled.num_train, sampled.num_eval) == (2, 0)
