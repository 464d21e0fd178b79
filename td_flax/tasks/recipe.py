"""How fine-tuning is done unless a config says otherwise."""

import ml_collections

from td_flax import config as config_lib

LEARNING_RATE = 5e-5


def fine_tuning(name: str, task: str) -> ml_collections.ConfigDict:
  """Three epochs, batch 32, rate 5e-5: Devlin et al. 2019, appendix A.3.

  Args:
    name: of the experiment.
    task: for `task.name`.
  """
  config = config_lib.default()
  config.name = name
  config.task.name = task
  config.data.sequence_length = 128
  config.optimizer.learning_rate = LEARNING_RATE
  config.optimizer.warmup = 0.1
  config.train.batch_size = 32
  config.eval.batch_size = 64
  # What is reported is the end of training, so nothing earlier is kept.
  config.checkpoint.keep = 1
  config.checkpoint.keep_best = False
  config.log.every = 50
  return config
