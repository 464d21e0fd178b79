#!/usr/bin/env python3
"""A `gcloud` that keeps slices in a file, notes its calls, and fails on order.

$FAKE_GCLOUD holds `calls`, a line each; `slices.json`, by name; and
`failures.json`, a list of [part of the command line, code, message, slice's new
state, GONE or null], each of which comes once, in order. A request in the queue
has the states `queue`, one a look; without the last of them there is no VM.
Every call warns on stderr; `copied` is the last package.
"""

import json
import os
import pathlib
import shutil
import sys

folder = pathlib.Path(os.environ['FAKE_GCLOUD'])


def load(name, default):
  path = folder / name
  return json.loads(path.read_text()) if path.exists() else default


def save(name, content):
  (folder / name).write_text(json.dumps(content))


def fail(code, message):
  sys.stderr.write(message + '\n')
  sys.exit(code)


sys.stderr.write('WARNING: This command acts as x@y, with its roles.\n')
line = ' '.join(sys.argv[1:])
with (folder / 'calls').open('a') as calls:
  calls.write(line + '\n')
slices, failures = load('slices.json', {}), load('failures.json', [])
kind, verb, name = sys.argv[3:6]
name = name if verb != 'scp' else sys.argv[6].partition(':')[0]
if failures and failures[0][0] in line:
  _, code, message, state = failures.pop(0)
  save('failures.json', failures)
  if state is not None:
    slices[name]['state'] = state
    if state == 'GONE':
      del slices[name]
    save('slices.json', slices)
  fail(code, message)

found = slices.get(name)
is_queued = kind == 'queued-resources'
queue = found['queue'] if found else []
if verb == 'create' and found:
  fail(1, f'ERROR: (gcloud) ALREADY_EXISTS: Resource {name} already exists')
elif verb == 'create':
  flags = dict(x.partition('=')[::2] for x in sys.argv[6:])
  label = flags['--labels'].removeprefix('td_flax=')
  queue = load('queue.json', ['ACTIVE']) if is_queued else []
  slices[name] = {'state': 'READY', 'label': label, 'queue': queue}
  save('slices.json', slices)
elif found is None or (not queue if is_queued else queue[1:]):
  fail(1, f'ERROR: (gcloud) NOT_FOUND: Resource {name} was not found')
elif verb == 'describe' and is_queued:
  print(f'{queue[0]},{found["label"]}')
  found['queue'] = queue[1:] or queue
  save('slices.json', slices)
elif verb == 'describe':
  print(f'{found["state"]},{found["label"]},{found.get("workers", 2)}')
elif verb == 'delete':
  del slices[name]
  save('slices.json', slices)
elif verb == 'scp':
  shutil.copy(sys.argv[5], folder / 'copied')
elif 'worker_setup.sh' in line:
  print('\n'.join(f'ready: host-{i}' for i in range(found.get('up', 2))))
elif 'worker.py status' in line:
  states = load('states.json', ['done'])
  save('states.json', states[1:] or states)
  log = load('log.json', 'step 5')
  for i in range(2):
    print(f'worker {i}: {states[0]} for 3s; log: /home/x/log; {log}')
