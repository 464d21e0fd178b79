"""Fine-tunes on SQuAD.

    python -m td_flax.finetune --config=configs/squad.py:v1.1 \
      --checkpoint=WORKDIR_OR_HF_DIR --config.data.task_dir=$DATA/squad \
      --workdir=runs/squad

v1.1 or v2.0. `data.task_dir` holds train-v1.1.json and dev-v1.1.json (or
v2.0); without it TFDS's `squad/v1.1` is read. Windows of 384 tokens, rate 3e-5,
batch 24 and two epochs; Devlin et al. 2019 take 5e-5, 32 and three on v1.1
(section 4.2), 5e-5, 48 and two on v2.0 (4.3). Windows share 128 tokens, as in
transformers; Devlin et al.'s doc_stride=128 is the step from one to the next. A
model with fewer positions needs `--config.data.sequence_length` and a smaller
`--config.task.stride`.
"""

from td_flax.tasks import recipe


def get_config(version):
  config = recipe.fine_tuning(f'squad_{version}', f'squad_{version}')
  config.task.epochs = 2.0
  config.data.sequence_length = 384
  config.optimizer.learning_rate = 3e-5
  config.train.batch_size = 24
  return config
