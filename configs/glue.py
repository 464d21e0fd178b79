"""Fine-tunes on a task of GLUE.

    python -m td_flax.finetune --config=configs/glue.py:sst2 \
      --checkpoint=WORKDIR_OR_HF_DIR --config.data.task_dir=$DATA/glue \
      --workdir=runs/sst2

TASK is cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli. `data.task_dir` is
the folder of GLUE's own download; without it TFDS's `glue/TASK` is read. Three
epochs, batch 32, rate 5e-5: one of the settings that Devlin et al. 2019,
appendix A.3, try; all of them with
`--config.task.grid='optimizer.learning_rate=5e-5,3e-5,2e-5;train.batch_size=16,32;task.epochs=2,3,4'`.
"""

from td_flax.tasks import recipe


def get_config(task):
  return recipe.fine_tuning(f'glue_{task}', task)
