"""Slices of a gcloud that notes its calls and fails on order."""

import json
import os
import pathlib
import shutil
import stat
import subprocess

import support

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
TRAINING = ('--', '--config=configs/bert_base_td.py', '--workdir=gs://b/runs/x')
ZONE = '--zone=us-east5-b'
NO_CAPACITY = (
  'ERROR: code 8: There is no more capacity in the zone "us-east5-b"'
)
NO_QUOTA = (
  "ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV6EPreemptible' has been exceeded"
)
WAITING = 'WAITING_FOR_RESOURCES'
DROPPED = 'ssh: Connection closed by remote host'
OFFLINE = [
  ['worker_setup', 255, DROPPED, None],
  ['tpu-vm describe', 1, 'DNS', None],
]


class Cloud:
  """What the fake gcloud keeps; nothing sleeps there."""

  def __init__(self, folder):
    self.folder = folder
    binaries = folder / 'bin'
    binaries.mkdir()
    shutil.copy(HERE / 'fake_gcloud.py', binaries / 'gcloud')
    (binaries / 'sleep').write_text('#!/bin/sh\n')
    for path in binaries.iterdir():
      path.chmod(path.stat().st_mode | stat.S_IXUSR)
    self.environment = {
      'PATH': f'{folder / "bin"}:{os.environ["PATH"]}',
      'HOME': str(folder),
      'TMPDIR': str(folder),
      'FAKE_GCLOUD': str(folder),
    }

  def run(
    self,
    verb,
    *arguments,
    name='bert',
    zone=ZONE,
    root=ROOT,
    stdin=subprocess.DEVNULL,
  ):
    command = [root / 'launch' / f'{verb}.sh', name, zone, *arguments]
    return support.run(
      [x for x in command if x], env=self.environment, stdin=stdin
    )

  def put(self, **content):
    for name, value in content.items():
      (self.folder / f'{name}.json').write_text(json.dumps(value))

  def slices(self):
    path = self.folder / 'slices.json'
    return json.loads(path.read_text()) if path.exists() else {}

  def calls(self, part=''):
    path = self.folder / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if part in line]


def ready(**more):
  return {'bert': {'state': 'READY', 'label': 'bert', 'queue': []} | more}
