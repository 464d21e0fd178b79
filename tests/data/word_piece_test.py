import json
import pydoc_data.topics
import string

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from td_flax import errors
from td_flax.data import tokenizer, word_piece

tokenizers = pytest.importorskip('tokenizers', reason='needs the extra `hf`')
pytestmark = pytest.mark.hf

TEXTS = sorted(pydoc_data.topics.topics.values())[:30]
SPECIAL = ['[PAD]', '[unused0]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
LETTERS = [*string.ascii_letters, *string.digits, *string.punctuation, 'é']
PIECES = [
  *SPECIAL,
  *LETTERS,
  *(f'##{x}' for x in LETTERS),
  'the',
  'class',
  '##ing',
  '日',
]


def make(lowercase=True, **options):
  return word_piece.WordPiece(PIECES, 'x', lowercase=lowercase, **options)


@pytest.fixture(scope='module')
def folded():
  return make()


@pytest.fixture(scope='module')
def reference(folded):
  """transformers' BERT tokenizer with the same vocabulary."""
  transformers = pytest.importorskip(
    'transformers', reason='needs the extra `reference`'
  )
  vocab = {piece: i for i, piece in enumerate(PIECES)}
  return transformers.BertTokenizer(vocab=vocab, do_lower_case=True)


def test_special_ids_are_found_wherever_they_are(folded):
  assert folded.special.as_tuple() == (0, 2, 3, 4, 5)
  assert folded.vocab_size == len(PIECES)
  assert folded.piece(3) == '[CLS]'


def test_special_pieces_in_text_are_text(folded):
  (ids,) = folded.encode_batch(['a [CLS] [MASK][UNK]'])
  assert ids.dtype == np.uint16
  assert not set(ids.tolist()) & set(folded.special.as_tuple())


def test_ids_go_back_to_text(folded):
  (ids,) = folded.encode_batch(['The Classing'])
  assert [folded.piece(i) for i in ids] == ['the', 'class', '##ing']
  with_special = [3, *ids.tolist(), 4, 0]
  assert folded.decode(with_special) == 'the classing'


def test_case_and_accents_are_kept_unless_they_are_folded(folded):
  assert [folded.piece(i) for i in folded.encode_batch(['É'])[0]] == ['e']
  cased = make(lowercase=False)
  assert [cased.piece(i) for i in cased.encode_batch(['Aé'])[0]] == ['A', '##é']
  accents = make(strip_accents=False)
  assert [accents.piece(i) for i in accents.encode_batch(['É'])[0]] == ['é']


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
  texts=st.lists(
    st.text()
    | st.text('ab. \n\t\r\x0b\x1c\x85\xa0\u0301\u1100\u200b\u3000\ufeff日éß')
    | st.sampled_from(TEXTS),
    max_size=4,
  )
)
def test_ids_are_those_of_transformers(folded, reference, texts):
  expected = [
    reference(
      text, add_special_tokens=False, split_special_tokens=True
    ).input_ids
    for text in texts
  ]
  assert [x.tolist() for x in folded.encode_batch(texts)] == expected


def test_the_fingerprint_is_that_of_pieces_and_rules_alone(tmp_path, folded):
  path = folded.save(tmp_path / 'a')
  assert path.name == 'tokenizer.json'
  vocab = tmp_path / 'vocab.txt'
  vocab.write_text('\n'.join(PIECES))
  saved = json.loads(path.read_bytes())
  saved['truncation'] = {
    'max_length': 8,
    'strategy': 'LongestFirst',
    'stride': 0,
    'direction': 'Right',
  }
  saved['added_tokens'] = [
    {
      'id': 5,
      'content': '[MASK]',
      'special': True,
      'single_word': False,
      'lstrip': False,
      'rstrip': False,
      'normalized': False,
    }
  ]
  other = tmp_path / 'tokenizer.json'
  other.write_text(json.dumps(saved))
  loaded = [
    tokenizer.load(path),
    tokenizer.load(path.parent),
    tokenizer.load(vocab, lowercase=True),
    tokenizer.load(other),
  ]
  assert {x.fingerprint for x in loaded} == {folded.fingerprint}
  text = 'The [MASK] classing ' * 9
  for x in loaded:
    np.testing.assert_array_equal(
      x.encode_batch([text])[0], folded.encode_batch([text])[0]
    )
  assert tokenizer.load(vocab, lowercase=False).fingerprint not in {
    folded.fingerprint
  }
  (tmp_path / 'tokenizer_config.json').write_text('{"do_lower_case": true}')
  beside = tokenizer.load(vocab, lowercase=False)
  assert beside.fingerprint == folded.fingerprint


def beside(folder, **settings):
  """A bare vocabulary with a tokenizer_config.json."""
  (folder / 'vocab.txt').write_text('\n'.join(PIECES))
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  return folder


@pytest.mark.parametrize(
  ('settings', 'options'),
  [
    ({}, {}),
    ({'strip_accents': None, 'tokenizer_class': 'BertTokenizer'}, {}),
    ({'strip_accents': False}, {'strip_accents': False}),
    ({'do_lower_case': False}, {'lowercase': False}),
    ({'tokenize_chinese_chars': False}, {'chinese_words': False}),
  ],
)
def test_rules_beside_a_vocabulary_are_followed(tmp_path, settings, options):
  loaded = tokenizer.load(beside(tmp_path, **settings))
  assert loaded.fingerprint == make(**options).fingerprint


@pytest.mark.parametrize(
  ('settings', 'problem'),
  [
    (
      {'tokenizer_class': 'BertJapaneseTokenizer'},
      "tokenizer_class='BertJapaneseTokenizer': must be one of BertTokenizer, "
      'BertTokenizerFast, PreTrainedTokenizerFast',
    ),
    ({'strip_accents': 'no'}, "strip_accents='no': must be true or false"),
  ],
)
def test_rules_that_are_not_berts_are_one_line(tmp_path, settings, problem):
  with pytest.raises(errors.DataError) as caught:
    tokenizer.load(beside(tmp_path, **settings))
  file = tmp_path / 'tokenizer_config.json'
  assert str(caught.value) == f'{file}: {problem}'


def test_damaged_rules_beside_a_vocabulary_are_one_line(tmp_path):
  (beside(tmp_path) / 'tokenizer_config.json').write_text('{"do_low')
  with pytest.raises(errors.DataError, match=r'config\.json: cannot be read'):
    tokenizer.load(tmp_path)


def changed(path, change):
  saved = json.loads(path.read_bytes())
  change(saved)
  path.write_text(json.dumps(saved))


@pytest.mark.parametrize(
  ('change', 'problem'),
  [
    (lambda x: x['model'].update(type='BPE'), 'must be WordPiece'),
    (lambda x: x.update(normalizer=None), 'WordPiece, None and'),
    (lambda x: x['model']['vocab'].pop('[SEP]'), 'ids are not 0, 1, 2'),
    (lambda x: x.pop('model'), 'cannot be read'),
    (
      lambda x: x.update(added_tokens=[{'content': '<new>', 'id': 999}]),
      "'<new>' was added behind",
    ),
  ],
)
def test_a_tokenizer_of_another_kind_is_one_line(
  folded, tmp_path, change, problem
):
  path = folded.save(tmp_path)
  changed(path, change)
  with pytest.raises(errors.DataError, match=problem) as caught:
    tokenizer.load(path)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('content', 'problem'),
  [
    (b'', r'\[PAD\] is missing'),
    (b'[PAD]\n[UNK]\n[CLS]\n[SEP]\n', r'\[MASK\] is missing'),
    (b'[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n', "'a' occurs twice"),
    (b'\xff\xfe', 'is not UTF-8'),
  ],
)
def test_a_damaged_vocabulary_is_one_line(tmp_path, content, problem):
  path = tmp_path / 'vocab.txt'
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match=problem) as caught:
    tokenizer.load(path)
  assert str(caught.value).startswith(f"data.tokenizer='{path}'")


@pytest.mark.parametrize(
  ('options', 'settings', 'said'),
  [
    ({}, {'do_lower_case': False}, 'do_lower_case is false'),
    ({}, {'tokenizer_class': 'BertTokenizer'}, None),
    (
      {'lowercase': False},
      {'tokenizer_class': 'BertTokenizerFast'},
      'do_lower_case is true, if only by default, but tokenizer.json has false',
    ),
    ({'lowercase': False}, {'do_lower_case': False}, None),
    (
      {'lowercase': False},
      {'tokenizer_class': 'BertTokenizer', 'do_lower_case': False},
      None,
    ),
    ({'strip_accents': False}, {'strip_accents': True}, 'strip_accents is tru'),
    (
      {'strip_accents': False},
      {'tokenizer_class': 'BertTokenizer', 'strip_accents': None},
      'strip_accents is true, if only by default',
    ),
    (
      {'chinese_words': False},
      {'tokenize_chinese_chars': True},
      'tokenize_chi',
    ),
    # What follows tokenizer.json there; the first is what is exported.
    (
      {'lowercase': False},
      {'tokenizer_class': 'PreTrainedTokenizerFast', 'do_lower_case': True},
      None,
    ),
    ({'lowercase': False}, {'tokenizer_class': 'TokenizersBackend'}, None),
    ({'lowercase': False}, {}, None),
  ],
)
def test_rules_that_transformers_would_not_follow_are_refused(
  tmp_path, options, settings, said
):
  pieces = [*SPECIAL, 'a']
  made = word_piece.WordPiece(pieces, 'x', **({'lowercase': True} | options))
  made.save(tmp_path)
  config = tmp_path / 'tokenizer_config.json'
  config.write_text(json.dumps(settings))
  if not said:
    assert tokenizer.load(tmp_path).fingerprint == made.fingerprint
    return
  with pytest.raises(errors.DataError, match=said) as error:
    tokenizer.load(tmp_path)
  assert str(error.value).startswith(f'{config}: ')
  assert '\n' not in str(error.value)


def test_a_truncated_json_is_one_line(folded, tmp_path):
  path = folded.save(tmp_path)
  path.write_bytes(folded.model[:-9])
  with pytest.raises(errors.DataError, match='cannot be read as one'):
    tokenizer.load(path)


def test_an_empty_folder_is_no_tokenizer(tmp_path):
  with pytest.raises(errors.ConfigError, match=r'vocab\.txt'):
    tokenizer.load(tmp_path)


def test_rows_are_packed_with_it_and_remember_it(tmp_path, folded):
  from td_flax import config
  from td_flax.data import dataset, prepare

  (tmp_path / 'a.txt').write_text('\n\n'.join(TEXTS))
  path = folded.save(tmp_path / 'words')
  data = config.DataConfig(
    files=f'{tmp_path}/a.txt',
    eval_fraction=0.3,
    tokenizer=str(path),
    sequence_length=64,
  )
  packed = prepare.prepare(data, tmp_path / 'rows', num_workers=2)
  assert packed.tokenizer.fingerprint == folded.fingerprint
  assert (packed.train[np.arange(3)][:, 0] == folded.special.cls).all()
  assert prepare.is_complete(data, packed.directory)
  (tmp_path / 'rows' / 'tokenizer' / 'tokenizer.json').write_bytes(b'{}')
  with pytest.raises(errors.DataError, match='put the one that'):
    dataset.load(packed.directory)


def test_offsets_are_those_of_the_pieces():
  pieces = [*SPECIAL, 'na', '##ive', 'hello', ',', '?']
  tokenizer = word_piece.WordPiece(pieces, 'x', lowercase=True)
  text = ' Hello,  naïve\t?'
  ((ids, offsets),) = tokenizer.encode_with_offsets([text])
  np.testing.assert_array_equal(ids, tokenizer.encode_batch([text])[0])
  shown = [text[a:b] for a, b in offsets]
  assert shown == ['Hello', ',', 'na', 'ïve', '?']
