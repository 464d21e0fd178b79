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


def test_the_last_layer_is_split_off_whatever_the_plan():
  tail = Span((11,), 76, cross_attend=True, restore=False)
  assert plans.predicted_only(plans.full(12), 76) == (
    Span(tuple(range(11))),
    tail,
  )
  dropping = plans.token_dropping(12, 5, 10, 256, cross_attend=True)
  assert plans.predicted_only(dropping, 76) == (*dropping[:2], tail)


def test_shapes_list_queries_and_keys_layer_by_layer():
  plan = plans.token_dropping(4, 1, 2, 8, cross_attend=True)
  assert list(plans.shapes(plans.predicted_only(plan, 5), 32)) == [
    (32, 32), (8, 32), (8, 8), (5, 32),
  ]  # fmt: skip
  apart = plans.token_dropping(4, 1, 2, 8, cross_attend=False)
  assert list(plans.shapes(apart, 32))[1] == (8, 8)
