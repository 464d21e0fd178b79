"""A pytree as named arrays on the host: paths, digests, and the way back.

A path is what leads to a leaf, such as `params/layers/0/kernel`.
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
  arrays = [
    np.asarray(leaf) for leaf in jax.device_get([leaf for _, leaf in leaves])
  ]
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
    `abstract` with numpy leaves.

  Raises:
    errors.CheckpointError: names, shapes or dtypes differ; nothing is cast.
  """
  leaves, structure = jax.tree.flatten_with_path(abstract)
  wanted = {prefix + _name(path): leaf for path, leaf in leaves}
  for name in sorted(arrays.keys() | wanted.keys()):
    there = _spec(arrays[name]) if name in arrays else 'nothing'
    here = _spec(wanted[name]) if name in wanted else 'nothing'
    if here != there:
      raise errors.CheckpointError(
        f'{origin}: {name} is {there} there, {here} here'
      )
  return jax.tree.unflatten(structure, [arrays[name] for name in wanted])


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
    _update(sha, path, arrays[path])
    return sha.hexdigest()

  # hashlib lets go of the interpreter: a core per array.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return dict(zip(arrays, pool.map(digest, arrays), strict=True))


def sha256(tree: Any) -> str:
  """A digest of the whole: path, dtype, shape, bytes in path order."""
  sha = hashlib.sha256()
  for path, array in sorted(to_host(tree).items()):
    _update(sha, path, array)
  return sha.hexdigest()


def _update(sha: Any, path: str, array: np.ndarray) -> None:
  sha.update(f'{path} {array.dtype} {array.shape}\n'.encode())
  sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _name(path: tuple[Any, ...]) -> str:
  # An nnx variable is a node of the tree; its array is no level of its own.
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  return name.removesuffix('/value')


def _spec(array: Any) -> str:
  return f'{np.dtype(array.dtype).name}{list(array.shape)}'
