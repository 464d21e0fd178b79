import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from td_flax.devices import OneDevice
from td_flax.model import attention

pytestmark = pytest.mark.gpu


def arguments(queries, keys):
  """Of rows of several documents and some padding, and weights of a loss."""
  q, k, v, weights = (
    jax.random.normal(jax.random.key(i), (4, n, 12, 64), jnp.bfloat16)
    for i, n in enumerate((queries, keys, keys, queries))
  )
  lengths = jnp.array([[37], [100], [250], [600]])
  segments = (jnp.arange(keys)[None] // lengths + 1) % 4
  return (q / 8, k, v, segments[:, :queries], segments), weights


def gradients(attend, args, weights):
  def loss(q, k, v):
    out = attend(q, k, v, *args[3:])
    return jnp.sum((out * weights).astype(jnp.float32)), out

  grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*args[:3])
  return out, *grads


@pytest.mark.parametrize(
  ('queries', 'keys'), [(512, 512), (76, 512), (256, 256), (256, 512), (2, 64)]
)
def test_cudnn_equals_the_plain_one_gradients_included(queries, keys):
  args, weights = arguments(queries, keys)
  wide = jax.tree.map(
    lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, args
  )
  with jax.default_matmul_precision('highest'):
    exact = gradients(attention.plain, wide, weights.astype(jnp.float32))
  found = gradients(attention.cudnn, args, weights)
  rounded = gradients(attention.plain, args, weights)
  for ours, plains, theirs in zip(found, rounded, exact, strict=True):
    assert ours.dtype == jnp.bfloat16
    norm = jnp.linalg.norm(theirs)
    error = jnp.linalg.norm(ours.astype(jnp.float32) - theirs) / norm
    plain_error = jnp.linalg.norm(plains.astype(jnp.float32) - theirs) / norm
    # As exact as bfloat16 lets the plain one be.
    assert error < max(1.2 * plain_error, 5e-3)


def test_no_document_sees_another_through_cudnn():
  (q, k, v, segments, _), _ = arguments(512, 512)
  out = attention.cudnn(q, k, v, segments, segments)
  other = jnp.where((segments == 2)[..., None, None], 1e3, v).astype(v.dtype)
  changed = attention.cudnn(q, k, other, segments, segments)
  same = np.asarray(segments != 2)
  np.testing.assert_array_equal(
    np.asarray(out, np.float32)[same], np.asarray(changed, np.float32)[same]
  )


def test_auto_takes_cudnn_where_it_can(make_config):
  model = make_config(
    model__dtype='bfloat16', model__hidden_dim=128, model__num_heads=2
  ).model
  choose = functools.partial(attention.choose, model, OneDevice())
  assert choose(512, 512)[0] == 'cudnn'
  assert choose(76, 512)[0] == 'cudnn'
  assert choose(128, 128)[0] == 'plain'
