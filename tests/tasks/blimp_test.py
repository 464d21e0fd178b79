import json

import numpy as np
import pytest

from td_flax import errors
from td_flax.tasks import blimp


def pair(good, bad, name='x', term='islands', field='syntax'):
  return json.dumps(
    {
      'sentence_good': good,
      'sentence_bad': bad,
      'UID': name,
      'linguistics_term': term,
      'field': field,
      'pairID': '0',
    }
  )


class ByLength:
  """Prefers what is longer."""

  def score(self, sentences):
    return np.array([len(x) for x in sentences], float)


@pytest.fixture
def folder(tmp_path):
  lines = {
    'a': [pair('long', 'no', 'a'), pair('no', 'long', 'a')],
    'b': [pair('four', 'five', 'b'), pair('yes', 'no', 'b', 'islands')],
    'c': [pair('yes', 'no', 'c', 'agreement', 'morphology')],
  }
  for name, pairs in lines.items():
    (tmp_path / f'{name}.jsonl').write_text('\n'.join(pairs) + '\n')
  return tmp_path


def test_paradigms_count_the_same_and_ties_are_wrong(folder):
  figures = blimp.evaluate(ByLength(), blimp.read(str(folder)))
  assert figures['paradigms'] == {'a': 0.5, 'b': 0.5, 'c': 1.0}
  assert figures['terms'] == {'agreement': 1.0, 'islands': 0.5}
  assert figures['fields'] == {'morphology': 1.0, 'syntax': 0.5}
  assert figures['overall'] == pytest.approx(2 / 3)
  assert figures['pairs'] == 5


def test_a_limit_takes_the_first_pairs(folder):
  paradigms = blimp.read(str(folder), limit=1)
  assert [len(x.pairs) for x in paradigms] == [1, 1, 1]
  assert paradigms[0].pairs == (('long', 'no'),)


def test_lines_end_at_line_feeds_alone_and_may_be_blank(tmp_path):
  good = 'one\u2028line\x85of text'
  line = pair(good, 'b').encode('ascii').decode('unicode_escape')
  (tmp_path / 'x.jsonl').write_text(f'{line}\n\n', encoding='utf-8-sig')
  (paradigm,) = blimp.read(str(tmp_path))
  assert paradigm.pairs == ((good, 'b'),)


@pytest.mark.parametrize(
  ('content', 'problem'),
  [
    ('', 'holds no examples'),
    ('{"sentence_good": "a"}', r"x\.jsonl:1: has no 'sentence_bad'"),
    ('[1]', r'x\.jsonl:1: must be a JSON object'),
    (pair('a', 3), r"x\.jsonl:1: 'sentence_bad' must be text, is 3"),
    (
      pair('a', 'b', term=['islands']),
      r"x\.jsonl:1: 'linguistics_term' must be text, is \['islands'\]",
    ),
    (pair('a', '\ud800'), r'x\.jsonl:1: holds half a surrogate pair'),
    ('[' * 100_000, r'x\.jsonl:1: is not JSON'),
    (pair('a', 'b') + '\n{"sen', r'x\.jsonl:2: is not JSON'),
    (pair('a', 'b') + '\n' + pair('a', 'b', 'y'), 'but holds 2'),
    (b'\xff\xfe\xff', 'is not UTF-8'),
  ],
)
def test_a_file_that_is_no_paradigm_is_one_line(tmp_path, content, problem):
  content = content if isinstance(content, bytes) else content.encode()
  (tmp_path / 'x.jsonl').write_bytes(content)
  with pytest.raises(errors.DataError, match=problem) as error:
    blimp.read(str(tmp_path))
  assert '\n' not in str(error.value)


def test_a_paradigm_in_two_files_is_one_line(folder):
  (folder / 'd.jsonl').write_text(pair('yes', 'no', 'a'))
  with pytest.raises(
    errors.DataError, match=r"d\.jsonl: has the UID 'a' of .*a\.jsonl$"
  ):
    blimp.read(str(folder))


def test_a_sentence_that_is_too_long_is_named(folder, tokenizer):
  paradigms = blimp.read(str(folder))
  blimp.check_lengths(paradigms, tokenizer, 40)
  (folder / 'b.jsonl').write_text(pair('yes', 'no ' * 40))
  with pytest.raises(
    errors.DataError, match=r"b\.jsonl: 'no no .* has \d+ tok"
  ):
    blimp.check_lengths(blimp.read(str(folder)), tokenizer, 40)


@pytest.mark.parametrize('name', ['.', 'nowhere'])
def test_a_folder_without_files_is_one_line(tmp_path, name):
  with pytest.raises(errors.ConfigError, match=r'holds no \.jsonl file'):
    blimp.read(str(tmp_path / name))
