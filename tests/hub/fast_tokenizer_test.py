import io
import unicodedata

import hypothesis
import pytest
import sentencepiece
from hub_models import TEXTS
from hypothesis import strategies as st

from td_flax import errors
from td_flax.data import sentence_piece, word_piece
from td_flax.hub import fast_tokenizer

pytest.importorskip('tokenizers', reason='needs the extra `hf`')
pytestmark = pytest.mark.hf

LINES = [line for text in TEXTS for line in text.split('\n')]


def words():
  letters = [*'abcdefghijklmnopqrstuvwxyz.,()\'"-']
  pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *letters]
  pieces += [f'##{x}' for x in letters]
  return word_piece.WordPiece(pieces, 'x', lowercase=True)


@pytest.fixture(params=['bpe', 'words'])
def exact(request, bpe):
  return {'bpe': bpe, 'words': words()}[request.param]


def test_ids_are_the_same(exact):
  fast = fast_tokenizer.make(exact)
  assert fast_tokenizer.differing(exact, fast, LINES) == []


def test_unigram_differs_on_few_lines(unigram):
  # Sums of scores decide, in float32 here and in float64 there: where pieces
  # can be put in another order, as in a line under a title, rounding does.
  lines = [line for line in LINES if any(map(str.isalpha, line))]
  fast = fast_tokenizer.make(unigram)
  differing = fast_tokenizer.differing(unigram, fast, lines)
  assert len(differing) <= 1e-3 * len(lines)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
  st.lists(
    st.text()
    | st.text('ab .\n\t\r\x0b\x1c\x85\xa0\u2581\u200b\u3000\ufeffИÉßﬁ')
    | st.text('aИx\u0301\u0327').map(lambda x: unicodedata.normalize('NFC', x)),
    max_size=4,
  )
)
def test_ids_are_the_same_whatever_the_text(bpe, texts):
  texts = [unicodedata.normalize('NFC', text) for text in texts]
  fast = fast_tokenizer.make(bpe)
  assert fast_tokenizer.differing(bpe, fast, texts) == []


def test_a_difference_is_found(bpe, unigram):
  fast = fast_tokenizer.make(unigram)
  (line, ours, theirs) = fast_tokenizer.differing(bpe, fast, LINES)[0]
  assert line in LINES
  assert ours != theirs


def test_texts_lie_between_special_ids(exact):
  fast = fast_tokenizer.make(exact)
  special = exact.special
  (one,) = exact.encode_batch(['a class'])
  (two,) = exact.encode_batch(['it is'])
  encoded = fast.encode('a class', 'it is')
  first = [special.cls, *one, special.sep]
  assert encoded.ids == [*first, *two, special.sep]
  assert encoded.type_ids == [0] * len(first) + [1] * (len(two) + 1)


def test_a_mask_in_a_text_is_the_mask_and_words_go_on_behind_it(bpe):
  fast = fast_tokenizer.make(bpe)
  (ids,) = bpe.encode_batch(['the function returns'])
  mask = bpe.special.mask
  encoded = fast.encode('the [MASK] returns', add_special_tokens=False)
  pieces = [fast.id_to_token(i) for i in encoded.ids]
  at = encoded.ids.index(mask)
  assert pieces[at + 1].startswith('▁')
  assert encoded.ids[0] == ids[0]
  joined = fast.encode('[MASK].', add_special_tokens=False)
  assert [fast.id_to_token(i) for i in joined.ids] == ['[MASK]', '.']


def test_ids_go_back_to_the_same_text(exact):
  fast = fast_tokenizer.make(exact)
  (ids,) = exact.encode_batch(['the class is (x)'])
  assert fast.decode(ids.tolist()) == exact.decode(ids)


@pytest.mark.parametrize(
  ('options', 'problem'),
  [
    ({'add_dummy_prefix': False}, 'add a space before a text'),
    ({'remove_extra_whitespaces': False}, 'runs of spaces as one'),
    ({'treat_whitespace_as_suffix': True}, 'in front of a word'),
    ({'user_defined_symbols': ['<x>']}, 'no user-defined pieces'),
    ({'model_type': 'char'}, 'a BPE or unigram model'),
  ],
)
def test_rules_without_a_counterpart_are_refused(options, problem):
  model = io.BytesIO()
  defaults = {
    'vocab_size': 400,
    'model_type': 'bpe',
    'hard_vocab_limit': False,
    'minloglevel': 4,
    'pad_id': 0,
    'unk_id': 1,
    'bos_id': 2,
    'eos_id': 3,
    'pad_piece': '[PAD]',
    'unk_piece': '[UNK]',
    'bos_piece': '[CLS]',
    'eos_piece': '[SEP]',
    'control_symbols': ['[MASK]'],
  }
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS), model_writer=model, **(defaults | options)
  )
  tokenizer = sentence_piece.SentencePiece(model.getvalue(), 'x')
  with pytest.raises(errors.DataError, match=problem):
    fast_tokenizer.make(tokenizer)
