"""BERT's architecture, read from Hugging Face's `config.json` and checked."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp

from bertjax.errors import UserError, shown
from bertjax.models.families import other_family


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
    """An encoder's architecture, under the names of Hugging Face's `config.json`."""

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

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise UserError(f"BERT config: {name} must be {kind.__name__}, found {value!r:.80}")
        for name, maximum in _MAX_SIZES.items():
            if not 1 <= getattr(self, name) <= maximum:
                raise UserError(f"BERT config: {name} must be from 1 to {maximum:,}, found {getattr(self, name)!r:.40}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"BERT config: {name} must be in [0, 1), found {getattr(self, name)!r:.40}")
        for name in ("initializer_range", "layer_norm_eps"):
            if not 0 <= getattr(self, name) <= 1000:
                raise UserError(f"BERT config: {name} must be in [0, 1000], found {getattr(self, name)!r:.40}")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise UserError(
                f"BERT config: pad_token_id must be below vocab_size and not negative, found {self.pad_token_id!r:.40}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"BERT config: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(
                f"BERT config: hidden_act must be one of {', '.join(ACTIVATIONS)}, found {self.hidden_act!r:.80}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BertConfig":
        """Reads a parsed `config.json`; keys that do not affect the encoder are ignored.

        Raises:
          UserError: A value has the wrong type or is out of range, a size is missing, or the architecture is not BERT.
        """
        _check_is_bert(values)
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in values.items() if name in names and value is not None}
        missing = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"} - known.keys()
        if missing:
            raise UserError(f"BERT config: {', '.join(sorted(missing))} missing")
        return cls(**known)


def _check_is_bert(values: Mapping[str, Any]) -> None:
    """UserError if a `config.json` asks for a computation that is not a plain BERT encoder's."""
    if values.get("model_type", "bert") != "bert":
        raise UserError(f"BERT config: model_type must be 'bert', found {values['model_type']!r:.80}")
    for name in architecture_names(values):
        if "model_type" not in values and not _BERT_CLASS.fullmatch(name):
            raise UserError(
                f"BERT config: expected a model_type, or a BERT class as the architecture, found {shown(name)} alone; "
                'if the model is a BERT, add "model_type": "bert"'
            )
        if family := other_family(name):
            raise UserError(
                f"BERT config: expected a BERT class as the architecture, found {shown(name)}, of the family {family}; "
                "use a BERT checkpoint"
            )
    auto_map = values.get("auto_map") or {}
    if not isinstance(auto_map, dict):
        raise UserError(f"BERT config: auto_map must be an object, found {shown(auto_map)}")
    if own_code := sorted(name for name in auto_map if name.startswith(("AutoModel", "AutoConfig"))):
        raise UserError(
            f"BERT config: auto_map must not name a model, found {shown(own_code[0])}: the checkpoint brings its own "
            "model code, which is not run; use a checkpoint without model code"
        )
    if values.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"BERT config: position_embedding_type must be 'absolute', found {values['position_embedding_type']!r:.80}"
        )
    if values.get("is_decoder"):
        raise UserError("BERT config: is_decoder must be false: attention here is bidirectional")
    if values.get("add_cross_attention"):
        raise UserError("BERT config: add_cross_attention must be false: there is no second text to attend to here")
    if values.get("pruned_heads"):
        raise UserError(
            f"BERT config: pruned_heads must be empty, found {shown(values['pruned_heads'])}: layers here have all "
            "their attention heads; use the checkpoint from before pruning"
        )


def architecture_names(values: Mapping[str, Any]) -> list[str]:
    """The classes that wrote a checkpoint, by its `config.json`; empty if it names none, UserError if it is broken."""
    names = values.get("architectures")
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"BERT config: architectures must be a list of class names, found {shown(names)}")
    return [re.sub("^(TF|Flax)(?=Bert)", "", name) for name in names]
