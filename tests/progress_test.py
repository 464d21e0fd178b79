import os
import pty
import re
import termios

import pytest

from td_flax import progress


@pytest.fixture
def clock(monkeypatch):
  """A clock that the test moves: `clock[0] += seconds`."""
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def lines(capsys):
  return capsys.readouterr().err.splitlines()


def test_a_line_names_amounts_rate_and_time_left(clock, capsys):
  with progress.Progress(30.8, 'packing', 'MB') as bar:
    clock[0] += 5
    bar.update(15.4)
    assert lines(capsys) == ['packing: 50% 15.4/30.8 MB  3.1 MB/s  eta 5s']


def test_at_most_a_line_per_tenth_and_the_last(clock, capsys):
  with progress.Progress(1000, 'training', 'steps') as bar:
    for _ in range(1000):
      clock[0] += 10
      bar.update()
  shown = [int(re.search(r'(\d+)%', line)[1]) for line in lines(capsys)]
  assert shown == [*range(10, 101, 10)]


def test_quick_work_is_one_line(clock, capsys):
  with progress.Progress(1000, 'training', 'steps') as bar:
    for _ in range(1000):
      clock[0] += 0.001
      bar.update()
  assert lines(capsys) == [
    'training: 100% 1,000/1,000 steps  1,000 steps/s  in 1s'
  ]


def test_fractions_add_up_to_all(clock, capsys):
  with progress.Progress(1.1, 'packing', 'MB') as bar:
    for _ in range(11):
      clock[0] += 1
      bar.update(0.1)
  assert lines(capsys)[-1] == 'packing: 100% 1.1/1.1 MB  0.1 MB/s  in 11s'


def test_a_resumed_run_counts_only_its_own_steps_for_the_rate(clock, capsys):
  with progress.Progress(1000, 'training', 'steps', initial=500) as bar:
    clock[0] += 100
    bar.update(100)
    assert '60% 600/1,000 steps  1.0 steps/s  eta 6m40s' in lines(capsys)[0]


def test_work_that_fails_shows_how_far_it_came(clock, capsys):
  def work():
    with progress.Progress(10, 'packing', 'MB') as bar:
      clock[0] += 2
      bar.update(1.0)
      raise ValueError('broken')

  with pytest.raises(ValueError, match='broken'):
    work()
  assert lines(capsys) == ['packing: 10% 1.0/10.0 MB  0.5 MB/s  eta 18s']


def test_without_a_total_amounts_are_shown(clock, capsys):
  with progress.Progress(None, 'reading', 'documents') as bar:
    for _ in range(6):
      clock[0] += 10
      bar.update(1500)
  assert lines(capsys) == [
    'reading: 4,500 documents  150 documents/s  in 30s',
    'reading: 9,000 documents  150 documents/s  in 1m00s',
    'reading: 9,000 documents  150 documents/s  in 1m00s',
  ]


def test_figures_and_lines_are_shown(clock, capsys):
  with progress.Progress(10, 'training', 'steps') as bar:
    bar.set(loss=4.25, kept='50%')
    bar.write('step 5: a line')
    clock[0] += 1
    bar.update(10)
  assert lines(capsys) == [
    'step 5: a line',
    'training: 100% 10/10 steps  10.0 steps/s  in 1s  loss=4.25  kept=50%',
  ]


def read_to_the_end(terminal):
  """What was written before the other side was closed; it comes in parts."""
  parts = []
  try:
    while part := os.read(terminal, 4096):
      parts.append(part)
  except OSError:  # how Linux says that the other side is closed
    pass
  os.close(terminal)
  return b''.join(parts)


def test_a_terminal_gets_a_bar(monkeypatch):
  ours, theirs = pty.openpty()
  termios.tcsetwinsize(theirs, (24, 100))
  with os.fdopen(theirs, 'w') as terminal:
    monkeypatch.setattr('sys.stderr', terminal)
    with progress.Progress(4, 'training', 'steps') as bar:
      for _ in range(4):
        bar.set(loss=3.5)
        bar.update()
      bar.write('a line above the bar')
  shown = read_to_the_end(ours).decode()
  assert 'a line above the bar\r\n' in shown
  last = shown.split('\r')[-2]
  assert last.startswith('training: 100% 4/4 steps')
  assert 'loss=3.5' in last
  assert '█' in last
