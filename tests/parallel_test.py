import types

import jax
import numpy as np
import pytest

from td_flax import errors, parallel
from td_flax.config import ParallelConfig


def make(num_devices, name='pmap'):
  return parallel.make(ParallelConfig(name, num_devices))


@pytest.mark.smoke
def test_rows_reach_the_devices_in_order():
  engine = make(4)
  rows = np.arange(24, dtype=np.uint16).reshape(8, 3)
  split = engine.split(rows)
  assert split.shape == (4, 2, 3)
  for index, shard in enumerate(
    sorted(split.addressable_shards, key=lambda shard: shard.index[0].start)
  ):
    assert shard.device == engine.devices[index]
    np.testing.assert_array_equal(
      shard.data[0], rows[2 * index : 2 * index + 2]
    )


def rows_of(*shape):
  return jax.ShapeDtypeStruct(shape, np.uint16)


def test_a_step_knows_its_rows_and_its_sum():
  engine = make(4)

  def step(state, rows):
    first = engine.first_row(rows.shape[0])
    total = engine.sum({'rows': rows.astype(int).sum(), 'first': first})
    return state + total['rows'], total

  state = engine.replicate(np.int32(0))
  compiled = engine.compile_train(step, state, rows_of(8, 3))
  rows = np.arange(24, dtype=np.uint16).reshape(8, 3)
  state, total = compiled(state, engine.split(rows))
  assert engine.fetch(total) == {'rows': 276, 'first': 0 + 2 + 4 + 6}
  assert engine.fetch(state) == 276


def test_the_state_is_consumed_and_replicated():
  engine = make(2)
  state = engine.replicate({'x': np.ones(3, np.float32)})
  compiled = engine.compile_train(
    lambda state, rows: (
      jax.tree.map(lambda x: x + 1, state),
      engine.sum(rows.sum()),
    ),
    state,
    rows_of(2, 2),
  )
  rows = engine.split(np.ones((2, 2), np.uint16))
  new, _ = compiled(state, rows)
  assert state['x'].is_deleted()
  assert len(new['x'].addressable_shards) == 2
  np.testing.assert_array_equal(engine.fetch(new)['x'], [2, 2, 2])


def test_all_devices_by_default_and_never_more_than_there_are():
  assert make(0).num_devices == 8
  with pytest.raises(
    errors.ConfigError, match=r'num_devices=9: must be at most 8'
  ):
    make(9)


@pytest.mark.parametrize('error', [RuntimeError('no GPU'), AssertionError()])
def test_a_backend_that_does_not_start_is_one_line(monkeypatch, error):
  def devices():
    raise error

  monkeypatch.setattr(parallel.jax, 'devices', devices)
  with pytest.raises(errors.ConfigError, match='JAX_PLATFORMS=cpu: jax cannot'):
    make(0)


def test_one_process_reads_all_rows():
  assert make(2).local_rows(6) == (0, 6)


def test_processes_with_different_numbers_of_devices_are_refused(monkeypatch):
  devices = [
    types.SimpleNamespace(process_index=process, id=number)
    for number, process in enumerate([0, 0, 0, 1, 1])
  ]
  monkeypatch.setattr(parallel.jax, 'devices', lambda: devices)
  with pytest.raises(
    errors.ConfigError, match='=0: process 1 has 2 devices, process 0 has 3;'
  ):
    parallel._attached(0)
  with pytest.raises(
    errors.ConfigError, match='=3: must be at most 2, the devices of process 1'
  ):
    parallel._attached(3)
  assert [device.id for device in parallel._attached(2)] == [0, 1, 3, 4]


def test_arrays_of_several_processes_are_made_whole_by_one_program(monkeypatch):
  engine = make(2, 'sharded')
  value = np.arange(24, dtype=np.float32).reshape(4, 6)
  placed = engine.place(value)
  # As if another process had a part of it.
  for name in ('is_fully_addressable', 'is_fully_replicated'):
    monkeypatch.setattr(type(placed), name, property(lambda x: x is not placed))
  for _ in range(3):
    np.testing.assert_array_equal(engine.fetch({'x': placed})['x'], value)
  assert engine._whole._cache_size() == 1
