"""Options of a pretraining that takes seconds, for tests of whole commands."""

_VALUES = {
  'data.sequence_length': 32,
  'model.num_layers': 3,
  'model.hidden_dim': 16,
  'model.num_heads': 2,
  'model.mlp_dim': 32,
  'drop.first_layer': 1,
  'drop.last_layer': 1,
  'train.batch_size': 16,
}


def options(values):
  """`configs/quickstart.py`, made small, and more values by their keys."""
  return [
    '--config=configs/quickstart.py',
    *(f'--config.{k}={v}' for k, v in (_VALUES | values).items()),
  ]
