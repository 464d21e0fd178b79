"""From text to rows of token ids; no module here imports jax."""
