import numpy as np
import pytest

from td_flax import errors
from td_flax.data import sentence_piece
from td_flax.insight import words

SENTENCES = """\
# text = Dogs bark.
1\tDogs\tdog\tNOUN\t_\t_\t2\tnsubj\t_\t_
2\tbark\tbark\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No
3\t.\t.\tPUNCT\t_\t_\t2\tpunct\t_\t_

1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tdo\tdo\tAUX\t_\t_\t0\troot\t_\t_
2\tn't\tnot\tPART\t_\t_\t1\tadvmod\t_\t_
"""
# As in UD English EWT: the words of a contraction say nothing about spaces.
CONTRACTIONS = """\
# text = Nor can't it, he's sure.
1\tNor\tnor\tCCONJ\tCC\t_\t4\tcc\t4:cc\t_
2-3\tcan't\t_\t_\t_\t_\t_\t_\t_\t_
2\tca\tcan\tAUX\tMD\tVerbForm=Fin\t4\taux\t4:aux\t_
3\tn't\tnot\tPART\tRB\tPolarity=Neg\t4\tadvmod\t4:advmod\t_
4\tit\tit\tPRON\tPRP\t_\t0\troot\t0:root\tSpaceAfter=No
5\t,\t,\tPUNCT\t,\t_\t4\tpunct\t4:punct\t_
6-7\the's\t_\t_\t_\t_\t_\t_\t_\t_
6\the\the\tPRON\tPRP\t_\t8\tnsubj\t8:nsubj\t_
7\t's\tbe\tAUX\tVBZ\t_\t8\tcop\t8:cop\t_
8\tsure\tsure\tADJ\tJJ\t_\t4\tparataxis\t4:parataxis\tSpaceAfter=No
9\t.\t.\tPUNCT\t.\t_\t4\tpunct\t4:punct\t_

# text = (I didn't)
1\t(\t(\tPUNCT\t-LRB-\t_\t3\tpunct\t3:punct\tSpaceAfter=No
2\tI\tI\tPRON\tPRP\t_\t3\tnsubj\t3:nsubj\t_
3-4\tdidn't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
3\tdid\tdo\tAUX\tVBD\t_\t0\troot\t0:root\t_
4\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t3:advmod\t_
5\t)\t)\tPUNCT\t-RRB-\t_\t3\tpunct\t3:punct\t_

# text = du vin
1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_
2\tle\tle\tDET\t_\t_\t3\tdet\t_\t_
3\tvin\tvin\tNOUN\t_\t_\t0\troot\t_\t_
"""


class Letters:
  """A token per letter."""

  def __init__(self, special):
    self.special = special

  def encode_with_offsets(self, texts):
    (self.text,) = texts
    found = []
    for text in texts:
      places = [i for i, x in enumerate(text) if x != ' ']
      ids = np.array([ord(text[i]) for i in places], np.uint16)
      found.append((ids, np.array([(i, i + 1) for i in places], np.int32)))
    return found


def test_every_token_has_the_class_of_its_word(tmp_path, special):
  file = tmp_path / 'x.conllu'
  file.write_text(SENTENCES)
  found = words.read(str(file), Letters(special), 16)
  assert found.names == ['AUX', 'NOUN', 'PART', 'PUNCT', 'VERB']
  text = [chr(i) if i > 4 else '' for i in found.rows.ravel()]
  classes = [
    found.names[i] if i >= 0 else '' for i in found.token_classes.ravel()
  ]
  read = [(x, name) for x, name in zip(text, classes, strict=True) if name]
  assert read == [
    *((x, 'NOUN') for x in 'Dogs'),
    *((x, 'VERB') for x in 'bark'),
    ('.', 'PUNCT'),
    *((x, 'AUX') for x in 'do'),
    *((x, 'PART') for x in "n't"),
  ]
  first = [chr(i) for i in found.rows[found.begins]]
  assert first == ['D', 'b', '.', 'd', 'n']
  assert found.sentences.tolist() == [0, 0, 0, 1, 1]
  # Special tokens, and they alone, belong to no word.
  special_ids = np.isin(found.rows, special.as_tuple())
  np.testing.assert_array_equal(found.token_classes < 0, special_ids)


def test_contractions_are_written_as_one(tmp_path, special):
  file = tmp_path / 'x.conllu'
  file.write_text(CONTRACTIONS)
  letters = Letters(special)
  found = words.read(str(file), letters, 64)
  assert letters.text == "Nor can't it, he's sure. (I didn't) de le vin "
  assert len(found.classes) == 17
  assert found.sentences.tolist() == [0] * 9 + [1] * 5 + [2] * 3


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('x.txt', 'a', r"--conllu='.*x.txt': must end in .conllu"),
    ('x.conllu', '', 'holds no sentence'),
    ('x.conllu', '1\tDogs\tdog\n', 'x.conllu:1: must be 10 columns'),
    ('missing', None, 'must end in .conllu'),
  ],
)
def test_other_files_are_refused(tmp_path, special, name, content, message):
  file = tmp_path / name
  if content is not None:
    file.write_text(content)
  with pytest.raises(errors.UserError, match=message):
    words.read(str(file), Letters(special), 16)


def test_a_real_tokenizer_splits_words_within_their_class(tmp_path):
  corpus = [
    f"dogs {a} bark {b} do n't." for a in 'abcdefghij' for b in 'klmnopqrst'
  ]
  tokenizer = sentence_piece.train(
    corpus, kind='bpe', vocab_size=300, lowercase=True
  )
  file = tmp_path / 'x.conllu'
  file.write_text(SENTENCES)
  found = words.read(str(file), tokenizer, 64)
  assert set(found.token_classes.ravel()) == {-1, 0, 1, 2, 3, 4}
  pieces = [
    tokenizer.piece(int(i)) for i in found.rows[found.token_classes == 1]
  ]
  assert ''.join(pieces).replace('▁', '') == 'dogs'
