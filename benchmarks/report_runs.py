"""Held-out loss of finished runs: one plot, one JSON, one Markdown table.

    pip install -e '.[plot]'
    python benchmarks/report_runs.py --output=docs/results/NAME WORKDIR ...

Writes NAME.png and NAME.json. Runs that were trained on one machine at the same
time are not a measurement of speed; `step_time.py` is.
"""

import argparse
import json
import pathlib
from typing import Any

import matplotlib as mpl

mpl.use('Agg')
from matplotlib import pyplot

_EVAL = ('step', 'eval/loss', 'eval/accuracy')


def read(workdir: pathlib.Path) -> dict[str, Any]:
  """What is reported of a run."""
  rows = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  config = json.loads((workdir / 'config.json').read_text())
  return {
    'config': config['config'],
    'fingerprints': config['fingerprints'],
    'summary': json.loads((workdir / 'summary.json').read_text()),
    'evaluations': [
      {name: row[name] for name in _EVAL} for row in rows if 'eval/loss' in row
    ],
    'importance': [
      {k: v for k, v in row.items() if k == 'step' or 'importance' in k}
      for row in rows
      if 'importance/q50' in row and 'eval/loss' in row
    ],
  }


def plot(runs: dict[str, dict[str, Any]], path: pathlib.Path) -> None:
  """Held-out loss against steps."""
  figure, axes = pyplot.subplots(figsize=(7, 4.2))
  for name, run in runs.items():
    rows = run['evaluations']
    axes.plot(
      [row['step'] for row in rows],
      [row['eval/loss'] for row in rows],
      marker='.',
      label=name,
    )
  axes.set_xlabel('step')
  axes.set_ylabel('held-out loss, nats per predicted token')
  axes.grid(alpha=0.3)
  axes.legend()
  figure.tight_layout()
  figure.savefig(path, dpi=120)


def main() -> None:
  """Reads the runs, writes plot and JSON, prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('workdirs', nargs='+', type=pathlib.Path)
  parser.add_argument('--output', required=True, type=pathlib.Path)
  arguments = parser.parse_args()
  runs = {}
  for workdir in arguments.workdirs:
    run = read(workdir)
    policy = run['config']['drop.policy']
    if policy in runs:
      parser.error(f'{workdir}: a second run of drop.policy={policy}')
    runs[policy] = run
  folder, name = arguments.output.parent, arguments.output.name
  folder.mkdir(parents=True, exist_ok=True)
  plot(runs, folder / f'{name}.png')
  (folder / f'{name}.json').write_text(json.dumps(runs, indent=1) + '\n')
  print('| policy | steps | first loss | last loss | layer-tokens kept |')
  print('|---|---|---|---|---|')
  for name, run in runs.items():
    content = run['summary']
    print(
      f'| `{name}` | {content["step"]:,} | {content["first_eval_loss"]:.3f} | '
      f'{content["last_eval_loss"]:.3f} | {content["layer_tokens_kept"]:.3f} |'
    )


if __name__ == '__main__':
  main()
