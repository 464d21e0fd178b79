import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from td_flax import chips, masking, parallel
from td_flax.config import ParallelConfig
from td_flax.devices import OneDevice
from td_flax.dropping import plan as plans
from td_flax.model import bert, lookup

V5E = OneDevice('tpu', 'TPU v5 lite')


def small(make_config):
  config = make_config(model__hidden_dim=128, model__num_layers=1).model
  return dataclasses.replace(config, dtype='bfloat16', attention='plain')


def scattered(ids, x, rows):
  zeros = jnp.zeros((rows, x.shape[-1]), jnp.float32)
  return zeros.at[ids].add(x)


@pytest.mark.parametrize(
  ('parts', 'width', 'shape'),
  [
    (1, 128, (2, 128)),  # a block of tokens
    (2, 256, (2, 50)),  # less than one
    (4, 768, (3, 100)),  # one and a part of another
  ],
)
def test_the_kernel_adds_what_a_scatter_adds(parts, width, shape):
  rows = 64
  keys = jax.random.split(jax.random.key(0))
  ids = jax.random.randint(keys[0], shape, 0, rows // 2) * 2  # odd ones: none
  ids = ids.at[0, :9].set(rows - 1).at[-1, -4:].set(0)
  x = jax.random.normal(keys[1], (*shape, width))
  found = lookup.sum_by_id(ids, x, rows=rows, parts=parts, interpret=True)
  expected = scattered(ids, x, rows)
  np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(found[0, 1:-1:2], 0)


def test_each_id_is_summed_in_the_order_of_its_tokens():
  ids = jnp.zeros((1, 260), jnp.int32)
  x = jax.random.normal(jax.random.key(0), (1, 260, 128))
  found = lookup.sum_by_id(ids, x, rows=16, parts=1, interpret=True)
  total, _ = jax.lax.scan(
    lambda sum_, row: (sum_ + row, None), x[0, 0] * 0, x[0]
  )
  np.testing.assert_array_equal(found[0, 0], total)


def test_ids_outside_the_table_count_for_nothing():
  ids = jnp.array([[-1, 3, 16, 2**31 - 1, -(2**31)]])
  found = lookup.sum_by_id(
    ids, jnp.ones((1, 5, 128)), rows=16, parts=2, interpret=True
  )
  np.testing.assert_array_equal(found[0].sum(1), 128 * (jnp.arange(16) == 3))


@pytest.mark.parametrize(
  ('kind', 'width', 'parts'),
  [
    ('TPU v4', 768, 8),
    ('TPU v4', 1024, 16),
    ('TPU v5 lite', 768, 1),
    ('TPU v5 lite', 1024, 2),
    ('TPU v5', 768, 2),
    ('TPU v5', 1024, 4),
    ('TPU v6 lite', 768, 1),
    ('TPU v3', 768, None),
    ('TPU v5 lite', 192, None),  # lanes
    ('TPU v4', 4096, None),  # too many parts
  ],
)
def test_a_part_fits_the_vector_memory_and_every_core_has_one(
  kind, width, parts
):
  assert lookup.num_parts(30592, width, chips.chip_of(kind)) == parts


def loss_of(config, ids, special, devices):
  """A loss of a model's states, and the parameters."""
  graph, params = nnx.split(bert.Bert(config, 300, nnx.Rngs(0), devices))
  segments = masking.segment(
    ids, special, attend_across=True, restart_positions=False
  )

  def loss(params):
    states = nnx.merge(graph, params).encode(
      ids, segments, plans.full(config.num_layers)
    )
    return jnp.sum(
      states.astype(jnp.float32) * jnp.cos(jnp.arange(128.0))[None, None]
    )

  return loss, params


@pytest.fixture
def interpreted(monkeypatch):
  kernel = functools.partial(lookup.sum_by_id, interpret=True)
  monkeypatch.setattr(lookup, 'sum_by_id', kernel)


@pytest.mark.usefixtures('interpreted')
def test_a_model_learns_the_same(make_config, make_rows, special):
  config = small(make_config)
  ids = jnp.asarray(make_rows(2), jnp.int32)
  found, expected = (
    jax.jit(jax.grad(loss))(params)
    for loss, params in (
      loss_of(config, ids, special, devices)
      for devices in (V5E, OneDevice('cpu'))
    )
  )
  for ours, theirs in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures('interpreted')
def test_devices_that_share_a_table_add_up_their_rows():
  engine = parallel.make(ParallelConfig('sharded', 4))
  engine.platform, engine.kind = V5E.platform, V5E.kind
  ids = jax.random.randint(jax.random.key(0), (8, 32), 0, 128)
  x = jax.random.normal(jax.random.key(1), (8, 32, 128))
  find = lookup.make(engine)

  def gradient(table, rows):
    def loss(table):
      return jnp.sum(find(table, rows[0]) * rows[1])

    return engine.sum(jax.grad(loss)(table)), rows[1].sum()

  table = engine.place(np.zeros((128, 128), np.float32))
  args = engine.split((np.asarray(ids), np.asarray(x)))
  found, _ = jax.jit(gradient)(table, args)
  assert not found.is_fully_replicated
  np.testing.assert_allclose(
    engine.fetch(found), scattered(ids, x, 128), rtol=1e-5, atol=1e-5
  )


def test_on_a_tpu_only_the_gradient_of_positions_is_a_scatter(
  make_config, make_rows, special
):
  config = small(make_config)
  ids = jnp.asarray(make_rows(2), jnp.int32)
  loss, params = loss_of(config, ids, special, V5E)
  traced = jax.jit(jax.grad(loss)).trace(params)
  text = traced.lower(lowering_platforms=('tpu',)).as_text()
  assert text.count('"stablehlo.scatter"(') == 1
  assert 'sum_by_id_1' in text
