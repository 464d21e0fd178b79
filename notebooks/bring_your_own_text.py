# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bring your own text
#
# Pretrains a small BERT with token dropping on your files, or goes on from a
# BERT that you name, and exports the result for transformers.
#
# It runs on a CPU, GPU or TPU. What differs is speed, and so what is worth
# trying: 2,000 steps of the small model take about 20 minutes on 2 CPU cores;
# a BERT-base wants an accelerator. Commands run one after the other: only one
# process may have a TPU.

# %%
import os

STEPS = int(os.environ.get('TD_FLAX_NOTEBOOK_STEPS', '2000'))
# Of the second part, which goes on from a BERT.
MORE_STEPS = int(os.environ.get('TD_FLAX_NOTEBOOK_STEPS', '500'))
# A glob of .txt files (a blank line ends a document) or .jsonl files (one
# document a line, in the field `text`), each also .gz, .xz, .bz2 or .zst; as an
# absolute path, for the notebook moves into the clone.
# Empty: what you upload below, or else the prose that Python carries.
FILES = os.environ.get('TD_FLAX_NOTEBOOK_FILES', '')
# A folder of transformers or a name on the Hub, such as
# 'google/bert_uncased_L-4_H-256_A-4'. Empty: the model of the first part.
BERT = ''
# More of the command line, for both parts and for the first.
OPTIONS = os.environ.get('TD_FLAX_NOTEBOOK_OPTIONS', '')
SIZES = os.environ.get('TD_FLAX_NOTEBOOK_SIZES', '')
RUNS = os.environ.get('TD_FLAX_NOTEBOOK_RUNS', 'runs')
REPOSITORY = 'THIS_REPOSITORY'  # its URL, away from a clone of it

# %% [markdown]
# ## Install
# What is not there yet: a clone of td_flax, which has the configs, and its
# packages, with JAX for the accelerator; one that is new enough stays as it is.

# %%
import glob
import importlib.util
import shutil

# Here, or above as in Jupyter, or what an earlier session on Colab left.
FOLDERS = '.', '..', 'td_flax'
CLONES = [x for x in FOLDERS if os.path.exists(f'{x}/configs/quickstart.py')]
if not CLONES:
  # !git clone -q {REPOSITORY} td_flax
  assert _exit_code == 0
  CLONES = ['td_flax']
NEEDED = 'td_flax', 'matplotlib', 'safetensors', 'tokenizers'
# A clone that is not installed may look like a package, but one of no origin.
FOUND = [importlib.util.find_spec(x) for x in NEEDED]
if not all(getattr(x, 'origin', None) for x in FOUND):
  has_tpu = glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*')
  JAX = 'jax[cuda12]' if shutil.which('nvidia-smi') else 'jax'
  JAX = 'jax[tpu]' if has_tpu else JAX
  # !pip install -q '{JAX}' './{CLONES[0]}[hf,plot]'
  assert _exit_code == 0
# %cd {CLONES[0]}

# %% [markdown]
# ## Your files

# %%
if not FILES:
  try:
    from google.colab import files
  except ImportError:  # not on Colab
    FILES = 'embedded'
  else:
    FILES = ','.join(files.upload()) or 'embedded'
print(FILES)

# %% [markdown]
# ## Pretrain
# Trains a tokenizer, packs the text and pretrains. The same command goes on
# after an interruption.

# %%
# !python -m td_flax.main --config=configs/bert_mini_text.py \
#   --config.data.files='{FILES}' --config.train.num_steps={STEPS} \
#   --workdir={RUNS}/mine {OPTIONS} {SIZES}
assert _exit_code == 0

# %% [markdown]
# ## Export to transformers

# %%
# !python -m td_flax.tools.export --step=best \
#   --workdir={RUNS}/mine --output={RUNS}/mine_exported
assert _exit_code == 0

# %% [markdown]
# ## Or go on from a BERT
# Its tokenizer and its architecture are kept; tokens are dropped in the middle
# layers.

# %%
if not BERT:
  BERT = f'{RUNS}/mine_exported'
elif not os.path.isdir(BERT):
  from huggingface_hub import snapshot_download

  BERT = snapshot_download(BERT)
# !python -m td_flax.main --config=configs/continue_pretraining.py:{BERT} \
#   --config.data.files='{FILES}' --config.train.num_steps={MORE_STEPS} \
#   --config.eval.every=100 --config.checkpoint.every=100 \
#   --config.train.batch_size=32 --workdir={RUNS}/continued {OPTIONS}
assert _exit_code == 0
# !python -m td_flax.tools.export --step=best \
#   --workdir={RUNS}/continued --output={RUNS}/continued_exported
assert _exit_code == 0

# %% [markdown]
# ## Use it
# Needs transformers and PyTorch, which Colab has.

# %%
EXPORTED = f'{RUNS}/continued_exported'
print(sorted(os.listdir(EXPORTED)))
try:
  from transformers import pipeline
except ImportError:
  print('pip install transformers torch')
else:
  fill = pipeline('fill-mask', model=EXPORTED, device='cpu')
  for answer in fill(f'This is a {fill.tokenizer.mask_token} of text.'):
    print(f'{answer["score"]:6.1%}  {answer["token_str"]}')
