"""An encoder's architecture, read from Hugging Face's `config.json` and checked."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType, UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp

from bertjax.errors import UserError, shown
from bertjax.models.other_families import other_family


def gelu(x: jax.Array) -> jax.Array:
    """x Φ(x), with the normal distribution's Φ (Hendrycks and Gimpel, 2016)."""
    if x.dtype != jnp.float32:  # 1 + erf needs more precision than bfloat16 has
        return jax.nn.gelu(x, approximate=False)
    # JAX uses erfc, with branches for its tails: 3% of an update on a CPU.
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


_gelu_tanh = partial(jax.nn.gelu, approximate=True)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python_tanh": _gelu_tanh,
    "gelu_accurate": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""By Transformers' names; some differ only in how PyTorch computes them."""
_BERT_CLASS = re.compile(r"(TF|Flax)?Bert(?!Generation)(?![a-z])\w*")
_OTHER_FRAMEWORK = re.compile("^(TF|Flax)(?=Bert|Roberta|XLMRoberta|Camembert|Electra|DistilBert|MPNet|DebertaV2)")
_MAX_SIZES = {
    "vocab_size": 2**24,
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**10,
    "intermediate_size": 2**18,
    "max_position_embeddings": 2**20,
    "type_vocab_size": 2**10,
}
"""Maximum of each size, at least ten times that of any published model."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """An encoder's architecture, under the names of Hugging Face's `config.json`.

    BERT's relatives are subclasses. They state in class variables and properties what they compute
    differently; the module reads these and knows no families.

    Attributes:
      model_type: The family's name in `config.json`.
      title: The family's name in messages.
      keys: Names in `config.json` of the fields that it names differently.
      has_aliases: Whether Transformers reads BERT's names of these, too.
      fixed: Fields that `config.json` does not state.
      optional_sizes: Sizes that may be 0.
      has_pooler_dropout: Whether there is dropout before the pooler, too.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None

    model_type: ClassVar[str] = "bert"
    title: ClassVar[str] = "BERT"
    keys: ClassVar[Mapping[str, str]] = MappingProxyType({})
    fixed: ClassVar[frozenset[str]] = frozenset()
    has_aliases: ClassVar[bool] = True
    optional_sizes: ClassVar[frozenset[str]] = frozenset()
    has_pooler_dropout: ClassVar[bool] = False

    @property
    def pooler_act(self) -> str:
        """Activation of the pooler."""
        return "tanh"

    @property
    def pools_mean(self) -> bool:
        """Whether the pooler reads the mean over the tokens; if not, it reads the first."""
        return False

    @property
    def embedding_size(self) -> int:
        """Size of the embeddings, [..., S, E]; if it is not the hidden size, a dense layer follows them."""
        return self.hidden_size

    @property
    def position_padding_id(self) -> int | None:
        """The token id that positions do not count; they start above it. None for positions from 0 over all tokens."""
        return None

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of an input."""
        unused = 0 if self.position_padding_id is None else self.position_padding_id + 1
        return self.max_position_embeddings - unused

    @property
    def num_relative_buckets(self) -> int:
        """Rows of the table of relative position biases that all layers share; 0 for none."""
        return 0

    @property
    def mlm_act(self) -> str:
        """Activation of the masked-language-modelling head."""
        return self.hidden_act

    @property
    def attention_output_dropout_prob(self) -> float:
        """Rate of the dropout after a layer's attention."""
        return self.hidden_dropout_prob

    @property
    def classifier_dropout_prob(self) -> float:
        """Rate of the dropout before a sentence head's last layer: `classifier_dropout`, if it is stated."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def pooler_dropout_prob(self) -> float:
        """Rate of the dropout before the pooler, if it has any."""
        return self.classifier_dropout_prob

    def __post_init__(self) -> None:
        self._check_types()
        for name, maximum in _MAX_SIZES.items():
            if name in self.fixed:
                continue
            minimum = 0 if name in self.optional_sizes else 1
            if not minimum <= getattr(self, name) <= maximum:
                raise self._error(name, f"must be from {minimum} to {maximum:,}")
        for field in dataclasses.fields(self):
            if "dropout" in field.name and not 0 <= (getattr(self, field.name) or 0) < 1:
                raise self._error(field.name, "must be in [0, 1)")
        for name in ("initializer_range", "layer_norm_eps"):
            if not 0 <= getattr(self, name) <= 1000:
                raise self._error(name, "must be in [0, 1000]")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise self._error("pad_token_id", "must be below vocab_size and not negative")
        if self.max_length < 1:
            raise self._error(
                "max_position_embeddings", f"must be above {self.max_position_embeddings - self.max_length}"
            )
        if self.hidden_size % self.num_attention_heads:
            key, heads = (self.keys.get(name, name) for name in ("hidden_size", "num_attention_heads"))
            raise UserError(
                f"{self.title} config: {key} {self.hidden_size} is not a multiple of {heads} {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise self._error("hidden_act", f"must be one of {', '.join(ACTIVATIONS)}", limit=80)

    def _check_types(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            kinds = [get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
            if type(value) not in kinds and not (float in kinds and type(value) is int):
                raise self._error(field.name, f"must be {kinds[0].__name__}", limit=80)

    def _error(self, name: str, expected: str, limit: int = 40) -> UserError:
        found = repr(getattr(self, name))[:limit]
        return UserError(f"{self.title} config: {self.keys.get(name, name)} {expected}, found {found}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a parsed `config.json`; keys that do not affect the encoder are ignored.

        Raises:
          UserError: A value has the wrong type or is out of range, a size is missing, or the architecture is another.
        """
        cls._check_family(values)
        known = {}
        for field in dataclasses.fields(cls):
            key = cls.keys.get(field.name, field.name)
            names = [key, field.name] if cls.has_aliases else [key]
            stated = {name: values[name] for name in names if values.get(name) is not None}
            if field.name in cls.fixed or not stated:
                continue
            if len(stated) == 2 and stated[key] != stated[field.name]:
                raise UserError(
                    f"{cls.title} config: {key} is {shown(stated[key])}, {field.name} is {shown(stated[field.name])}; "
                    "they name the same thing; remove the wrong one"
                )
            known[field.name] = next(iter(stated.values()))
        missing = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"} - known.keys()
        if missing:
            names = sorted(cls.keys.get(name, name) for name in missing)
            raise UserError(f"{cls.title} config: {', '.join(names)} missing")
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """The contents of a `config.json` that `from_dict` reads back."""
        fields = [field.name for field in dataclasses.fields(self) if field.name not in self.fixed]
        return {"model_type": self.model_type} | {self.keys.get(name, name): getattr(self, name) for name in fields}

    @classmethod
    def _check_family(cls, values: Mapping[str, Any]) -> None:
        """UserError if a `config.json` asks for a computation that is not this encoder's."""
        config = f"{cls.title} config"
        if values.get("model_type", "bert") != cls.model_type:
            raise UserError(f"{config}: model_type must be '{cls.model_type}', found {values.get('model_type')!r:.80}")
        for name in architecture_names(values):
            if "model_type" not in values and not _BERT_CLASS.fullmatch(name):
                raise UserError(
                    f"BERT config: expected a model_type, or a BERT class as the architecture, found {shown(name)} "
                    'alone; if the model is a BERT, add "model_type": "bert"'
                )
            if (family := other_family(name)) and family != other_family(cls.model_type):
                raise UserError(
                    f"{config}: expected a {cls.title} class as the architecture, found {shown(name)}, of the family "
                    f"{family}; use a {cls.title} checkpoint"
                )
        auto_map = values.get("auto_map") or {}
        if not isinstance(auto_map, dict):
            raise UserError(f"{config}: auto_map must be an object, found {shown(auto_map)}")
        if own_code := sorted(name for name in auto_map if name.startswith(("AutoModel", "AutoConfig"))):
            raise UserError(
                f"{config}: auto_map must not name a model, found {shown(own_code[0])}: the checkpoint brings its own "
                "model code, which is not run; use a checkpoint without model code"
            )
        if values.get("position_embedding_type", "absolute") != "absolute":
            found = f"{values['position_embedding_type']!r:.80}"
            raise UserError(f"{config}: position_embedding_type must be 'absolute', found {found}")
        if values.get("is_decoder"):
            raise UserError(f"{config}: is_decoder must be false: attention here is bidirectional")
        if values.get("add_cross_attention"):
            raise UserError(f"{config}: add_cross_attention must be false: there is no second text to attend to here")
        if values.get("pruned_heads"):
            raise UserError(
                f"{config}: pruned_heads must be empty, found {shown(values['pruned_heads'])}: layers here have all "
                "their attention heads; use the checkpoint from before pruning"
            )


def architecture_names(values: Mapping[str, Any]) -> list[str]:
    """The classes that wrote a checkpoint, by its `config.json`; empty if it names none, UserError if it is broken."""
    names = values.get("architectures")
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"BERT config: architectures must be a list of class names, found {shown(names)}")
    return [_OTHER_FRAMEWORK.sub("", name) for name in names]
