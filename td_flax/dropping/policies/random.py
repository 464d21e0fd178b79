"""The control of Hou et al. 2022: tokens are dropped at random."""

from td_flax.dropping.policies import base


class Policy(base.Policy):
  """A fresh random subset per row and step; specials stay pinned."""
