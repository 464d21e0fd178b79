"""What up.sh brings back, and what it leaves alone."""

import shlex

import pytest
import support
from slices import (
  DROPPED,
  NO_CAPACITY,
  NO_QUOTA,
  OFFLINE,
  TRAINING,
  WAITING,
  ready,
)

COPY_FAILS = ['tpu-vm scp', 1, DROPPED, None]


def up(cloud):
  return cloud.run('up', '--accelerator=v6e-8', '--spot', '--yes', *TRAINING)


@pytest.mark.parametrize(
  ('states', 'made'), [([WAITING] * 3, 0), (['FAILED'] * 3, 1)]
)
def test_up_leaves_a_request_its_place_in_the_queue(cloud, states, made):
  cloud.put(slices=ready(queue=[*states, 'ACTIVE']))
  done = cloud.run(
    'up', '--accelerator=v6e-8', '--queued', '--wait=1', '--yes', *TRAINING
  )
  assert done.returncode == 0, done.stderr
  assert len(cloud.calls(' create ')) == made
  assert len(cloud.calls(' delete ')) == made + 1  # at the end
  assert not cloud.slices()


def test_up_comes_back_after_all_that_passes(cloud):
  cloud.put(
    failures=[
      ['tpu-vm create', 1, NO_CAPACITY, None],
      ['worker_setup', 255, DROPPED, 'PREEMPTED'],
      ['worker.py start', 1, 'terminal state "PREEMPTED"', 'PREEMPTED'],
      ['worker.py status', 255, DROPPED, 'TERMINATED'],
    ],
    states=['running', 'done'],
  )
  done = cloud.run('up', '--accelerator=v6e-8', '--spot', '--yes', *TRAINING)
  assert done.returncode == 0, done.stderr
  assert 'the run is done' in done.stderr
  assert not cloud.slices()
  assert len(cloud.calls('tpu-vm create')) == 5
  assert len(cloud.calls('worker.py start')) == 3
  assert 'nothing of this name' not in done.stderr


def test_up_does_not_take_a_log_for_a_state(cloud):
  log = 'OSError: failed: done: stopped: lost: idle for 3s'
  cloud.put(states=['running', 'running', 'done'], log=log)
  done = cloud.run('up', '--accelerator=v6e-8', '--yes', *TRAINING)
  assert done.returncode == 0, done.stderr
  assert len(cloud.calls('worker.py status')) == 3
  assert len(cloud.calls('worker.py start')) == 1


def test_up_gives_up_where_trying_again_is_no_use(cloud):
  cloud.put(failures=[['create', 1, NO_QUOTA, None]])
  done = cloud.run('up', '--accelerator=v6e-8', '--spot', '--yes', *TRAINING)
  assert done.returncode == 1
  assert len(cloud.calls('create')) == 1
  cloud.put(states=['failed'])
  done = cloud.run('up', '--accelerator=v6e-8', '--spot', '--yes', *TRAINING)
  assert done.returncode == 1
  assert cloud.slices()  # its logs may say why
  (cloud.folder / 'calls').unlink()
  done = cloud.run('up', '--accelerator=v6e-8', '--spot', *TRAINING)
  assert done.returncode == 2
  assert not cloud.calls('create')


@pytest.mark.parametrize('state', ['running', 'waiting'])
def test_up_takes_up_watching_what_trains(cloud, state):
  cloud.put(slices=ready(), states=[state, 'running', 'done'])
  done = up(cloud)
  assert done.returncode == 0, done.stderr
  assert not cloud.calls(' create ')
  assert not cloud.calls('worker_setup')
  assert len(cloud.calls(' delete ')) == 1  # at the end


def test_up_never_deletes_a_slice_that_it_found_and_cannot_reach(cloud):
  cloud.put(
    slices=ready(), failures=[COPY_FAILS] * 5, states=['idle'] * 6 + ['done']
  )
  done = up(cloud)
  assert done.returncode == 0, done.stderr
  assert not cloud.calls(' create ')
  assert len(cloud.calls(' delete ')) == 1  # at the end


@pytest.mark.parametrize(
  ('failures', 'made'),
  [([COPY_FAILS] * 2, 1), ([COPY_FAILS] * 3, 2), (OFFLINE, 1)],
)
def test_up_makes_a_slice_again_after_three_failed_starts(
  cloud, failures, made
):
  states = ['idle', 'idle', 'done']
  cloud.put(failures=failures, states=states)
  done = up(cloud)
  assert done.returncode == 0, done.stderr
  assert len(cloud.calls(' create ')) == made
  assert len(cloud.calls(' delete ')) == made


def test_up_does_not_start_for_ever_what_cannot_be_set_up(cloud):
  failure = ['worker_setup', 2, 'no such package', None]
  cloud.put(failures=[failure] * 4, states=['idle'])
  done = up(cloud)
  assert done.returncode == 1
  assert 'gave up' in done.stderr.splitlines()[-1]
  assert len(cloud.calls('worker_setup')) == 3
  assert cloud.slices()


@pytest.mark.parametrize(
  ('failures', 'state', 'code'),
  [(1, None, 0), (2, None, 0), (1, 'GONE', 0), (3, None, 1)],
)
def test_up_says_so_where_the_slice_cannot_be_deleted(
  cloud, failures, state, code
):
  cloud.put(failures=[['tpu-vm delete', 1, 'DNS', state]] * failures)
  done = up(cloud)
  assert done.returncode == code, done.stderr
  assert bool(cloud.slices()) == bool(code)
  if code:
    last = done.stderr.splitlines()[-1]
    assert 'bert: STILL EXISTS AND COSTS MONEY' in last
    command = shlex.split(last.partition('delete it: ')[2])
    assert support.run(command, env=cloud.environment).returncode == 0
    assert not cloud.slices()
