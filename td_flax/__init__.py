"""Pretrain BERT-style encoders with token dropping, in JAX and Flax."""

__version__ = '0.1.0'
