"""Several ways of training one model, compared on equal terms."""
