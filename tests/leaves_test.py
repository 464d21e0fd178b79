import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from td_flax import errors, leaves

NAMES = st.text('abc', min_size=1, max_size=3)
TREES = st.recursive(
  st.integers(0, 9).map(lambda n: np.arange(n, dtype=np.int32)),
  lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3),
  max_leaves=6,
).filter(lambda tree: isinstance(tree, dict))


@settings(max_examples=25)
@given(tree=TREES)
def test_a_tree_comes_back_from_its_arrays(tree):
  arrays = leaves.to_host(tree)
  for again in (
    leaves.nested(arrays),
    leaves.fit(arrays, jax.eval_shape(lambda: tree), origin='here'),
  ):
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, again, tree)


class Model(nnx.Module):
  def __init__(self, rngs):
    self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs)])


def make_params(seed=0, dtype=jnp.float32):
  params = nnx.state(Model(nnx.Rngs(seed)), nnx.Param)
  return jax.tree.map(lambda x: x.astype(dtype), params)


def test_paths_lead_through_every_kind_of_node():
  tree = {'params': make_params(), 'pair': (1.0, jnp.ones(2))}
  assert {
    path: array.shape for path, array in leaves.to_host(tree).items()
  } == {
    'pair/0': (),
    'pair/1': (2,),
    'params/layers/0/bias': (3,),
    'params/layers/0/kernel': (2, 3),
  }


def test_leaves_that_share_a_path_are_a_bug():
  with pytest.raises(ValueError, match='share a path'):
    leaves.to_host({'a': {'b': np.ones(1)}, 'a/b': np.ones(1)})


def test_a_part_is_fitted_by_its_prefix():
  tree = {'params': {'w': np.ones(2)}, 'step': np.int32(3)}
  arrays = leaves.to_host(tree)
  del arrays['step']
  part = leaves.fit(arrays, tree['params'], origin='9', prefix='params/')
  np.testing.assert_array_equal(part['w'], tree['params']['w'])
  with pytest.raises(errors.CheckpointError) as error:
    leaves.fit(arrays, {'w': np.ones(3)}, origin='9', prefix='params/')
  assert str(error.value) == (
    '9: params/w is float64[2] there, float64[3] here'
  )


def test_a_digest_sees_path_dtype_shape_and_bytes():
  arrays = {
    'a': np.arange(6, dtype=np.int32),
    'b': np.arange(6, dtype=np.int32),
    'c': np.arange(6, dtype=np.uint32),
    'd': np.arange(6, dtype=np.int32).reshape(2, 3),
    'e': np.arange(6, dtype=np.int32)[::-1],
  }
  digests = leaves.digests(arrays)
  assert len(set(digests.values())) == len(arrays)
  again = {path: array.copy() for path, array in arrays.items()}
  assert leaves.digests(again) == digests


def test_the_digest_of_parameters_sees_everything():
  params = make_params()
  digest = leaves.sha256(params)
  host = jax.tree.map(np.asarray, params)
  assert leaves.sha256(host) == digest
  assert leaves.sha256(make_params(seed=1)) != digest
  assert leaves.sha256(make_params(dtype=jnp.bfloat16)) != digest
  one = {'a': np.arange(6)}
  others = [
    {'b': np.arange(6)},
    {'a': np.arange(6).reshape(2, 3)},
    {'a': np.arange(6).astype(np.uint64)},
    {'a': np.arange(6)[::-1]},
  ]
  seen = {leaves.sha256(tree) for tree in (one, *others)}
  assert len(seen) == 5


def test_the_digest_of_parameters_does_not_depend_on_the_container():
  flat = {'layers': {'0': np.ones(2), '1': np.zeros(3)}}
  listed = {'layers': [np.ones(2), np.zeros(3)]}
  digests = map(leaves.sha256, (flat, listed))
  assert len(set(digests)) == 1
