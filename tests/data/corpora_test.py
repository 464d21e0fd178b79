import pytest

from td_flax import errors
from td_flax.data import corpora


@pytest.fixture(autouse=True)
def texts(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('a.txt', 'b.txt', 'k=v.txt', 'n=2.txt', 'c.jsonl'):
    (tmp_path / name).write_text('{"text": "x"}')


def parse(specs):
  return corpora.parse(specs, text_field='text', tfds_dir='')


def test_sources_come_in_order_with_their_weights():
  sources = parse('a.txt=2, embedded ,b.txt=0.5')
  assert [(x.spec, x.weight) for x in sources] == [
    ('a.txt', 2.0),
    ('embedded', None),
    ('b.txt', 0.5),
  ]


@pytest.mark.parametrize(
  ('entry', 'spec', 'weight'),
  [
    ('k=v.txt', 'k=v.txt', None),
    ('k=v.txt=3', 'k=v.txt', 3.0),
    ('n=2.txt', 'n=2.txt', None),
    ('?=v.txt=1e-3', '?=v.txt', 1e-3),
  ],
)
def test_a_weight_is_the_number_behind_the_last_sign(entry, spec, weight):
  (source,) = parse(entry)
  assert (source.spec, source.weight) == (spec, weight)


@pytest.mark.parametrize('weight', ['0', '-1', 'nan', 'inf', '-inf', '1e308'])
@pytest.mark.parametrize('spec', ['a.txt', 'embedded', 'tfds:lm1b'])
def test_a_weight_is_above_zero_and_sums_stay_finite(spec, weight):
  message = f'data.files: {spec}={weight}: the weight must be a number above 0'
  with pytest.raises(errors.ConfigError, match=message):
    parse(f'b.txt,{spec}={weight}')


@pytest.mark.parametrize('entry', ['a.txt=much', 'embedded=', 'tfds:lm1b=x'])
def test_a_weight_is_a_number(entry):
  with pytest.raises(errors.ConfigError, match=f'{entry}: .*number above 0'):
    parse(entry)


@pytest.mark.parametrize('specs', ['', 'a.txt,', ',a.txt', 'a.txt, ,b.txt'])
def test_an_empty_entry_is_refused(specs):
  with pytest.raises(errors.ConfigError, match='an entry is empty'):
    parse(specs)


@pytest.mark.parametrize(
  'specs',
  ['a.txt,*.txt', 'a.txt=2,./a.txt', 'embedded,embedded', 'a.txt,l.txt'],
)
def test_nothing_is_read_twice(tmp_path, specs):
  (tmp_path / 'l.txt').symlink_to(tmp_path / 'a.txt')
  with pytest.raises(errors.ConfigError, match=r'is read twice, by .* and .*'):
    parse(specs)


def test_messages_name_the_key():
  with pytest.raises(errors.ConfigError, match=r'^data\.eval_files: no file'):
    corpora.parse(
      'x.txt', text_field='text', tfds_dir='', key='data.eval_files'
    )
