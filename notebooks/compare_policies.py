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
# # Which tokens to drop?
#
# Trains the same small BERT in seven ways: nothing dropped (`plain`), easy
# tokens dropped as `published`, the same from one layer earlier on with half of
# the tokens kept (`early_half`) or a third (`early_third`), half of them kept
# at `random`, and BERTs of fewer layers that cost as much as a half (`shallow`)
# or a third (`shallow_third`); for equal steps and for equal time.
#
# It runs on a CPU, GPU or TPU. Time is measured where it runs, so equal time
# means other numbers of steps there, and the verdicts may differ: dropping is
# worth most where matrix products take most of the time. Several GPUs each take
# runs of their own. 300 steps and 2 seeds, under an hour on 2 CPU cores, show
# how it works and are far too few for an answer; the report says so. An answer
# takes 800 steps and 5 seeds on text like Wikipedia's
# (`configs/compare/mini.py`).

# %%
import os

STEPS = int(os.environ.get('TD_FLAX_NOTEBOOK_STEPS', '300'))
SEEDS = int(os.environ.get('TD_FLAX_NOTEBOOK_SEEDS', '2'))
# Or a glob of your .txt or .jsonl files, as an absolute path.
FILES = os.environ.get('TD_FLAX_NOTEBOOK_FILES', 'embedded')
# More of the command line, for example '--config.base.drop.keep=0.25'.
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
# ## Train all of them
# `random` and `shallow` are added to every comparison, as controls. After an
# interruption the same command goes on.

# %%
EVERY = max(1, STEPS // 10)
# !python -m td_flax.tools.compare --config=configs/compare/mini.py:verdict \
#   --config.protocols=equal_steps,equal_time --config.seeds={SEEDS} \
#   --config.base.data.files='{FILES}' --config.base.train.num_steps={STEPS} \
#   --config.base.eval.every={EVERY} --workdir={RUNS}/policies {OPTIONS}
assert _exit_code == 0

# %% [markdown]
# ## What follows

# %%
import pathlib

from IPython.display import Image, Markdown, display

FOLDER = pathlib.Path(RUNS, 'policies')
Markdown((FOLDER / 'report.md').read_text())

# %% [markdown]
# ## At equal steps, at equal time, and what nothing beats in both

# %%
for name in ('loss_steps', 'loss_time', 'pareto'):
  display(Image(FOLDER / f'{name}.png', width=700))
