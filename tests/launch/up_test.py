"""What up.sh brings back, and what it leaves alone."""

import pytest
from slices import DROPPED, NO_CAPACITY, NO_QUOTA, TRAINING, WAITING, ready


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
