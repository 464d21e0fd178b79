import hypothesis
from hypothesis import strategies as st

from td_flax.data import blocks, sample


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
  lengths=st.lists(st.integers(1, 30), max_size=30),
  limit=st.integers(1, 200),
  seed=st.integers(0, 99),
)
def test_a_sample_is_what_has_the_smallest_hashes(lengths, limit, seed):
  texts = [f'{i:02d}' * length for i, length in enumerate(lengths)]
  texts += texts[:3]  # identical documents share a hash
  keyed = [(blocks.document_key(x, seed), x) for x in texts]
  samples = []
  for order in (keyed, keyed[::-1]):
    drawn = sample.Sample(limit)
    for key, text in order:
      drawn.add(key, text)
    samples.append(drawn.texts())
  assert samples[0] == samples[1]
  chosen = samples[0]
  assert chosen == [text for _, text in sorted(keyed)][: len(chosen)]
  assert sum(map(len, chosen)) <= limit
  if len(chosen) < len(keyed):  # the next ones, of one hash, do not fit
    rest = sorted(keyed)[len(chosen) :]
    following = [text for key, text in rest if key == rest[0][0]]
    assert sum(map(len, chosen + following)) > limit
