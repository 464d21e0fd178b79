import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from td_flax import masking, parallel, step
from td_flax.config import ParallelConfig
from td_flax.devices import OneDevice

pytestmark = pytest.mark.gpu

VOCAB = 2000
SMALL = {
  'data__sequence_length': 512,
  'model__max_positions': 512,
  'model__num_layers': 4,
  'model__hidden_dim': 128,
  'model__num_heads': 2,
  'model__mlp_dim': 512,
  'drop__policy': 'cumulative_loss',
  'drop__last_layer': 2,
  'train__batch_size': 16,
}


def compiled(config, special):
  engine = parallel.make(ParallelConfig(num_devices=1))
  steps = step.Steps(config, VOCAB, special, engine)
  table = steps.policy.initial_table(np.arange(VOCAB) + 1)
  state = engine.place(jax.device_get(steps.init(table)))
  return engine, state, engine.compile_train(steps.train, state, steps.batch)


def losses(config, special, make_rows, count=10):
  engine, state, train = compiled(config, special)
  found = []
  for number in range(count):
    rows = make_rows(16, 512, vocab_size=50, seed=number)  # few: soon learned
    state, metrics = train(state, engine.split(rows))
    metrics = engine.fetch(metrics)
    found.append(metrics['loss_sum'] / metrics['weight'])
  return np.array(found), engine.fetch(state)


def test_cudnn_learns_what_plain_attention_learns(
  make_config, make_rows, special
):
  half = make_config(**SMALL, model__dtype='bfloat16')
  plain = make_config(
    **SMALL, model__dtype='bfloat16', model__attention='plain'
  )
  found, _ = losses(half, special, make_rows)
  expected, _ = losses(plain, special, make_rows)
  np.testing.assert_allclose(found, expected, atol=0.02)
  assert found[-1] < found[0] - 0.5


def test_a_gpu_learns_what_a_cpu_learns(make_config, make_rows, special):
  config = make_config(**SMALL)
  with jax.default_matmul_precision('highest'):
    found, state = losses(config, special, make_rows)
    steps = step.Steps(config, VOCAB, special, OneDevice('cpu'))
    with jax.default_device(jax.devices('cpu')[0]):
      table = steps.policy.initial_table(np.arange(VOCAB) + 1)
      there = steps.init(table)
      train, expected = jax.jit(steps.train), []
      for number in range(len(found)):
        rows = make_rows(16, 512, vocab_size=50, seed=number)
        there, metrics = train(there, rows)
        expected.append(metrics['loss_sum'] / metrics['weight'])
  np.testing.assert_allclose(found, np.array(expected), atol=2e-4)
  np.testing.assert_allclose(state.importance, there.importance, atol=2e-3)


def test_masks_are_the_same_bits_as_on_a_cpu(make_rows, special):
  def masked(rows):
    segments = masking.segment(
      rows, special, attend_across=False, restart_positions=False
    )
    keys = masking.row_keys(jax.random.key(3), 7, np.arange(len(rows)))
    return masking.mask(
      rows, segments, keys, mask_rate=0.15, vocab_size=VOCAB, special=special
    )

  rows = make_rows(64, 512, vocab_size=VOCAB).astype(np.int32)
  here = jax.device_get(jax.jit(masked)(rows))
  with jax.default_device(jax.devices('cpu')[0]):
    there = jax.device_get(jax.jit(masked)(rows))
  for ours, theirs in zip(
    jax.tree.leaves(here), jax.tree.leaves(there), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_nothing_is_sorted_and_no_scores_are_held(make_config, special):
  config = make_config(**SMALL, model__dtype='bfloat16')
  text = compiled(config, special)[2].as_text()
  assert 'cudnn' in text
  assert not re.search(r'= \S+ sort\(', text)
  # [B, H, Q, M], of full rows, of half the tokens, of the predicted ones.
  assert not re.search(r'\[16,2,(512|256|76),(512|256)\]', text)


PROGRAM = """
import sys
from td_flax import train
from td_flax import config as config_lib
from configs import quickstart
raw = quickstart.get_config()
raw.data.vocab_size = 512
raw.data.tokenizer_sample_mb = 1
raw.model.dropout = 0.1
raw.model.dtype = 'bfloat16'
raw.data.sequence_length = raw.model.max_positions = 256
raw.train.num_steps = raw.eval.every = 12
raw.data.dir = sys.argv[1]
print(train.train(config_lib.load(raw), sys.argv[2]))
"""


def test_deterministic_operations_give_the_same_bits(tmp_path):
  environment = os.environ | {
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '0',
    'XLA_FLAGS': '--xla_gpu_deterministic_ops=true',
    'PYTHONPATH': os.pathsep.join(['.', *sys.path]),
  }
  digests = []
  for name in ('one', 'other'):
    subprocess.run(
      [sys.executable, '-c', PROGRAM, tmp_path / 'data', tmp_path / name],
      env=environment,
      check=True,
      timeout=300,
    )
    summary = json.loads((tmp_path / name / 'summary.json').read_text())
    digests.append(summary['params_sha256'])
  assert digests[0] == digests[1]
