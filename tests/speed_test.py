import jax
import jax.numpy as jnp
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


def make_speed(peak_flops=None):
  return module.Speed(peak_flops=peak_flops)


def test_tokens_are_counted_over_training_time_alone(clock):
  speed = make_speed()
  with speed.compiling(1):
    clock.pass_by(9)
  speed.start()
  for _ in range(4):
    clock.pass_by(1)
    speed.add_step(50, 1000)
  with speed.paused():
    clock.pass_by(1000)  # evaluating, saving
    row = speed.row(waited=0.4)
  assert row['throughput/tokens_per_second'] == pytest.approx(4 * 50 / 4)
  assert row['throughput/data_wait_share'] == pytest.approx(0.1)
  for _ in range(2):
    clock.pass_by(2)
    speed.add_step(50, 1000)
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
  assert make_speed().total() is None


@pytest.mark.parametrize('peak', [None, 4000.0])
def test_flops_are_shares_of_a_peak_only_where_one_is_known(clock, peak):
  speed = make_speed(peak)
  speed.start()
  for seconds in (1, 3):
    clock.pass_by(seconds)
    speed.add_step(50, 1000)
  with speed.paused():
    row = speed.row(waited=0.0)
  total = speed.total()
  assert row['throughput/model_flops_per_second'] == pytest.approx(500)
  assert total['model_flops_per_second'] == pytest.approx(500)
  assert row.get('throughput/mfu') == (peak and pytest.approx(0.125))
  assert total.get('mfu') == (peak and pytest.approx(0.125))


def test_steps_may_differ_in_their_flops(clock):
  speed = make_speed()
  speed.start()
  for flops in (1000, 3000):
    clock.pass_by(2)
    speed.add_step(50, flops)
  with speed.paused():
    assert speed.row(waited=0.0)['throughput/model_flops_per_second'] == 1000


def test_compiling_is_told_in_the_next_row_and_in_the_total(clock):
  def compile_something():
    constant = len(told)  # another program each time
    jax.jit(lambda x: x + constant).lower(jnp.ones(3)).compile()

  def next_row():
    clock.pass_by(1)
    speed.add_step(50, 1000)
    with speed.paused():
      return set(speed.row(waited=0.0)) & set(names)

  names = 'throughput/compile_seconds', 'throughput/eval_compile_seconds'
  told, speed = [], make_speed()
  with speed.compiling(1):
    compile_something()
    clock.pass_by(7)
  speed.start()
  told.append(next_row())
  with speed.paused(), speed.evaluating():
    compile_something()
  told.append(next_row())
  with speed.paused(), speed.evaluating():
    pass  # compiled already
  told.append(next_row())
  assert told == [{names[0]}, {names[1]}, set()]
  total = speed.total()
  assert total['compile_seconds'] == pytest.approx(7)
  assert total['eval_compile_seconds'] > 0


@pytest.mark.parametrize('found', [0, 1, 2])
def test_train_steps_are_called_cached_where_all_of_them_are(clock, found):
  speed = make_speed()
  with speed.compiling(2):
    for _ in range(found):
      jax.monitoring.record_event('/jax/compilation_cache/cache_hits')
  speed.start()
  clock.pass_by(1)
  speed.add_step(50, 1000)
  with speed.paused():
    assert speed.total()['compile_cached'] == (found == 2)
