"""Token dropping: which tokens skip which layers, and why."""
