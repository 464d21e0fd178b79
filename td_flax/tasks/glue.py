"""The nine tasks of GLUE (Wang et al., ICLR 2019): layouts, labels, metrics.

Folders are in the layout of GLUE's own download, one per task; TFDS has the
same tasks as `glue/NAME`. The diagnostic set goes with MNLI.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Glue:
  """One task.

  Attributes:
    folder: of its files.
    texts: the column of the text, or of both texts of a pair.
    label: the column of the label.
    labels: as they are written in files, in the order of TFDS's numbers; empty
      for a regression.
    metrics: names of functions in `glue_score`; the first one decides.
    test: the splits to predict, and the file that a submission wants of each.
    dev: the splits that are scored; the first one decides.
    tfds_texts: as `texts`, in TFDS.
    names: the columns of train.tsv and dev.tsv, which have no line of names.
    range: of a regression.
    index: the column of test files that a submission repeats.
    has_broken_rows: GLUE's own train.tsv and dev.tsv do.
  """

  folder: str
  texts: tuple[str, ...]
  label: str
  labels: tuple[str, ...]
  metrics: tuple[str, ...]
  test: dict[str, str]
  dev: tuple[str, ...] = ('dev',)
  tfds_texts: tuple[str, ...] = ('sentence1', 'sentence2')
  names: tuple[str, ...] | None = None
  range: tuple[float, float] | None = None
  index: str = 'index'
  has_broken_rows: bool = False


DIAGNOSTIC = 'diagnostic'  # its own folder; in TFDS `glue/ax`
_PAIR = 'sentence1', 'sentence2'
_BINARY = '0', '1'
_ENTAILMENT = 'entailment', 'not_entailment'

TASKS = {
  'cola': Glue(
    'CoLA',
    ('sentence',),
    'label',
    _BINARY,
    ('matthews',),
    {'test': 'CoLA.tsv'},
    tfds_texts=('sentence',),
    names=('source', 'label', 'star', 'sentence'),
  ),
  'sst2': Glue(
    'SST-2',
    ('sentence',),
    'label',
    _BINARY,
    ('accuracy',),
    {'test': 'SST-2.tsv'},
    tfds_texts=('sentence',),
  ),
  'mrpc': Glue(
    'MRPC',
    ('#1 String', '#2 String'),
    'Quality',
    _BINARY,
    ('f1', 'accuracy'),
    {'test': 'MRPC.tsv'},
  ),
  'stsb': Glue(
    'STS-B',
    _PAIR,
    'score',
    (),
    ('pearson', 'spearman'),
    {'test': 'STS-B.tsv'},
    range=(0.0, 5.0),
  ),
  'qqp': Glue(
    'QQP',
    ('question1', 'question2'),
    'is_duplicate',
    _BINARY,
    ('f1', 'accuracy'),
    {'test': 'QQP.tsv'},
    tfds_texts=('question1', 'question2'),
    index='id',
    has_broken_rows=True,
  ),
  'mnli': Glue(
    'MNLI',
    _PAIR,
    'gold_label',
    ('entailment', 'neutral', 'contradiction'),
    ('accuracy',),
    {
      'test_matched': 'MNLI-m.tsv',
      'test_mismatched': 'MNLI-mm.tsv',
      DIAGNOSTIC: 'AX.tsv',
    },
    dev=('dev_matched', 'dev_mismatched'),
    tfds_texts=('premise', 'hypothesis'),
  ),
  'qnli': Glue(
    'QNLI',
    ('question', 'sentence'),
    'label',
    _ENTAILMENT,
    ('accuracy',),
    {'test': 'QNLI.tsv'},
    tfds_texts=('question', 'sentence'),
  ),
  'rte': Glue(
    'RTE',
    _PAIR,
    'label',
    _ENTAILMENT,
    ('accuracy',),
    {'test': 'RTE.tsv'},
  ),
  'wnli': Glue(
    'WNLI',
    _PAIR,
    'label',
    _BINARY,
    ('accuracy',),
    {'test': 'WNLI.tsv'},
  ),
}
