import pytest

from td_flax.dropping import plan as plans
from td_flax.dropping.plan import Span


def test_token_dropping_of_bert_base_is_the_published_layout():
  plan = plans.token_dropping(12, 5, 10, 256, cross_attend=True)
  assert plan == (
    Span((0, 1, 2, 3, 4)),
    Span((5, 6, 7, 8, 9, 10), 256, cross_attend=True),
    Span((11,)),
  )


def test_a_span_from_layer_0_has_no_full_layers_before_it():
  plan = plans.token_dropping(3, 0, 1, 8, cross_attend=False)
  assert plan == (Span((0, 1), 8), Span((2,)))


@pytest.mark.parametrize('first', range(4))
def test_every_layer_runs_once_and_in_order(first):
  plan = plans.token_dropping(6, first, 4, 8, cross_attend=True)
  assert [x for span in plan for x in span.layers] == list(range(6))


def test_layer_tokens_kept_counts_layers_times_tokens():
  assert plans.layer_tokens_kept(plans.full(12), 512) == 1
  plan = plans.token_dropping(12, 5, 10, 256, cross_attend=True)
  assert plans.layer_tokens_kept(plan, 512) == pytest.approx(9 / 12)
