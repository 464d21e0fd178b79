import threading

import numpy as np
import pytest
import support

from td_flax import feed, parallel
from td_flax.config import ParallelConfig


class Counting:
  """A pipeline that remembers what it was asked for."""

  def __init__(self):
    self.asked = []
    self.second = threading.Event()

  def batch(self, step, start, stop):
    self.asked.append((step, start, stop))
    if len(self.asked) == 2:
      self.second.set()
    if step == 3:
      raise OSError('the disk is gone')
    return np.full((stop - start, 4), step, np.uint16)


def test_batches_come_in_order_on_the_devices_and_one_ahead():
  engine, pipeline = parallel.make(ParallelConfig(num_devices=2)), Counting()
  with feed.Feed(pipeline, engine, (0, 6), 1, 3) as batches:
    first = batches.batch(1)
    assert first.shape == (2, 3, 4)
    assert (np.asarray(first) == 1).all()
    assert pipeline.second.wait(support.TIMEOUT)  # before it is asked for
    assert (np.asarray(batches.batch(2)) == 2).all()
  assert pipeline.asked == [(1, 0, 6), (2, 0, 6)]  # and nothing behind the end


def test_what_the_loop_waits_for_is_measured(monkeypatch):
  class Clock:
    now, looked_at = 100.0, threading.Event()

    def monotonic(self):
      now = self.now
      self.looked_at.set()
      return now

  class Slow(Counting):
    """Takes 5 seconds from when its first batch is asked for."""

    def batch(self, step, start, stop):
      if step == 1:
        assert clock.looked_at.wait(support.TIMEOUT)
        clock.now += 5
      return super().batch(step, start, stop)

  clock = Clock()
  monkeypatch.setattr(feed, 'time', clock)
  engine, pipeline = parallel.make(ParallelConfig(num_devices=1)), Slow()
  with feed.Feed(pipeline, engine, (0, 2), 1, 3) as batches:
    batches.batch(1)
    assert batches.take_waited() == 5
    assert batches.take_waited() == 0
    assert pipeline.second.wait(support.TIMEOUT)
    batches.batch(2)
    assert batches.take_waited() == 0


def test_an_error_of_the_reader_reaches_the_loop():
  engine = parallel.make(ParallelConfig(num_devices=1))
  with (
    feed.Feed(Counting(), engine, (0, 2), 3, 9) as batches,
    pytest.raises(OSError, match='the disk is gone'),
  ):
    batches.batch(3)
