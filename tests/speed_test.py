import pytest

from td_flax import speed as module


@pytest.fixture
def clock(monkeypatch):
  class Clock:
    now = 100.0

    def pass_by(self, seconds):
      self.now += seconds

  clock = Clock()
  monkeypatch.setattr(module.time, 'monotonic', lambda: clock.now)
  return clock


def test_tokens_are_counted_over_training_time_alone(clock):
  speed = module.Speed(tokens_per_step=50)
  with speed.compiling():
    clock.pass_by(9)
  speed.start()
  for _ in range(4):
    clock.pass_by(1)
    speed.add_step()
  with speed.paused():
    clock.pass_by(1000)  # evaluating, saving
    row = speed.row(waited=0.4)
  assert row['throughput/tokens_per_second'] == pytest.approx(4 * 50 / 4)
  assert row['throughput/data_wait_share'] == pytest.approx(0.1)
  for _ in range(2):
    clock.pass_by(2)
    speed.add_step()
  with speed.paused():
    row = speed.row(waited=0.0)
  assert row['throughput/tokens_per_second'] == pytest.approx(25)
  assert row['throughput/data_wait_share'] == 0
  total = speed.total()
  assert total['train_seconds'] == pytest.approx(8)
  assert total['tokens_per_second'] == pytest.approx(6 * 50 / 8)
  assert total['data_wait_share'] == pytest.approx(0.05)
  assert total['compile_seconds'] == pytest.approx(9)


def test_without_a_step_there_is_no_speed():
  assert module.Speed(50).total() is None
