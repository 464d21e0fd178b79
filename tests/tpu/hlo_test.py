import pytest

from td_flax.tpu import collectives, hlo, traffic

# In the form the TPU compiler writes, cut down to what is read of it.
PROGRAM = """HloModule jit_f, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: bf16[256,128]) -> bf16[256,128] {
  %p = bf16[256,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %bitcast.1 = bf16[256,128]{1,0:T(8,128)(2,1)} bitcast(%p)
}

%matmul (p.0: bf16[256,128], p.1: bf16[128,128]) -> bf16[256,128] {
  %p.0 = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %nested = bf16[256,128]{1,0} fusion(%p.0), kind=kLoop, calls=%inner
  %p.1 = bf16[128,128]{1,0} parameter(1)
  ROOT %conv = bf16[256,128]{1,0} convolution(%nested, %p.1), dim_labels=bf_io->bf
}

%body (carry: (s32[], bf16[256,128], bf16[5,128,128])) -> (s32[], bf16[256,128], bf16[5,128,128]) {
  %carry = (s32[]{:T(128)}, bf16[256,128]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/bf16[5,128,128]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %h = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%carry), index=1
  %w = bf16[5,128,128]{2,1,0} get-tuple-element(%carry), index=2
  %slice = bf16[128,128]{1,0} dynamic-slice(%w, %i, %i, %i), dynamic_slice_sizes={1,128,128}
  %step = bf16[256,128]{1,0:T(8,128)(2,1)S(1)} fusion(%h, %slice), kind=kOutput, calls=%matmul, metadata={op_name="jit(f)/jvp()/dot_general"}, backend_config={"window_config":{"estimated_cycles":"4252"}}
  ROOT %next = (s32[], bf16[256,128]{1,0:T(8,128)(2,1)S(1)}, bf16[5,128,128]{2,1,0}) tuple(%i, %step, %w)
}

%condition (carry.1: (s32[], bf16[256,128], bf16[5,128,128])) -> pred[] {
  %limit = s32[] constant(5)
  %carry.1 = (s32[], bf16[256,128]{1,0}, bf16[5,128,128]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

%offloaded (table: f32[300], ids: s32[8], by: f32[8]) -> f32[300] {
  %table = f32[300]{0} parameter(0)
  %ids = s32[8]{0} parameter(1)
  %by = f32[8]{0} parameter(2)
  ROOT %scattered = f32[300]{0} scatter(%table, %ids, %by), to_apply=%add
}, execution_thread="sparsecore"

ENTRY %main (a: bf16[256,128], ws: bf16[5,128,128]) -> bf16[256,128] {
  %a = bf16[256,128]{1,0} parameter(0)
  %ws = bf16[5,128,128]{2,1,0} parameter(1)
  %zero = s32[] constant(0)
  %early = (bf16[256,128]{1,0:S(1)}, bf16[256,128]{1,0}, u32[]{:S(2)}) copy-start(%a)
  %there = bf16[256,128]{1,0:S(1)} copy-done(%early)
  %start = (s32[], bf16[256,128]{1,0}, bf16[5,128,128]{2,1,0}) tuple(%zero, %there, %ws)
  %loop = (s32[], bf16[256,128]{1,0}, bf16[5,128,128]{2,1,0}) while(%start), condition=%condition, body=%body
  %out = bf16[256,128]{1,0} get-tuple-element(%loop), index=1
  %kernel = bf16[256,128]{1,0} custom-call(%out), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(f)/pallas_call"}
  %table.1 = f32[300]{0} constant({...})
  %ids.1 = s32[8]{0} constant({...})
  %by.1 = f32[8]{0} constant({...})
  %call-start = ((f32[300]{0}, s32[8]{0}, f32[8]{0}), f32[300]{0}, u32[]{:S(8)}) call-start(%table.1, %ids.1, %by.1), async_execution_thread="sparsecore", to_apply=%offloaded
  %call-done = f32[300]{0} call-done(%call-start)
  %reduce-start = bf16[256,128]{1,0} all-reduce-start(%kernel), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %reduced = bf16[256,128]{1,0} all-reduce-done(%reduce-start)
}
"""  # noqa: E501


@pytest.fixture
def program():
  return hlo.Program(PROGRAM)


def executed(program, name):
  return next(
    (computation, instruction, times)
    for computation, instruction, times in program.executed()
    if instruction.name == name
  )


def test_a_loop_runs_its_body_as_often_as_its_condition_says(program):
  _, instruction, times = executed(program, 'step')
  assert times == 5
  assert instruction.cycles == 4252


def test_a_trip_count_that_the_compiler_states_goes_first():
  known = PROGRAM.replace(
    'body=%body\n',
    'body=%body, backend_config={"known_trip_count":{"n":"7"}}\n',
  )
  assert executed(hlo.Program(known), 'step')[2] == 7


def test_matmuls_inside_fusions_are_counted(program):
  computation, instruction, _ = executed(program, 'step')
  assert program.flops(computation, instruction) == 2 * 256 * 128 * 128


def test_the_results_of_a_tuple_lie_in_their_memory_spaces(program):
  _, early, _ = executed(program, 'early')
  assert [shape.space for shape in early.shapes] == [1, 0, 2]
  assert early.shapes[0] == hlo.Shape('bf16', (256, 128), 1)
  assert early.shapes[0].bytes == 2 * 256 * 128


def test_what_another_core_runs_is_one_operation(program):
  # Its computation ends in more than a brace, and must end all the same.
  assert list(program.computations['offloaded']) == [
    'table', 'ids', 'by', 'scattered',
  ]  # fmt: skip
  executed = [x.name for _, x, _ in program.executed()]
  assert 'call-start' in executed
  assert 'scattered' not in executed
  assert [x.name for x in program.find('scatter')] == ['scattered']


def test_an_instruction_over_several_lines_is_one(program):
  _, kernel, _ = executed(program, 'kernel')
  assert kernel.target == 'tpu_custom_call'
  assert kernel.op_name == 'jit(f)/pallas_call'
  assert 'reduced' in program.computations['main']


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('early', 2 * 256 * 128),  # read; the copy lies in vector memory
    # The operand in vector memory is free, as is the result.
    ('step', 2 * 128 * 128),
    ('slice', 2 * 2 * 128 * 128),  # of the five matrices, one
    ('kernel', 2 * 2 * 256 * 128),
  ],
)
def test_what_goes_through_hbm(program, name, expected):
  computation, instruction, _ = executed(program, name)
  assert traffic.hbm_bytes(program, computation, instruction) == pytest.approx(
    expected, abs=64
  )


def test_an_async_pair_is_one_collective(program):
  (found,) = collectives.find(program, 8)
  payload = 2 * 256 * 128
  assert found == collectives.Collective(
    'all-reduce', payload, 2 * payload * 3 // 4, times=1, overlaps=True
  )


def test_the_end_of_an_async_collective_moves_nothing(program):
  assert [
    traffic.hbm_bytes(program, computation, instruction)
    for computation, instruction, _ in program.executed()
    if instruction.name == 'reduced'
  ] == [0]


def test_a_collective_that_is_wrapped_to_be_asynchronous_overlaps():
  program = hlo.Program("""HloModule m

%wrapped (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  ROOT %g = f32[64]{0} all-gather(%p), channel_id=3, replica_groups=[1,8]<=[8]
}

ENTRY %main (a: f32[8]) -> f32[64] {
  %a = f32[8]{0} parameter(0)
  %begun = ((f32[8]{0}), f32[64]{0}, u32[]) async-start(%a), calls=%wrapped
  ROOT %done = f32[64]{0} async-done(%begun)
}
""")
  (found,) = collectives.find(program, 8)
  assert found.overlaps


def test_a_collective_woven_into_two_fusions_is_one():
  woven = """HloModule m

%part.1 (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  ROOT %g.1 = f32[64]{0} all-gather(%p), channel_id=3, replica_groups=[1,8]<=[8]
}

%part.2 (q: f32[8]) -> f32[64] {
  %q = f32[8]{0} parameter(0)
  ROOT %g.2 = f32[64]{0} all-gather(%q), channel_id=3, replica_groups=[1,8]<=[8]
}

ENTRY %main (a: f32[8]) -> f32[64] {
  %a = f32[8]{0} parameter(0)
  %f.1 = f32[64]{0} fusion(%a), kind=kCustom, calls=%part.1
  ROOT %f.2 = f32[64]{0} fusion(%a), kind=kCustom, calls=%part.2
}
"""
  (found,) = collectives.find(hlo.Program(woven), 8)
  assert (found.payload, found.sent) == (32, 7 * 32)


@pytest.mark.parametrize(
  ('groups', 'size'),
  [
    ('replica_groups={{0,1,2},{3,4,5}}', 3),
    ('replica_groups=[4,64]<=[256]', 64),
    ("replica_groups=mesh['a'=16,'b'=4] {'b'}", 4),
    ("replica_groups=mesh['a'=16,'b'=4] {'a','b'}", 64),
    ('replica_groups={}', 256),
  ],
)
def test_group_sizes(groups, size):
  instruction = hlo.Instruction('r', 'all-reduce', (), (), groups, None, False)
  assert collectives.group_size(instruction, 256) == size


def test_batched_matmuls_written_as_dilated_convolutions():
  text = """HloModule m

ENTRY %main (q: bf16[8,12,512,64], k: bf16[8,12,512,64]) -> bf16[8,12,512,512] {
  %q = bf16[8,12,512,64]{3,2,1,0} parameter(0)
  %k = bf16[8,12,512,64]{3,2,1,0} parameter(1)
  ROOT %c = bf16[8,12,512,512]{3,2,1,0} convolution(%q, %k), window={size=8x12 stride=7x11 lhs_dilate=8x12}, dim_labels=01bf_01oi->01bf
}
"""  # noqa: E501
  program = hlo.Program(text)
  conv = program.computations['main']['c']
  assert program.flops('main', conv) == 2 * 8 * 12 * 512 * 512 * 64


def test_slow_operations_are_found_wherever_they_are():
  text = PROGRAM.replace('bitcast(%p)', 'sort(%p), dimensions={1}')
  program = hlo.Program(
    text.replace('bf16[5,128,128]{2,1,0} get', 'bf16[<=5,128,128]{2,1,0} get')
  )
  assert len(program.find('sort')) == 1
  assert program.count_dynamic() == 1


def test_text_that_is_no_program_is_refused():
  with pytest.raises(ValueError, match='no ENTRY'):
    hlo.Program('nothing')
