"""What the TPU compiler makes of a train step, without a TPU."""
