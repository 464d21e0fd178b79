"""What a pretraining run drops, and why."""
