import os

from td_flax.compare import machine


def test_cores_are_those_that_the_process_may_use(monkeypatch):
  monkeypatch.setattr(
    os, 'sched_getaffinity', lambda _: {0, 5, 7}, raising=False
  )
  assert machine.facts(['python'])['cores'] == 3
