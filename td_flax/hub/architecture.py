"""`config.json` and our `model` section.

Two of transformers' architectures compute what our encoder computes: post-LN is
`bert` (Devlin et al. 2019), pre-LN is `megatron-bert` (Shoeybi et al. 2019).
"""

import json
import pathlib
from typing import Any, NamedTuple

from td_flax import errors
from td_flax.config import ModelConfig
from td_flax.data.vocabulary import SpecialIds
from td_flax.model.task_model import FIRST, SPAN, TOKENS, Output

FILE = 'config.json'
_TYPES = {'post': 'bert', 'pre': 'megatron-bert'}
_CLASSES = {'post': 'BertFor', 'pre': 'MegatronBertFor'}
_HEADS = {
  FIRST: 'SequenceClassification',
  TOKENS: 'TokenClassification',
  SPAN: 'QuestionAnswering',
}
_NORMS = {name: norm for norm, name in _TYPES.items()}
_ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_python': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu_fast': 'gelu_tanh',
}
_WRITTEN = {'gelu': 'gelu', 'gelu_tanh': 'gelu_pytorch_tanh'}
_SIZES = {
  'num_layers': 'num_hidden_layers',
  'hidden_dim': 'hidden_size',
  'num_heads': 'num_attention_heads',
  'mlp_dim': 'intermediate_size',
  'max_positions': 'max_position_embeddings',
  'type_vocab_size': 'type_vocab_size',
}
_RATES = {
  'dropout': 'hidden_dropout_prob',
  'attention_dropout': 'attention_probs_dropout_prob',
  'norm_eps': 'layer_norm_eps',
  'init_stddev': 'initializer_range',
}
# What is left out of a config.json has transformers' default.
_DEFAULTS = {
  'num_hidden_layers': 12,
  'hidden_size': 768,
  'num_attention_heads': 12,
  'intermediate_size': 3072,
  'max_position_embeddings': 512,
  'type_vocab_size': 2,
  'vocab_size': 30_522,
  'hidden_act': 'gelu',
  'hidden_dropout_prob': 0.1,
  'attention_probs_dropout_prob': 0.1,
  'layer_norm_eps': 1e-12,
  'initializer_range': 0.02,
}
_DEFAULTS_OF_PRE = {
  'num_hidden_layers': 24,
  'hidden_size': 1024,
  'num_attention_heads': 16,
  'intermediate_size': 4096,
  'vocab_size': 29_056,
}
# What weights depend on, of what `read` returns.
FIXED = frozenset({*_SIZES, 'norm', 'activation', 'norm_eps'})


class Head(NamedTuple):
  """The head of a fine-tuned model.

  Attributes:
    output: what it reads and says.
    labels: what its classes are called, if it has any.
  """

  output: Output
  labels: tuple[str, ...] = ()

  def describe(self) -> dict[str, Any]:
    """What `config.json` says of it, but for the architecture."""
    if self.output.reads == SPAN:
      return {}
    labels = self.labels or ('LABEL_0',)  # a number's name in transformers
    content = {
      'id2label': dict(enumerate(labels)),
      'label2id': {label: i for i, label in enumerate(labels)},
    }
    if self.output.reads == FIRST:
      kinds = 'single_label_classification', 'regression'
      content['problem_type'] = kinds[self.output.is_regression]
    return content


def is_folder(path: pathlib.Path) -> bool:
  """Whether `path` is, or seems to be half of, a folder of transformers."""
  if (path / 'checkpoints').is_dir():
    return False
  try:
    saved = json.loads((path / FILE).read_bytes())
  except OSError:
    return any(path.glob('*.safetensors')) or any(path.glob('pytorch_model*'))
  except ValueError:
    return True
  return not (isinstance(saved, dict) and 'fingerprints' in saved)


def read(folder: pathlib.Path) -> dict[str, Any]:
  """The keys of the `model` section that a `config.json` decides.

  Raises:
    errors.CheckpointError: there is none, it is damaged, or the architecture
      is not BERT's.
  """
  path = folder / FILE
  try:
    saved = json.loads(path.read_bytes())
    kind = _kind(saved)
    saved = _completed(saved)
    model = {ours: int(saved[theirs]) for ours, theirs in _SIZES.items()}
    model |= {ours: float(saved[theirs]) for ours, theirs in _RATES.items()}
  except OSError as error:
    raise errors.CheckpointError(f'{path}: {error.strerror}') from error
  except (ValueError, TypeError, AttributeError, OverflowError) as error:
    raise errors.CheckpointError(
      f'{path}: must be the config.json of a model ({error})'
    ) from error

  def require(holds: bool, key: str, valid: str) -> None:
    if not holds:
      raise errors.CheckpointError(
        f'{path}: {key}={saved.get(key)!r}: must be {valid}'
      )

  types, activations = ', '.join(_NORMS), ', '.join(_ACTIVATIONS)
  # Of what JSON holds, some has no hash.
  require(kind in [*_NORMS], 'model_type', f'one of {types}')
  require(
    saved['hidden_act'] in [*_ACTIVATIONS],
    'hidden_act',
    f'one of {activations}',
  )
  require(
    saved.get('position_embedding_type', 'absolute') == 'absolute',
    'position_embedding_type',
    'absolute',
  )
  require(
    model['num_heads'] > 0 and model['hidden_dim'] % model['num_heads'] == 0,
    'num_attention_heads',
    f'a divisor of hidden_size={model["hidden_dim"]}',
  )
  require(not saved.get('is_decoder'), 'is_decoder', 'false')
  return model | {
    'norm': _NORMS[kind],
    'activation': _ACTIVATIONS[saved['hidden_act']],
  }


def _kind(saved: dict[str, Any]) -> Any:
  """The `model_type`; the first folders of BERT name none."""
  names = saved.get('architectures') or ['BertModel']
  is_bert = isinstance(names, list) and str(names[0]).startswith(
    ('BertFor', 'BertModel')
  )
  return saved.get('model_type', 'bert' if is_bert else None)


def _completed(saved: dict[str, Any]) -> dict[str, Any]:
  """`saved`, and the defaults of what it leaves out."""
  is_pre = _kind(saved) == _TYPES['pre']
  return _DEFAULTS | (_DEFAULTS_OF_PRE if is_pre else {}) | saved


def vocab_size(folder: pathlib.Path) -> int:
  """The rows of the word embedding that a `config.json` names.

  Raises:
    errors.CheckpointError: there is none, or it is damaged.
  """
  path = folder / FILE
  try:
    return int(_completed(json.loads(path.read_bytes()))['vocab_size'])
  except (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
  ) as error:
    raise errors.CheckpointError(
      f'{path}: vocab_size: must be a whole number ({error})'
    ) from error


def describe(
  model: ModelConfig,
  vocab_size: int,
  special: SpecialIds,
  head: Head | None = None,
) -> dict[str, Any]:
  """The content of `config.json`.

  Args:
    model: the `model` section.
    vocab_size: rows of the word embedding that is written.
    special: the tokenizer's special ids.
    head: of a fine-tuned model; None is the masked-LM head.
  """
  kind = _HEADS[head.output.reads] if head else 'MaskedLM'
  return {
    'architectures': [f'{_CLASSES[model.norm]}{kind}'],
    'model_type': _TYPES[model.norm],
    'vocab_size': vocab_size,
    **{theirs: getattr(model, ours) for ours, theirs in _SIZES.items()},
    **{theirs: getattr(model, ours) for ours, theirs in _RATES.items()},
    'hidden_act': _WRITTEN[model.activation],
    'position_embedding_type': 'absolute',
    'pad_token_id': special.pad,
    'tie_word_embeddings': True,
    'dtype': 'float32',
    **(head.describe() if head else {}),
  }
