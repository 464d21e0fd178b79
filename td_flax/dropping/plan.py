"""Which layers see how many tokens: a short static tuple of spans."""

import dataclasses
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Span:
  """Consecutive layers that share one route.

  Attributes:
    layers: 0-based layer numbers, in order.
    keep: k, the tokens per row that pass through these layers; None is all.
    cross_attend: how many of the first layers take keys and values from every
      token, as it enters the span, rather than from the kept ones.
    clusters: tokens per row that stand for the dropped ones in these layers.
    scored: what decides who is kept is the attention that tokens receive in the
      first layer, which costs its queries and keys for every token.
    restore: behind the span the kept tokens are put back among all. Without
      it the span ends the plan and its tokens are the encoder's result.
  """

  layers: tuple[int, ...]
  keep: int | None = None
  cross_attend: int = 0
  restore: bool = True
  clusters: int = 0
  scored: bool = False


Plan = tuple[Span, ...]


def full(num_layers: int) -> Plan:
  """Plain BERT: one span that keeps everything."""
  return (Span(tuple(range(num_layers))),)


def token_dropping(
  num_layers: int,
  first_layer: int,
  last_layer: int,
  keep: int,
  *,
  cross_attend: bool,
  clusters: int = 0,
  scored: bool = False,
) -> Plan:
  """Full layers, then the narrow span, then full layers again.

  Hou et al. 2022, section 3: `first_layer` is the transition layer, whose
  queries are the kept tokens; the layers up to `last_layer` see only those; a
  dropped token enters the layer behind it as it entered `first_layer`.

  Args:
    num_layers: of the model.
    first_layer: of the narrow span, from 0.
    last_layer: of the narrow span, included.
    keep: k, the tokens per row that pass through it.
    cross_attend: its first layer takes keys and values from every token.
    clusters: tokens per row that stand for the dropped ones.
    scored: attention received decides who is kept; as in `Span`.
  """
  narrow = tuple(range(first_layer, last_layer + 1))
  spans = (
    Span(tuple(range(first_layer))),
    Span(narrow, keep, int(cross_attend), clusters=clusters, scored=scored),
    Span(tuple(range(last_layer + 1, num_layers))),
  )
  return tuple(span for span in spans if span.layers)


def predicted_only(plan: Plan, num_predicted: int) -> Plan:
  """Lets the last layer compute the predicted positions only.

  A masked-LM loss reads nothing else of the last layer, so its queries and its
  MLP need no other position; keys and values stay those of all tokens. Loss
  and gradients are unchanged.

  Args:
    plan: one that ends in a span without `restore` stays as it is.
    num_predicted: P.
  """
  *spans, last = plan
  if not last.restore:
    return plan
  *layers, final = last.layers
  if layers:
    spans.append(dataclasses.replace(last, layers=tuple(layers)))
  tail = Span((final,), num_predicted, cross_attend=1, restore=False)
  return (*spans, tail)


def shapes(plan: Plan, sequence_length: int) -> Iterator[tuple[int, int]]:
  """Queries and keys of every layer, in order."""
  for span in plan:
    queries = sequence_length
    if span.keep is not None:
      queries = span.keep + span.clusters
    for i in range(len(span.layers)):
      yield queries, sequence_length if i < span.cross_attend else queries


def layer_tokens_kept(plan: Plan, sequence_length: int) -> float:
  """Share of (layer, token) pairs that are computed: 1 for plain BERT."""
  queries = [queries for queries, _ in shapes(plan, sequence_length)]
  return sum(queries) / (len(queries) * sequence_length)
