"""Commands beside training: `python -m td_flax.tools.NAME`."""
