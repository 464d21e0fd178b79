"""From text to rows of token ids; no module here but `masking` imports jax."""
