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
# # Quickstart: BERT with token dropping, in minutes
#
# Pretrains a tiny BERT whose easy tokens skip the middle layers, on the prose
# that Python itself carries; then shows the loss, the tokens that are dropped,
# and what the model puts in the place of `[MASK]`.
#
# It runs on a CPU, GPU or TPU. Only speed differs: about four minutes on 2 CPU
# cores, less on an accelerator; losses agree but for rounding. So short a run
# learns how frequent words are and little more.

# %%
import os

STEPS = int(os.environ.get('TD_FLAX_NOTEBOOK_STEPS', '240'))
# More of the command line, for example '--config.train.batch_size=64'.
OPTIONS = os.environ.get('TD_FLAX_NOTEBOOK_OPTIONS', '')
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
# ## Pretrain
# A second call of the same command goes on where the first one was.

# %%
# !python -m td_flax.main --config=configs/quickstart.py \
#   --config.train.num_steps={STEPS} --workdir={RUNS}/quickstart {OPTIONS}
assert _exit_code == 0

# %% [markdown]
# ## The loss
# The commands have the accelerator; this notebook computes on the CPU.

# %%
import json
import pathlib

import jax
import matplotlib.pyplot as plt

jax.config.update('jax_platforms', 'cpu')

WORKDIR = f'{RUNS}/quickstart'
LINES = pathlib.Path(WORKDIR, 'metrics.jsonl').read_text().splitlines()
ROWS = [json.loads(line) for line in LINES]
figure, axes = plt.subplots(figsize=(7, 3))
for name, style in (('train/loss', '-'), ('eval/loss', 'o--')):
  there = [row for row in ROWS if name in row]
  steps = [row['step'] for row in there]
  axes.plot(steps, [row[name] for row in there], style, label=name)
axes.set(xlabel='step', ylabel='nats per predicted token')
axes.legend(frameon=False)
figure.tight_layout()

# %% [markdown]
# ## What is dropped
# Which tokens skip the middle layers: those whose loss has been small.
# `python -m td_flax.tools.token_report` tells more.

# %%
from IPython.display import HTML

from td_flax.insight import sentence

TEXT = (
  'If the function is called with a keyword argument, the value of the '
  'argument is passed to the method and a new object is returned.'
)
HTML(sentence.coloured(WORKDIR, TEXT))

# %% [markdown]
# ## Fill masks

# %%
from td_flax import pretrained
from td_flax.tasks import fill

MODEL = pretrained.find(WORKDIR, 'WORKDIR')
MASKED = 'Return the [MASK] of the list.'
(ANSWERS,) = fill.fill(MODEL, MASKED)
for piece, probability in ANSWERS:
  print(f'{probability:6.1%}  {piece}')
