import dataclasses

import pytest

from td_flax import chips
from td_flax.tpu import aot, estimate, hlo, kernels, pods

CHIP = chips.chip_of('TPU v5 lite')
SLICE = aot.Topology('v5e:2x4', CHIP, tuple(range(8)), 100e9)

PROGRAM = """HloModule m

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%look (ids: s32[64], table: f32[1000,128]) -> f32[64,128] {
  %ids = s32[64]{0} parameter(0)
  %table = f32[1000,128]{1,0} parameter(1)
  ROOT %g = f32[64,128]{1,0} gather(%table, %ids), slice_sizes={1,128}
}

ENTRY %main (a: f32[1024,1024], ids.1: s32[64]) -> f32[1024,1024] {
  %a = f32[1024,1024]{1,0} parameter(0)
  %ids.1 = s32[64]{0} parameter(1)
  %table.1 = f32[1000,128]{1,0} parameter(2)
  %tanh = f32[1024,1024]{1,0} tanh(%a), metadata={op_name="jvp()/tanh"},
backend_config={"estimated_cycles":"1500000"}
  %dot = f32[1024,1024]{1,0} convolution(%tanh, %a), dim_labels=bf_io->bf,
metadata={op_name="jvp()/dot"}, backend_config={"estimated_cycles":"3000000"}
  %early = (f32[1024,1024]{1,0:S(1)}, f32[1024,1024]{1,0}, u32[]) copy-start(%a)
  %there = f32[1024,1024]{1,0:S(1)} copy-done(%early)
  %copy = f32[1024,1024]{1,0} copy(%dot)
  %found = f32[64,128]{1,0} fusion(%ids.1, %table.1), kind=kCustom, calls=%look
  %step = f32[1024,1024]{1,0} add(%copy, %a), metadata={op_name="jit(f)/add"},
backend_config={"estimated_cycles":"750000"}
  ROOT %all = f32[1024,1024]{1,0} all-reduce(%step), channel_id=1,
replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
}
"""
SIZE = 4 * 1024 * 1024


@pytest.fixture
def found():
  return estimate.estimate(hlo.Program(PROGRAM), SLICE)


def test_cycles_over_the_clock_by_kind(found):
  assert found.by_kind['elementwise'] == pytest.approx(1e-3)
  assert found.by_kind['matmul'] == pytest.approx(2e-3)
  assert found.by_kind['optimizer'] == pytest.approx(0.5e-3)


def test_what_has_no_cycles_gets_a_roofline(found):
  seconds = 2 * SIZE / CHIP.hbm_bandwidth
  assert found.by_kind['copies'] == pytest.approx(seconds)
  rows = 2 * 4 * 64 * 128 + 4 * 64  # read, written, and their numbers
  assert found.by_kind['embedding'] == pytest.approx(rows / CHIP.hbm_bandwidth)


def test_an_early_copy_takes_bandwidth_but_no_time(found):
  without = PROGRAM.replace('copy-start(%a)', 'copy-start(%nothing)').replace(
    '%there = f32[1024,1024]{1,0:S(1)} copy-done(%early)', ''
  )
  without = '\n'.join(
    line for line in without.splitlines() if '%early' not in line
  )
  other = estimate.estimate(hlo.Program(without), SLICE)
  assert other.seconds == found.seconds
  assert found.hbm_traffic - other.hbm_traffic == SIZE


def test_a_collective_sends_around_the_ring(found):
  assert found.sent == 2 * SIZE * 7 // 8
  assert found.by_kind['collectives'] == pytest.approx(found.sent / 100e9)


def test_kinds_add_up_to_the_step(found):
  assert found.seconds == pytest.approx(sum(found.by_kind.values()))
  estimated = 3.5e-3
  assert found.compiler_share == pytest.approx(estimated / found.seconds)


def test_hbm_is_a_floor():
  text = PROGRAM.replace('"estimated_cycles"', '"estimated_nothing"')
  text = text.replace(
    'f32[1024,1024]{1,0} copy(%dot)', 'f32[1024,1024]{1,0} bitcast(%dot)'
  )
  found = estimate.estimate(hlo.Program(text), SLICE)
  slow = dataclasses.replace(
    SLICE, chip=dataclasses.replace(CHIP, hbm_bandwidth=1e6)
  )
  floor = estimate.estimate(hlo.Program(text), slow)
  work = floor.seconds - floor.exposed_seconds  # which HBM does not hide
  assert work == pytest.approx(floor.hbm_traffic / 1e6)
  assert floor.seconds > found.seconds
  rows = pods.weak_scaling(floor, slow)
  assert rows[0]['step_ms'] == pytest.approx(1e3 * floor.seconds)


def test_slow_operations_are_counted_and_named(found):
  assert found.ops == {
    'sort': 0,
    'scatter': 0,
    'gather': 1,
    'while': 0,
    'dynamic_shape': 0,
  }


@pytest.mark.parametrize(
  ('name', 'opcodes', 'flops', 'kind'),
  [
    ('jit(f)/jvp(routing)/dot', ('convolution',), 1e9, 'routing'),
    ('jvp(row_attention_fwd_64)/pallas_call', ('custom-call',), 0, 'attention'),
    ('jvp()/sum_by_id_1/pallas_call', ('custom-call',), 0, 'embedding'),
    ('jit(f)/jvp()/bhqe,bhme->bhqm/dot', ('convolution',), 1e9, 'attention'),
    ('jit(f)/jvp()/dot', ('convolution',), 1e9, 'matmul'),
    ('jit(f)/jvp()/xor', ('xor',) * 20, 0, 'random'),
    ('jit(f)/jvp()/mul', ('multiply', 'xor'), 0, 'elementwise'),
    ('jit(f)/mul', ('multiply',), 0, 'optimizer'),
    ('', ('copy',), 0, 'copies'),
    ('', ('add',), 0, 'other'),
  ],
)
def test_the_kind_of_an_operation(name, opcodes, flops, kind):
  inside = [
    hlo.Instruction('i', opcode, (), (), f'op_name="{name}"', None, False)
    for opcode in opcodes
  ]
  assert estimate.kind(inside[0], inside, flops) == kind


def kernel_cost(name, queries, keys, chip=CHIP):
  kernel = hlo.Instruction(
    name,
    'custom-call',
    (),
    (),
    'custom_call_target="tpu_custom_call"',
    None,
    False,
  )
  operands = [hlo.Shape('s8', (1, 1, 1))] + [
    hlo.Shape('bf16', (4, 12, length, 64)) for length in (queries, keys, keys)
  ]
  return kernels.cost(chip, kernel, operands)


def test_splash_attention_costs_its_schedule():
  forward = kernel_cost('splash_mha_fwd_segmented.1', 512, 512)
  assert forward.flops == 2 * 2 * 4 * 12 * 512 * 512 * 64
  assert forward.seconds == pytest.approx(4 * 12 * 2026 / 1.5e9)
  backward = kernel_cost('splash_mha_dkv_segmented.1', 512, 512)
  assert backward.flops == 5 * 2 * 4 * 12 * 512 * 512 * 64
  assert backward.seconds > forward.seconds


def test_fewer_queries_cost_less_but_not_in_proportion():
  whole, few = (
    kernel_cost('splash_mha_fwd.1', queries, 512).seconds
    for queries in (512, 128)
  )
  assert whole / 4 < few < whole


def row_kernel_cost(name, queries, keys, chip=CHIP):
  operands = [
    hlo.Shape('bf16', (4, length, 768)) for length in (queries, keys, keys)
  ]
  text = 'custom_call_target="tpu_custom_call"'
  kernel = hlo.Instruction(name, 'custom-call', (), (), text, None, False)
  return kernels.cost(chip, kernel, operands)


def test_row_attention_costs_its_schedule_and_dropout_more():
  forward = row_kernel_cost('row_attention_fwd_64.1', 512, 512)
  assert forward.flops == 2 * 2 * 4 * 12 * 512 * 512 * 64
  assert forward.seconds == pytest.approx(4 * 12 * 1440 / 1.5e9)
  backward = row_kernel_cost('jvp_row_attention_bwd_64_.2', 512, 512)
  assert backward.flops == 5 * forward.flops / 2
  assert backward.seconds > forward.seconds
  dropping = row_kernel_cost('row_attention_dropout_fwd_64', 512, 512)
  assert dropping.flops == forward.flops
  assert dropping.seconds > forward.seconds
  few = row_kernel_cost('row_attention_fwd_64.1', 128, 512)
  assert forward.seconds / 4 < few.seconds < forward.seconds


def test_heads_that_fill_the_matrix_unit_do_twice_the_work_in_the_time():
  narrow, wide = (
    row_kernel_cost(f'row_attention_fwd_{width}', 256, 256)
    for width in (64, 128)
  )
  assert wide.flops == narrow.flops
  assert wide.seconds == narrow.seconds / 2


@pytest.mark.parametrize('name', ['TPU v4', 'TPU v5', 'TPU v6 lite'])
def test_every_generation_with_kernels_has_figures(name):
  chip = chips.chip_of(name)
  for kernel in ('row_attention_fwd_64', 'row_attention_dropout_bwd_64'):
    assert row_kernel_cost(kernel, 512, 512, chip).seconds > 0
  assert sum_kernel_cost(chip.cores, 512, chip).seconds > 0


def sum_kernel_cost(parts, tokens, chip=CHIP, width=768):
  kernel = hlo.Instruction(
    f'sum_by_id_{parts}.1',
    'custom-call',
    (hlo.Shape('f32', (1024, width)),),
    (),
    'custom_call_target="tpu_custom_call"',
    None,
    False,
  )
  operands = [
    hlo.Shape('f32', (tokens, width)),
    hlo.Shape('s32', (tokens // 256, 1, 256)),
  ]
  return kernels.cost(chip, kernel, operands)


def test_sums_by_id_cost_their_loops_and_what_they_write():
  none = sum_kernel_cost(1, 0)
  written = 4 * 1024 * 768 / CHIP.hbm_bandwidth
  assert none.flops == 0
  assert none.seconds == pytest.approx(written + 1024 * 1.25 / 1.5e9)
  once, twice = (sum_kernel_cost(parts, 2560).seconds for parts in (1, 2))
  assert once - none.seconds == pytest.approx((10 * 140 + 2560 * 10.5) / 1.5e9)
  # Every part passes every block; a token is added in one.
  assert twice - once == pytest.approx(10 * 140 / 1.5e9)
  many = sum_kernel_cost(64, 2560).seconds
  reading = 64 * 4 * 2560 * 768 / CHIP.hbm_bandwidth
  assert many == pytest.approx(written + reading)
  wide = sum_kernel_cost(1, 2560, width=1024).seconds
  assert once < wide < 2 * once


def test_another_kernel_is_not_guessed():
  assert kernel_cost('my_kernel', 512, 512) is None


def test_weak_scaling_keeps_the_compute_and_grows_the_ring(found):
  rows = pods.weak_scaling(found, SLICE)
  assert [row['chips'] for row in rows] == [8, 16, 32, 64, 128, 256]
  assert rows[0]['step_ms'] == pytest.approx(1e3 * found.seconds)
  compute = found.seconds - found.exposed_seconds
  # All four links of a full torus instead of two, 255/256 instead of 7/8.
  exposed = found.exposed_seconds * (255 / 256) / (7 / 8) / 2
  assert rows[-1]['step_ms'] == pytest.approx(1e3 * (compute + exposed))
  assert all(0 < row['efficiency'] <= 1 for row in rows)


def test_chip_hours():
  assert pods.chip_hours(7.2e6, 1000, 0.5, SLICE) == pytest.approx(8.0)


def test_attention_with_rows_minor_costs_the_same():
  def cost(shape):
    operands = [hlo.Shape('bf16', shape)] * 3
    text = 'custom_call_target="tpu_custom_call"'
    kernel = hlo.Instruction(
      'splash_mha_fwd.1', 'custom-call', (), (), text, None, False
    )
    return kernels.cost(CHIP, kernel, operands)

  assert cost((4, 12, 64, 512)) == cost((4, 12, 512, 64))
