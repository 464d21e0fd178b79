import pytest

from td_flax.hub import card

ENCODER = 'The result is an ordinary encoder: all layers see all tokens.'
FULL = 'all layers computed all tokens'


def about(config, tokenizer, step=100):
  """What a card says of dropping."""
  run = card.Run(config=config, step=step, eval_loss=None, summary=None)
  text = card.write(run, config.model, tokenizer, num_params=9)
  _, said = text.split('pretrained with td_flax ')[1].split(' ', 1)
  return said.partition('\n')[0]


@pytest.mark.parametrize(
  ('policy', 'said'),
  [
    ('none', FULL),
    ('cumulative_loss', 'layers 1 to 2 each computed 16 of 32 tokens of a row'),
    ('frequency', 'layers 1 to 2 each computed 16 of 32 tokens of a row'),
    ('random', 'layers 1 to 2 each computed 16 of 32 tokens of a row'),
    ('attention', 'layers 1 to 2 each computed 16 of 32 tokens of a row'),
    ('random_ltd', 'layers 1 to 2 each computed 16 of 32 tokens of a row'),
    # What these compute is decided by the mask rate: 4 tokens are predicted.
    ('narrow', 'layers 1 to 3 each computed 4 of 32 tokens of a row'),
    ('mask_later', 'layers 0 to 2 each computed 28 of 32 tokens of a row'),
  ],
)
def test_it_tells_what_each_policy_computes(make_config, bpe, policy, said):
  config = make_config(
    model__num_layers=4,
    drop__policy=policy,
    drop__first_layer=1,
    drop__last_layer=2,
  )
  named = '' if policy == 'none' else f' (policy `{policy}`). {ENCODER}'
  assert about(config, bpe) == f'While it was trained, {said}{named or "."}'


def test_one_layer_that_drops_is_named_alone(make_config, bpe):
  config = make_config(drop__policy='random', drop__keep=20)
  assert 'layer 1 computed 20 of 32 tokens' in about(config, bpe)


def test_tokens_that_stand_for_others_are_counted(make_config, bpe):
  config = make_config(
    drop__policy='random', drop__pool='mean', drop__clusters=3
  )
  said = 'layer 1 computed 16 of 32 tokens of a row and 3 that stood for others'
  assert said in about(config, bpe)


def test_each_stage_is_told_up_to_the_checkpoint(make_config, bpe):
  config = make_config(
    drop__policy='none',
    drop__stages='10% policy=random; 40% policy=random keep=24; rest',
  )
  first = 'In steps 1 to 10, layer 1 computed 16 of 32 tokens of a row'
  second = 'In steps 11 to 50, layer 1 computed 24 of 32 tokens of a row'
  policy = '(policy `random`).'
  assert about(config, bpe) == (
    f'{first} {policy} {second} {policy} In steps 51 to 100, {FULL}. {ENCODER}'
  )
  second = second.replace('50', '30')
  assert about(config, bpe, step=30) == (
    f'{first} {policy} {second} {policy} {ENCODER}'
  )


def test_the_mask_rates_of_all_stages_are_told(make_config, bpe):
  config = make_config(
    drop__stages='20% mask_rate=0.3; 30% keep=0.75 mask_rate=0.3; rest'
  )
  run = card.Run(config=config, step=100, eval_loss=None, summary=None)
  text = card.write(run, config.model, bpe, num_params=9)
  assert '| masked | 30%, then 15% of the tokens |' in text
