import pathlib

import pytest

from td_flax import caches, errors


def test_without_a_home_the_folder_must_be_told(monkeypatch, tmp_path):
  def home():
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.setattr(pathlib.Path, 'home', home)
  monkeypatch.setenv('XDG_CACHE_HOME', 'relative')
  with pytest.raises(errors.ConfigError, match='XDG_CACHE_HOME=relative: must'):
    caches.folder('jax')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert caches.folder('jax') == tmp_path / 'td_flax/jax'
