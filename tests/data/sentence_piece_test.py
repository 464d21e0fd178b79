import hashlib
import io
import pathlib
import pydoc_data.topics
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import sentencepiece
from hypothesis import strategies as st

from td_flax import errors
from td_flax.data import sentence_piece, tokenizer, vocabulary

TEXTS = sorted(pydoc_data.topics.topics.values())[:30]


def train(kind='bpe', vocab_size=600, lowercase=True, texts=TEXTS):
  return sentence_piece.train(
    texts, kind=kind, vocab_size=vocab_size, lowercase=lowercase
  )


@pytest.fixture(scope='module', params=['bpe', 'unigram'])
def trained(request):
  return train(request.param)


@pytest.fixture(scope='module')
def bpe():
  return train('bpe')


def reference(trained):
  return sentencepiece.SentencePieceProcessor(model_proto=trained.model)


def sentencepiece_model(**changes):
  """A model that SentencePiece itself would write, without our pieces."""
  model = io.BytesIO()
  options = {'vocab_size': 400, 'model_type': 'bpe', 'minloglevel': 4}
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS), model_writer=model, **(options | changes)
  )
  return model.getvalue()


SPECIAL = {
  'pad_id': 0,
  'unk_id': 1,
  'bos_id': 2,
  'eos_id': 3,
  'pad_piece': '[PAD]',
  'unk_piece': '[UNK]',
  'bos_piece': '[CLS]',
  'eos_piece': '[SEP]',
}


def test_special_ids_are_those_of_bert(trained):
  assert trained.special.as_tuple() == (0, 1, 2, 3, 4)
  pieces = [trained.piece(i) for i in range(5)]
  assert pieces == ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  assert trained.vocab_size == 600


def test_special_pieces_in_text_are_text(trained):
  text = 'a [CLS] b [SEP] [MASK][PAD] [UNK]'
  (ids,) = trained.encode_batch([text])
  assert ids.dtype == np.uint16
  assert ids.min() > 4
  assert trained.decode(ids) == text.lower()


def test_characters_never_seen_survive_as_bytes(trained):
  (ids,) = trained.encode_batch(['snow ☃ 日本 😀'])
  assert trained.special.unk not in ids
  assert trained.decode(ids) == 'snow ☃ 日本 😀'


def test_case_is_kept_unless_it_is_folded(trained):
  upper, lower = trained.encode_batch(['CLASS É', 'class é'])
  np.testing.assert_array_equal(upper, lower)
  cased = train(lowercase=False)
  assert cased.decode(cased.encode_batch(['Class FOO'])[0]) == 'Class FOO'


def test_white_space_alone_has_no_ids(trained):
  assert [x.size for x in trained.encode_batch(['', ' \n\t '])] == [0, 0]
  assert trained.encode_batch([]) == []


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
  texts=st.lists(
    st.text()
    | st.text('ab. \n\t\r\x0b\x1c\x85\xa0\u0301\u2581\u200b\u3000\ufeff')
    | st.sampled_from(TEXTS),
    max_size=4,
  )
)
def test_ids_are_those_of_sentencepiece(trained, texts):
  expected = reference(trained).encode(texts)
  assert [x.tolist() for x in trained.encode_batch(texts)] == expected


def test_ids_do_not_depend_on_what_was_encoded_before(bpe, monkeypatch):
  monkeypatch.setattr(vocabulary, '_CACHED_WORDS', 50)
  fresh = sentence_piece.SentencePiece(bpe.model, 'fresh')
  for _ in range(2):
    for text in [*TEXTS[:6], 'x' * 500]:
      expected = reference(bpe).encode(text)
      assert fresh.encode_batch([text])[0].tolist() == expected


def test_a_bpe_model_whose_pieces_reach_across_words_keeps_them():
  model = sentencepiece_model(
    **SPECIAL, control_symbols=['[MASK]'], split_by_whitespace=False
  )
  wide = sentence_piece.SentencePiece(model, 'wide')
  assert any('▁' in wide.piece(i)[1:] for i in range(wide.vocab_size))
  expected = reference(wide).encode(TEXTS[:3])
  assert [x.tolist() for x in wide.encode_batch(TEXTS[:3])] == expected


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_training_gives_the_same_bytes_in_every_process(kind):
  code = (
    'import sys, pydoc_data.topics\n'
    'from td_flax.data import sentence_piece\n'
    'texts = sorted(pydoc_data.topics.topics.values())[:30]\n'
    f't = sentence_piece.train(texts, kind={kind!r}, vocab_size=600,'
    ' lowercase=True)\n'
    'print(t.fingerprint)'
  )
  runs = [
    subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    for _ in range(2)
  ]
  assert [run.stderr for run in runs] == ['', ''], 'SentencePiece is silent'
  fingerprints = {run.stdout.strip() for run in runs}
  assert fingerprints == {train(kind).fingerprint}


def test_long_lines_are_cut_rather_than_dropped():
  line = ' '.join(f'zebra{i}' for i in range(2000))
  with_spaces = train(texts=[*TEXTS, line])
  assert 'zebra' in ''.join(with_spaces.piece(i) for i in range(600))
  without = train(texts=[*TEXTS, line.replace(' ', '')])
  assert 'zebra' in ''.join(without.piece(i) for i in range(600))


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
def test_the_largest_possible_vocabulary_is_named_and_possible(kind):
  texts = ['the quick brown fox', 'jumps over the lazy dog']
  with pytest.raises(errors.ConfigError) as caught:
    train(kind, 5000, texts=texts)
  message = str(caught.value)
  assert message.startswith('data.vocab_size=5000: too large for this text')
  largest = int(message.split()[-1])
  assert train(kind, largest, texts=texts).vocab_size == largest


def test_a_vocabulary_without_room_for_the_characters_names_the_smallest():
  texts = [chr(x) for x in range(0x4E00, 0x4F00)]
  with pytest.raises(errors.ConfigError, match=r'smallest possible is \d+'):
    train(vocab_size=300, texts=texts)


@pytest.mark.parametrize('texts', [[], ['', '\n \n'], ['\u200b']])
def test_no_text_to_train_on(texts):
  with pytest.raises(errors.DataError, match=r'data\.files: no text'):
    train(texts=texts)


def test_ctrl_c_among_the_texts_is_ctrl_c():
  def interrupted():
    yield from TEXTS[:2]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    train(texts=interrupted())


def test_a_saved_model_is_the_same_model(bpe, tmp_path):
  path = bpe.save(tmp_path / 'tokenizer')
  assert path.name == 'tokenizer.model'
  assert [x.name for x in path.parent.iterdir()] == ['tokenizer.model']
  loaded = tokenizer.load(path)
  assert loaded.fingerprint == bpe.fingerprint
  assert loaded.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
  ('content', 'kind', 'problem'),
  [
    (None, errors.ConfigError, 'No such file'),
    (b'', errors.DataError, 'cannot be read'),
    (b'garbage', errors.DataError, 'cannot be read'),
  ],
)
def test_an_unreadable_model_is_one_line(tmp_path, content, kind, problem):
  path = tmp_path / 'some.model'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(kind, match=problem) as caught:
    tokenizer.load(path)
  assert str(caught.value).startswith(f"data.tokenizer='{path}': must be")
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['spiece.model', 'sentencepiece.bpe.model'])
def test_names_of_transformers_are_found_in_a_folder(bpe, tmp_path, name):
  (tmp_path / name).write_bytes(bpe.model)
  assert tokenizer.load(tmp_path).fingerprint == bpe.fingerprint
  (tmp_path / name).write_bytes(sentencepiece_model())
  with pytest.raises(errors.DataError, match=r'\[PAD\] is missing'):
    tokenizer.load(tmp_path)


def test_a_truncated_model_is_refused(bpe, tmp_path):
  path = pathlib.Path(tmp_path, 'short.model')
  path.write_bytes(bpe.model[:-7])
  with pytest.raises(errors.DataError, match='cannot be read'):
    tokenizer.load(path)


def test_a_model_without_the_special_pieces_is_refused():
  with pytest.raises(errors.DataError, match=r'\[PAD\] is missing'):
    sentence_piece.SentencePiece(sentencepiece_model(), 'data.tokenizer')
  with pytest.raises(errors.DataError, match=r'\[MASK\] is missing'):
    sentence_piece.SentencePiece(
      sentencepiece_model(**SPECIAL), 'data.tokenizer'
    )


def test_a_special_piece_that_text_can_contain_is_refused():
  model = sentencepiece_model(**SPECIAL, user_defined_symbols=['[MASK]'])
  with pytest.raises(errors.DataError, match=r'\[MASK\] must be a control'):
    sentence_piece.SentencePiece(model, 'data.tokenizer')


def test_special_ids_of_another_order_are_found():
  ids = {'pad_id': 3, 'unk_id': 0, 'bos_id': 1, 'eos_id': 2}
  model = sentencepiece_model(**(SPECIAL | ids), control_symbols=['[MASK]'])
  special = sentence_piece.SentencePiece(model, 'data.tokenizer').special
  assert special.as_tuple() == (3, 0, 1, 2, 4)


def test_more_pieces_than_16_bits_can_name_are_refused():
  symbols = [f'<s{i}>' for i in range(66_000)]
  model = sentencepiece_model(
    **SPECIAL, control_symbols=['[MASK]', *symbols], vocab_size=66_300
  )
  with pytest.raises(errors.DataError, match=r'at most 65,536 .* 66,300'):
    sentence_piece.SentencePiece(model, 'data.tokenizer')


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
@hypothesis.given(text=st.text(max_size=40))
def test_offsets_follow_the_text_and_ids_are_the_same(
  offset_models, kind, text
):
  tokenizer = offset_models[kind]
  ((ids, offsets),) = tokenizer.encode_with_offsets([text])
  np.testing.assert_array_equal(ids, tokenizer.encode_batch([text])[0])
  assert offsets.shape == (len(ids), 2)
  assert (offsets[:, 0] <= offsets[:, 1]).all()
  assert (np.diff(offsets, axis=0) >= 0).all()
  assert not len(ids) or offsets[-1, 1] <= len(text)


@pytest.fixture(scope='module')
def offset_models():
  texts = sorted(pydoc_data.topics.topics.values())[:30]
  return {
    kind: sentence_piece.train(texts, kind=kind, vocab_size=600, lowercase=True)
    for kind in ('bpe', 'unigram')
  }


def test_offsets_are_characters_of_what_is_seen(offset_models):
  text = '  Object,\tclass of a String. '
  ((_, offsets),) = offset_models['bpe'].encode_with_offsets([text])
  words = ''.join(text[a:b] for a, b in offsets)
  assert words == ''.join(text.split())
  # A letter that no piece has is as many bytes, of which one is the letter.
  text = 'you 你'
  ((ids, offsets),) = offset_models['bpe'].encode_with_offsets([text])
  assert len(ids) > 3
  assert offsets[-1].tolist() == [4, 5]
  assert not any(text[a].isspace() for a, b in offsets if a < b)
