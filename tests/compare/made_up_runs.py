"""Made-up runs of a comparison with arms plain, td, random, shallow."""

from td_flax.compare import figures, plan, settings, statistics

ARMS = 'plain', 'td', 'random', 'shallow'
LENGTHS = {
  'equal_steps': dict.fromkeys(ARMS, (100,)),
  'equal_time': {**dict.fromkeys(ARMS, (200,)), 'plain': (100,)},
  'time_to_target': {**dict.fromkeys(ARMS, (100, 200)), 'plain': (50, 100)},
}
TIMING = {
  'device_kind': 'cpu',
  'rounds': 5,
  'arms': {
    name: {
      'ratio': ratio,
      'quartiles': [ratio, ratio],
      'error': 0.01,
      'seconds_per_step': ratio,
    }
    for name, ratio in zip(ARMS, (1.0, 0.5, 0.5, 0.5), strict=True)
  },
}
# Loss of plain at equal steps, of all others there, of all others later.
PLAIN, EQUAL, LATER = 3.0, 3.2, 2.8


def run(arm, steps, seed, loss, own_loss=None):
  return {
    'arm': arm,
    'steps': steps,
    'seed': seed,
    'workdir': f'{arm}/{steps}/seed{seed}',
    'loss': loss,
    'own_loss': own_loss,
    'curve': [(0, 9.0), (steps // 2, 4.0), (steps, loss)],
    'scores': {},
  }


def all_runs(seeds):
  runs = []
  for seed in range(seeds):
    noise = 0.01 * (seed % 3)
    runs += [run('plain', 50, seed, 3.5), run('plain', 100, seed, PLAIN)]
    for arm in ARMS[1:]:
      runs.append(run(arm, 100, seed, EQUAL + noise))
      runs.append(run(arm, 200, seed, LATER + noise))
  return runs


def make(
  runs,
  unigram=6.0,
  failed=None,
  td='drop.policy=random',
  timing=TIMING,
  twins=(),
  of_twins=None,
  unscored=0,
  reference='td',
):
  """The figures; `twins` are arms like td, unless `of_twins` says more."""
  raw = settings.default()
  raw.arms.td = td
  for name in twins:
    raw.arms[name] = of_twins or td
  if reference == 'random':
    raw.arms.random = 'drop.policy=random'
  raw.reference = reference
  arms = plan.arms(settings.load(raw), 1000)
  return figures.content(
    'made-up',
    reference,
    {name: arms[name] for name in (*ARMS, *twins)},
    {
      protocol: by_arm | dict.fromkeys(twins, by_arm['td'])
      for protocol, by_arm in LENGTHS.items()
    },
    timing
    | {'arms': timing['arms'] | dict.fromkeys(twins, timing['arms']['td'])},
    runs,
    planned=40,
    unscored=unscored,
    failed=failed or {},
    context_free=statistics.ContextFree(unigram, unigram - 0.5),
  )


def scored(seeds):
  """All runs, td with more of BLiMP than plain and about as much of RTE."""
  runs = all_runs(seeds)
  for x in runs:
    if x['steps'] != 50:
      noise = 0.001 * (x['seed'] % 3)
      high = x['arm'] == 'td' and x['steps'] == 200
      x['scores'] = {
        'blimp': {
          'metric': 'accuracy',
          'score': 0.6 + 0.05 * high + noise * (x['arm'] == 'td'),
        },
        'rte': {
          'metric': 'accuracy',
          'score': 0.5 + noise * (x['arm'] == 'td') * (-1) ** x['seed'],
        },
      }
  return runs
