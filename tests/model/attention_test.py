import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel,
)

from td_flax import errors
from td_flax.config import ModelConfig
from td_flax.devices import OneDevice
from td_flax.model import attention as module
from td_flax.model import dropout, row_attention


def inputs(queries=5, keys=7):
  q, k, v = (
    jax.random.normal(jax.random.key(i), (2, n, 3, 4))
    for i, n in enumerate((queries, keys, keys))
  )
  return q, k, v


@pytest.mark.smoke
def test_it_equals_the_formula_row_by_row():
  q, k, v = (np.asarray(x, np.float64) for x in inputs())
  q_segments = np.array([[1, 1, 2, 2, 0]] * 2)
  k_segments = np.array([[1, 1, 1, 2, 2, 2, 0]] * 2)
  out = module.plain(
    *inputs(), jnp.asarray(q_segments), jnp.asarray(k_segments)
  )
  for b in range(2):
    for n in range(5):
      for h in range(3):
        seen = k_segments[b] == q_segments[b, n]
        scores = k[b, seen, h] @ q[b, n, h]
        weights = np.exp(scores - scores.max())
        expected = weights @ v[b, seen, h] / weights.sum()
        np.testing.assert_allclose(out[b, n, h], expected, atol=1e-5)


def test_scores_are_summed_in_float32_whatever_the_type():
  q, k, v = (x.astype(jnp.bfloat16) for x in inputs())
  segments = jnp.ones((2, 5), int), jnp.ones((2, 7), int)
  out = module.plain(q, k, v, *segments)
  assert out.dtype == jnp.bfloat16
  exact = module.plain(*(x.astype(jnp.float32) for x in (q, k, v)), *segments)
  np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=2e-2)


def lengths(queries, keys, dtype='float32', heads=2, width=64):
  """Arguments of two documents and some padding, and weights of a loss."""
  q, k, v, weights = (
    jax.random.normal(jax.random.key(i), (2, n, heads, width), dtype)
    for i, n in enumerate((queries, keys, keys, queries))
  )
  segments = jnp.minimum(jnp.arange(keys) // 50, 3) % 3  # 0, 1, 2, 0
  segments = jnp.tile(segments, (2, 1))
  return (q, k, v, segments[:, :queries], segments), weights


def gradients(attend, args, weights):
  def loss(q, k, v):
    out = attend(q, k, v, *args[3:])
    return jnp.sum((out * weights).astype(jnp.float32)), out

  (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*args[:3])
  return out, *grads


@pytest.mark.parametrize('queries', [128, 76])
def test_splash_attention_equals_the_plain_one_gradients_included(
  queries, monkeypatch
):
  # No TPU here: the same kernels, interpreted.
  monkeypatch.setattr(
    splash_attention_kernel,
    'make_splash_mha_single_device',
    functools.partial(
      splash_attention_kernel.make_splash_mha_single_device, interpret=True
    ),
  )
  args, weights = lengths(queries, 256)
  expected = gradients(module.plain, args, weights)
  found = gradients(module.splash, args, weights)
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize('rate', [0.0, 0.3])
@pytest.mark.parametrize(
  ('queries', 'keys', 'heads', 'width', 'dtype', 'tolerance'),
  [
    (256, 256, 2, 64, 'float32', 2e-5),
    (76, 256, 4, 32, 'float32', 2e-5),  # padded; two pairs in the lanes
    (128, 128, 3, 128, 'float32', 2e-5),  # half a pair, an odd number of them
    (128, 256, 4, 64, 'bfloat16', 0.03),
  ],
)
def test_row_attention_equals_the_plain_one_and_drops_the_same(
  queries, keys, heads, width, dtype, tolerance, rate
):
  args, weights = lengths(queries, keys, dtype, heads, width)
  args = (args[0] * width**-0.5, *args[1:])
  draw = {'seeds': dropout.seeds(jax.random.split(jax.random.key(9), 2))}
  draw |= {'dropout_rate': rate}
  expected = gradients(functools.partial(module.plain, **draw), args, weights)
  found = gradients(
    functools.partial(row_attention.attend, **draw, interpret=True),
    args,
    weights,
  )
  for ours, theirs in zip(found, expected, strict=True):
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(
      ours.astype(jnp.float32),
      theirs.astype(jnp.float32),
      atol=tolerance,
      rtol=tolerance,
    )


def test_row_attention_without_seeds_drops_nothing():
  args, _ = lengths(128, 128)
  np.testing.assert_allclose(
    row_attention.attend(*args, dropout_rate=0.5, interpret=True),
    module.plain(*args),
    atol=2e-5,
  )


@pytest.mark.parametrize(
  ('platform', 'queries', 'keys', 'changes', 'expected', 'why'),
  [
    ('cpu', 512, 512, {}, 'plain', 'no kernel for cpu'),
    ('tpu', 512, 512, {}, 'rows', 'on tpu'),
    ('tpu', 76, 512, {}, 'rows', 'on tpu'),
    ('tpu', 512, 512, {'attention_dropout': 0.1}, 'rows', 'on tpu'),
    ('tpu', 512, 512, {'num_heads': 8}, 'splash', 'on tpu'),  # of width 96
    ('tpu', 1024, 1024, {}, 'splash', 'on tpu'),
    ('tpu', 1024, 1024, {'attention_dropout': 0.1}, 'plain', 'has no dropout'),
    ('tpu', 128, 128, {}, 'plain', 'rows of 128 keys are short'),
    ('tpu', 76, 320, {}, 'plain', '320 keys are no multiple of 128'),
    ('tpu', 512, 512, {'attention': 'plain'}, 'plain', 'model.attention=plain'),
    ('tpu', 128, 128, {'attention': 'splash'}, 'splash', 'on tpu'),
    ('gpu', 512, 512, {}, 'cudnn', 'on gpu'),
    ('gpu', 76, 512, {}, 'cudnn', 'on gpu'),
    ('gpu', 77, 512, {}, 'plain', 'wants even numbers'),
    ('gpu', 512, 512, {'dtype': 'float32'}, 'plain', 'cudnn wants bfloat16'),
    ('gpu', 512, 512, {'hidden_dim': 312}, 'plain', 'heads of width 26'),
    ('gpu', 512, 512, {'num_heads': 4}, 'plain', 'heads of width 192'),
  ],
)
def test_the_choice_follows_platform_and_length(
  platform, queries, keys, changes, expected, why
):
  config = {'dtype': 'bfloat16', 'attention_dropout': 0.0} | changes
  name, reason = module.choose(
    ModelConfig(**config), OneDevice(platform), queries, keys
  )
  assert name == expected
  assert why in reason


@pytest.mark.parametrize(
  ('platform', 'wanted', 'changes', 'why'),
  [
    ('cpu', 'splash', {}, 'splash does not run on cpu'),
    ('tpu', 'cudnn', {}, 'cudnn does not run on tpu'),
    ('tpu', 'splash', {'attention_dropout': 0.1}, 'has no dropout'),
    ('gpu', 'rows', {}, 'rows does not run on gpu'),
    ('tpu', 'rows', {'num_heads': 8}, '8 heads of width 96: rows wants them'),
  ],
)
def test_a_kernel_that_cannot_be_used_is_refused(
  platform, wanted, changes, why
):
  config = {'attention_dropout': 0.0, 'attention': wanted} | changes
  with pytest.raises(errors.ConfigError, match=why) as raised:
    module.choose(ModelConfig(**config), OneDevice(platform), 512, 512)
  assert str(raised.value).startswith(f'model.attention={wanted!r}: ')


def test_a_generation_that_cannot_compile_the_kernel_does_without():
  config = ModelConfig(attention_dropout=0.0)
  name, reason = module.choose(config, OneDevice('tpu', 'TPU v3'), 512, 512)
  assert name == 'plain'
  assert 'rows does not compile for TPU v3' in reason
  assert 'splash does not compile for TPU v3' in reason
