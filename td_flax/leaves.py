"""A pytree as named arrays on the host: paths, digests, and the way back.

A path is what leads to a leaf, such as `params/layers/0/kernel`. Typed PRNG
keys are stored as their uint32 data.
"""

import concurrent.futures
import hashlib
from typing import Any

import jax
import numpy as np

from td_flax import errors


def to_host(tree: Any) -> dict[str, np.ndarray]:
  """Every array of `tree` by its path."""
  leaves = jax.tree.leaves_with_path(tree)
  names = [_name(path) for path, _ in leaves]
  if len(set(names)) != len(names):
    raise ValueError(f'leaves share a path: {sorted(names)}')
  values = [
    jax.random.key_data(leaf) if _is_key(leaf) else leaf for _, leaf in leaves
  ]
  arrays = [np.asarray(value) for value in jax.device_get(values)]
  return dict(zip(names, arrays, strict=True))


def fit(
  arrays: dict[str, np.ndarray],
  abstract: Any,
  *,
  origin: Any,
  prefix: str = '',
) -> Any:
  """`abstract` with `arrays` as leaves: the inverse of `to_host`.

  Args:
    arrays: by path.
    abstract: a pytree of arrays or `jax.ShapeDtypeStruct`s.
    origin: where the arrays come from, for the message.
    prefix: what the paths in `arrays` start with and `abstract` leaves out.

  Returns:
    `abstract` with numpy leaves, and jax arrays for typed keys.

  Raises:
    errors.CheckpointError: names, shapes or dtypes differ; nothing is cast.
  """
  leaves, structure = jax.tree.flatten_with_path(abstract)
  wanted = {prefix + _name(path): leaf for path, leaf in leaves}
  for name in sorted(arrays.keys() | wanted.keys()):
    there = _spec(arrays[name]) if name in arrays else 'nothing'
    here = _spec(_stored(wanted[name])) if name in wanted else 'nothing'
    if here != there:
      raise errors.CheckpointError(
        f'{origin}: {name} is {there} there, {here} here'
      )
  fitted = [
    jax.random.wrap_key_data(arrays[name], impl=_impl(leaf))
    if _is_key(leaf)
    else arrays[name]
    for name, leaf in wanted.items()
  ]
  return jax.tree.unflatten(structure, fitted)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
  """`{'a/b': x}` as `{'a': {'b': x}}`."""
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *parents, leaf = path.split('/')
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[leaf] = value
  return tree


def digests(arrays: dict[str, np.ndarray]) -> dict[str, str]:
  """The sha256 of every array's path, dtype, shape and bytes."""

  def digest(path: str) -> str:
    sha = hashlib.sha256()
    update(sha, path, arrays[path])
    return sha.hexdigest()

  # hashlib lets go of the interpreter: a core per array.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return dict(zip(arrays, pool.map(digest, arrays), strict=True))


def update(sha: Any, path: str, array: np.ndarray) -> None:
  """Adds an array's path, dtype, shape and bytes to a hashlib digest."""
  sha.update(f'{path} {array.dtype} {array.shape}\n'.encode())
  sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _name(path: tuple[Any, ...]) -> str:
  # An nnx variable is a node of the tree; its array is no level of its own.
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  return name.removesuffix('/value')


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf: Any) -> Any:
  return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _impl(key: Any) -> Any:
  """The implementation of a typed key that may be abstract."""
  found = []
  jax.eval_shape(lambda x: found.append(jax.random.key_impl(x)), key)
  return found[0]


def _spec(array: Any) -> str:
  return f'{np.dtype(array.dtype).name}{list(array.shape)}'
