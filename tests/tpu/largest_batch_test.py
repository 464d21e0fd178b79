"""The search for the most rows that fit, on a compiler that is a line."""

import types

import pytest

from td_flax.tpu import aot, report


def compiler(monkeypatch, *, limit, fixed, per_row, devices=4):
  """A stand-in for `aot.compile_step`; returns what it was asked for."""
  asked = []

  def compile_step(config, slice_):
    parts = devices * config.train.microbatches
    rows, rest = divmod(config.train.batch_size, parts)
    assert not rest
    asked.append(rows)
    return types.SimpleNamespace(
      fits=rows <= limit, hbm_bytes=fixed + per_row * rows
    )

  monkeypatch.setattr(aot, 'compile_step', compile_step)
  return compile_step, asked


# Near the limit the compiler recomputes and so fits more than the line says.
@pytest.mark.parametrize(
  ('limit', 'most'), [(184, 184), (150, 144), (240, 232), (40, 40), (8, 8)]
)
@pytest.mark.parametrize('microbatches', [1, 2])
def test_the_most_rows_within_an_eighth(
  make_config, monkeypatch, limit, most, microbatches
):
  config = make_config(
    train__batch_size=4 * 32 * microbatches, train__microbatches=microbatches
  )
  slice_ = types.SimpleNamespace(
    devices=range(4), chip=types.SimpleNamespace(hbm_bytes=1000)
  )
  step, asked = compiler(monkeypatch, limit=limit, fixed=80, per_row=5)
  first = step(config, slice_)
  found = report._largest(config, slice_, first)
  assert found <= limit
  assert found % 8 == 0
  assert found == most or found >= limit - max(8, most // 8)
  assert len(asked) == len(set(asked)) <= 12  # each takes minutes


@pytest.mark.parametrize('limit', [8, 10, 12, 18])
def test_the_search_ends_from_any_number_of_rows(
  make_config, monkeypatch, limit
):
  config = make_config(train__batch_size=4 * 20)
  slice_ = types.SimpleNamespace(
    devices=range(4), chip=types.SimpleNamespace(hbm_bytes=1000)
  )
  step, asked = compiler(monkeypatch, limit=limit, fixed=80, per_row=60)
  assert report._largest(config, slice_, step(config, slice_)) == limit // 8 * 8
  assert len(asked) == len(set(asked))


def test_nothing_fits(make_config, monkeypatch):
  config = make_config(train__batch_size=128)
  slice_ = types.SimpleNamespace(
    devices=range(4), chip=types.SimpleNamespace(hbm_bytes=1000)
  )
  step, _ = compiler(monkeypatch, limit=0, fixed=2000, per_row=5)
  assert report._largest(config, slice_, step(config, slice_)) == 0
