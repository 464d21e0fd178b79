"""Fine-tunes on one's own files.

    python -m td_flax.finetune --config=configs/own_task.py:classify \
      --checkpoint=WORKDIR_OR_HF_DIR --config.task.train=train.tsv \
      --config.task.dev=dev.tsv --config.task.text=review \
      --config.task.label=stars --workdir=runs/stars

classify and regress read .tsv, .csv and .jsonl: `task.text`, `task.pair` (of a
pair) and `task.label` name columns. tag reads .conllu (`task.label=upos`, or
the number of a column) and columns of words and labels (IOB).
"""

from td_flax.tasks import recipe


def get_config(task):
  return recipe.fine_tuning(f'own_{task}', task)
