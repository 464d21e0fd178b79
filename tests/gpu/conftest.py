import jax
import pytest


@pytest.fixture(autouse=True)
def gpu():
  """A GPU, and programs as they are compiled outside the tests."""
  if jax.default_backend() != 'gpu':
    pytest.skip('needs an NVIDIA GPU and JAX_PLATFORMS=cuda,cpu')
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)
