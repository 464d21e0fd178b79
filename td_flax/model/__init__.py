"""The encoder: an ordinary BERT whose layers may see fewer tokens."""
