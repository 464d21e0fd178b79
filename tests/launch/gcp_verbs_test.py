"""The verbs against a gcloud that notes its calls and fails on order."""

import os
import pty
import re
import shutil
import subprocess
import tarfile

import pytest
from slices import (
  DROPPED,
  HERE,
  NO_CAPACITY,
  NO_QUOTA,
  OFFLINE,
  ROOT,
  TRAINING,
  WAITING,
  ZONE,
  ready,
)

LOCAL = '--target=local'


@pytest.mark.parametrize(
  ('name', 'verb', 'arguments'),
  [
    ('create', 'create', ['--accelerator=v5litepod-8']),
    ('create_version', 'create', ['--accelerator=h1-8', '--version=tpu-h1']),
    ('create_spot', 'create', ['--accelerator=v6e-32', '--spot']),
    ('create_queued', 'create', ['--accelerator=v5p-64', '--queued', '--spot']),
    ('setup', 'setup', []),
    ('run', 'run', [*TRAINING, "--config.data.files=it's here/*.txt"]),
    ('logs', 'logs', ['--worker=3', '--follow']),
    ('status', 'status', []),
    ('stop', 'stop', []),
    ('delete', 'delete', []),
    ('delete_queued', 'delete', ['--queued']),
    ('up', 'up', ['--accelerator=v6e-8', '--spot', *TRAINING]),
    ('up_queued', 'up', ['--accelerator=v6e-8', '--queued', *TRAINING]),
    ('local_create', 'create', [LOCAL, '--devices=2']),
    ('local_setup', 'setup', [LOCAL]),
    ('local_run', 'run', [LOCAL, '--port=9000', *TRAINING]),
    ('local_logs', 'logs', [LOCAL, '--worker=1', '--follow']),
    ('local_status', 'status', [LOCAL]),
    ('local_stop', 'stop', [LOCAL]),
    ('local_delete', 'delete', [LOCAL]),
    ('local_up', 'up', [LOCAL, *TRAINING]),
  ],
)
def test_dry_run_prints_the_commands_and_does_nothing(
  cloud, name, verb, arguments
):
  done = cloud.run(verb, '--dry-run', *arguments)
  assert done.returncode == 0, done.stderr
  printed = done.stdout.replace(str(cloud.folder), '$TMPDIR')
  printed = printed.replace(str(ROOT), '$ROOT')
  assert printed == (HERE / 'golden' / f'{name}.txt').read_text()
  assert not cloud.calls()


def test_a_slice_is_created_once_and_labelled(cloud):
  for _ in range(2):
    done = cloud.run('create', '--accelerator=v6e-8')
    assert done.returncode == 0, done.stderr
  assert cloud.slices()['bert']['label'] == 'bert'
  (call,) = cloud.calls(' create ')
  assert '--version=v2-alpha-tpuv6e' in call
  assert '--labels=td_flax=bert' in call


@pytest.mark.parametrize(
  ('message', 'code', 'said'),
  [(NO_QUOTA, 1, 'no quota'), (NO_CAPACITY, 75, 'no capacity')],
)
def test_what_cannot_be_created_says_why(cloud, message, code, said):
  cloud.put(failures=[['create', 1, message, None]])
  done = cloud.run('create', '--accelerator=v6e-8', '--spot')
  assert done.returncode == code
  assert said in done.stderr.splitlines()[-1]
  assert 'us-east5-b' in done.stderr.splitlines()[-1]
  assert not cloud.slices()


@pytest.mark.parametrize(
  ('verb', 'arguments', 'said'),
  [
    ('create', [], '--accelerator: missing'),
    ('create', ['--accelerator=h100-8'], '--accelerator=h100-8: not one of'),
    ('create', ['--accelerator'], '--accelerator: needs a value'),
    ('create', ['--spot=yes'], '--spot takes no value'),
    ('create', ['--wait=soon'], '--wait=soon: must be a whole number'),
    ('create', ['--queue'], '--queue: create has no such flag'),
    ('status', ['--target=aws'], '--target=aws: must be gcp or local'),
    ('status', ['other'], 'other: unexpected'),
    ('run', [], 'nothing to train'),
    ('run', ['--', '--workdir=runs/x'], '--workdir=runs/x: must be gs://'),
    ('up', ['--yes'], 'nothing to train'),
    ('up', ['--yes', '--', '--config=x'], '--workdir=: must be gs://'),
    ('logs', ['--worker=first'], '--worker=first: must be a number or all'),
    ('delete', [], 'give --yes'),
  ],
)
def test_mistakes_are_one_line(cloud, verb, arguments, said):
  cloud.put(slices=ready())
  done = cloud.run(verb, *arguments)
  assert done.returncode == 2
  assert said in done.stderr
  assert len(done.stderr.splitlines()) == 1
  assert cloud.slices() == ready()


def test_names_and_zones_are_needed(cloud):
  for name, zone, said in (
    ('', ZONE, 'NAME: missing'),
    ('BERT', ZONE, 'BERT: not a name'),
    ('bert', '', '--zone: missing'),
  ):
    done = cloud.run('status', name=name, zone=zone)
    assert done.returncode == 2
    assert said in done.stderr


def test_only_what_has_the_label_is_deleted(cloud):
  cloud.put(slices=ready(label='') | {'mine': ready(label='mine')['bert']})
  done = cloud.run('delete', '--yes')
  assert done.returncode == 1
  assert 'has no label td_flax=bert' in done.stderr
  assert not cloud.calls(' delete ')
  done = cloud.run('delete', '--yes', name='mine')
  assert done.returncode == 0, done.stderr
  assert list(cloud.slices()) == ['bert']


@pytest.mark.parametrize(
  ('verb', 'arguments'),
  [('delete', ()), ('up', ('--accelerator=v6e-8', *TRAINING))],
)
@pytest.mark.parametrize('typed', ['bert', 'Bert', ''])
def test_the_name_typed_on_a_terminal_is_enough(cloud, verb, arguments, typed):
  cloud.put(slices=ready())
  ours, theirs = pty.openpty()
  os.write(ours, f'{typed}\n'.encode())
  done = cloud.run(verb, *arguments, stdin=theirs)
  os.close(theirs)
  os.close(ours)
  assert 'Type the name to go on: ' in done.stderr
  if typed == 'bert':
    assert done.returncode == 0, done.stderr
    assert not cloud.slices()
  else:
    assert done.returncode == 1
    assert f"'{typed}' is not 'bert'; nothing was done" in done.stderr
    assert cloud.slices() == ready()
    assert not cloud.calls(' delete ')


def test_a_queued_resource_goes_with_its_slice(cloud):
  cloud.put(slices=ready(queue=['ACTIVE']))
  done = cloud.run('delete', '--yes')
  assert done.returncode == 0, done.stderr
  (call,) = cloud.calls(' delete ')
  assert call.startswith('compute tpus queued-resources delete bert')
  assert call.endswith('--force')


def test_a_request_that_waits_is_waited_for(cloud):
  arguments = ('create', '--accelerator=v6e-8', '--queued', '--wait=1')
  cloud.put(queue=[*[WAITING] * 3, 'ACTIVE'])
  for _ in range(2):
    done = cloud.run(*arguments)
    assert done.returncode == 75
    assert 'still WAITING_FOR_RESOURCES after 1 minutes' in done.stderr
  done = cloud.run(*arguments[:-1])
  assert done.returncode == 0, done.stderr
  assert len(cloud.calls(' create ')) == 1
  cloud.put(slices=ready(queue=[WAITING], label=''))
  done = cloud.run(*arguments)
  assert done.returncode == 1
  assert 'has no label td_flax=bert' in done.stderr


def test_a_laptop_that_is_offline_for_a_while_goes_on_waiting(cloud):
  look = 'queued-resources describe'
  cloud.put(failures=[[look, 1, 'NOT_FOUND', None], [look, 1, 'DNS', None]])
  done = cloud.run('create', '--accelerator=v6e-8', '--queued')
  assert done.returncode == 0, done.stderr
  assert re.search('gcloud cannot describe bert: .*DNS', done.stderr)


def test_setup_survives_a_dropped_connection(cloud):
  cloud.put(slices=ready(), failures=[['worker_setup', 255, DROPPED, None]] * 2)
  done = cloud.run('setup')
  assert done.returncode == 0, done.stderr
  assert len(cloud.calls('worker_setup.sh')) == 3
  assert done.stdout.splitlines() == ['ready: host-0', 'ready: host-1']
  # The checkout, with what is not committed, does not stay in a shared folder.
  assert cloud.calls('tpu-vm scp')
  assert not list(cloud.folder.glob('td_flax*'))


def test_the_workers_get_the_checkout_as_it_is(cloud, tmp_path):
  root = tmp_path / 'checkout'

  def git(*arguments):
    return subprocess.check_output(['git', *arguments], cwd=root, text=True)

  def write(**content):
    for name, text in content.items():
      (root / name).write_text(text)

  shutil.copytree(ROOT / 'launch', root / 'launch')
  write(kept='old', gone='old', staged='old')
  (root / '.gitignore').write_text('ignored\n')
  git('init', '--quiet')
  git('add', '--all')
  git('-c', 'user.name=x', '-c', 'user.email=x', 'commit', '--quiet', '-m', 'x')
  write(kept='changed', staged='changed', new='new', ignored='secret')
  git('add', 'staged')
  (root / 'gone').unlink()
  before = git('status', '--porcelain')
  cloud.put(slices=ready())
  done = cloud.run('setup', root=root)
  assert done.returncode == 0, done.stderr
  with tarfile.open(tmp_path / 'copied') as copied:
    found = {
      name: copied.extractfile(name).read().decode()
      for name in copied.getnames()
      if '/' not in name and name != 'launch'
    }
  assert found == {
    '.gitignore': 'ignored\n',
    'kept': 'changed',
    'new': 'new',
    'staged': 'changed',
  }
  assert git('status', '--porcelain') == before


@pytest.mark.parametrize(
  ('verb', 'part', 'arguments'),
  [
    ('setup', 'tpu-vm scp', []),
    ('setup', 'worker_setup', []),
    ('run', 'worker.py start', TRAINING),
    ('stop', 'worker.py stop', []),
  ],
)
@pytest.mark.parametrize('code', [1, 255])  # gcloud's, and ssh's
def test_preemption_in_the_middle_says_so(cloud, verb, part, arguments, code):
  cloud.put(slices=ready(), failures=[[part, code, DROPPED, 'PREEMPTED']])
  done = cloud.run(verb, *arguments)
  assert done.returncode == 75
  assert 'is PREEMPTED, not READY' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
  ('code', 'expected', 'said'),
  [
    (100, 1, 'error: bert: setup failed'),
    (2, 1, 'error: bert: setup failed'),
    (75, 75, 'error: host-1: not now'),  # the worker has said it
  ],
)
def test_a_setup_that_fails_says_whether_to_try_again(
  cloud, code, expected, said
):
  failure = ['worker_setup', code, 'error: host-1: not now', None]
  cloud.put(slices=ready(), failures=[failure])
  done = cloud.run('setup')
  assert done.returncode == expected
  assert said in done.stderr.splitlines()[-1]


def test_a_laptop_that_is_offline_in_setup_does_not_take_the_slice_for_lost(
  cloud,
):
  cloud.put(slices=ready(), failures=OFFLINE)
  done = cloud.run('setup')
  assert done.returncode == 1
  assert 'gcloud cannot describe bert' in done.stderr
  assert 'there is no such TPU VM' not in done.stderr


def test_a_worker_that_never_comes_up_says_so(cloud):
  cloud.put(slices=ready(workers=4, up=3))
  done = cloud.run('setup')
  assert done.returncode == 75
  assert '3 of 4 workers are ready' in done.stderr.splitlines()[-1]
  cloud.put(slices=ready(), failures=[['worker_setup', 255, DROPPED, None]] * 3)
  done = cloud.run('setup')
  assert done.returncode == 75
  assert 'a worker cannot be reached by ssh' in done.stderr


def test_status_tells_a_lost_slice_from_a_lost_connection(cloud):
  assert cloud.run('status').returncode == 75
  cloud.put(slices=ready(state='PREEMPTED'))
  assert cloud.run('status').returncode == 75
  cloud.put(slices=ready(), failures=[['status', 255, DROPPED, None]] * 3)
  assert cloud.run('status').returncode == 1


def test_a_warning_is_neither_a_state_nor_an_error(cloud):
  cloud.put(slices=ready())
  done = cloud.run('status')
  assert done.returncode == 0, done.stderr
  assert done.stderr.startswith('bert: READY\n')
