import json
import os

import numpy as np
import pytest

from td_flax import artifacts, errors


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  artifacts.write_atomically(path, b'old')

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left'):
    artifacts.write_atomically(path, b'new')
  assert path.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [path]


def test_json_is_written_whole(tmp_path):
  path = tmp_path / 'file.json'
  artifacts.write_json(path, {'b': [1, None], 'a': 0.5})
  assert path.read_text() == '{\n "b": [\n  1,\n  null\n ],\n "a": 0.5\n}\n'
  artifacts.write_json(path, {'b': 1, 'a': 2}, sort_keys=True)
  assert list(json.loads(path.read_bytes())) == ['a', 'b']
  assert list(tmp_path.iterdir()) == [path]


def test_equal_content_has_one_fingerprint():
  a = artifacts.fingerprint({'a': 1, 'b': [1.5, None]})
  assert a == artifacts.fingerprint({'b': [1.5, None], 'a': 1})
  assert a != artifacts.fingerprint({'b': [1.5, None], 'a': 2})
  assert len(a) == 64


def test_a_folder_is_writable_or_refused_and_left_as_it_was(tmp_path):
  artifacts.require_writable('--output', tmp_path / 'a' / 'b')
  assert not [*tmp_path.iterdir()]
  (tmp_path / 'file').touch()
  for folder in (tmp_path / 'file', '/proc/none/x'):
    with pytest.raises(
      errors.ConfigError, match=f"--output='{folder}': cannot"
    ):
      artifacts.require_writable('--output', folder)


def test_large_files_are_verified_with_a_bar(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(artifacts, '_BYTES_WORTH_A_BAR', 1)
  path = tmp_path / 'file'
  item = {'file': 'file'} | artifacts.write_atomically(path, b'content')
  artifacts.verify(tmp_path, [item])
  assert 'verifying: 100%' in capsys.readouterr().err
  path.write_bytes(b'CONTENT')
  with pytest.raises(errors.DataError, match='sha256 differs'):
    artifacts.verify(tmp_path, [item])


def test_an_array_becomes_a_npy_file_and_is_described(tmp_path):
  array = np.arange(6, dtype=np.uint16).reshape(2, 3)
  item = artifacts.write_atomically(tmp_path / 'a.npy', array)
  np.testing.assert_array_equal(np.load(tmp_path / 'a.npy'), array)
  artifacts.verify(tmp_path, [item | {'file': 'a.npy'}])
