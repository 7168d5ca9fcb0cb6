"""ModernBERT's architecture, from the `config.json` of Transformers 4 and 5.

Version 4 states a period of global layers (`global_attn_every_n_layers`) and two bases of rotary positions
(`global_rope_theta`, `local_rope_theta`). Version 5 lists `layer_types` and keeps the bases in `rope_parameters`. Both
forms are read. A file with both must say the same in each, because each version reads only its own.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from bertjax.errors import UserError, shown
from bertjax.models.config import ACTIVATIONS, BertConfig

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_POOLINGS = ("cls", "mean")
_TITLE = "ModernBERT config"


@dataclasses.dataclass(frozen=True)
class ModernBertConfig(BertConfig):
    """ModernBERT's architecture; see `BertConfig`.

    Attributes:
      hidden_dropout_prob: Rate of the dropout after the embeddings.
      attention_probs_dropout_prob: Rate of the dropout on attention weights, and after a layer's attention.
      mlp_dropout: Rate of the dropout on what enters the last dense layer of an MLP.
      global_attn_every_n_layers: Period of the layers that attend to all tokens, from the first layer.
      layer_types: "full_attention" or "sliding_attention" of each layer, if that has no such period; else empty.
      local_attention: Tokens that a local layer's window spans, half of them on each side.
      global_rope_theta: Base of the rotary frequencies of global layers.
      local_rope_theta: The same of local layers.
      classifier_pooling: What a sentence head reads: the state of the first token, "cls", or the "mean" over tokens.
    """

    vocab_size: int = 50368
    num_hidden_layers: int = 22
    intermediate_size: int = 1152
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 8192
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 50283
    mlp_dropout: float = 0.0
    classifier_dropout: float = 0.0
    classifier_activation: str = "gelu"
    classifier_pooling: str = "cls"
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    classifier_bias: bool = False
    decoder_bias: bool = True
    global_attn_every_n_layers: int = 3
    layer_types: tuple[str, ...] = ()
    local_attention: int = 128
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0

    model_type: ClassVar[str] = "modernbert"
    title: ClassVar[str] = "ModernBERT"
    keys: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "hidden_act": "hidden_activation",
            "hidden_dropout_prob": "embedding_dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "layer_norm_eps": "norm_eps",
        }
    )
    fixed: ClassVar[frozenset[str]] = frozenset({"type_vocab_size"})
    has_aliases: ClassVar[bool] = False

    @property
    def are_global(self) -> tuple[bool, ...]:
        """Of each layer, whether it attends to all tokens."""
        if self.layer_types:
            return tuple(kind == _GLOBAL for kind in self.layer_types[: self.num_hidden_layers])
        return tuple(i % self.global_attn_every_n_layers == 0 for i in range(self.num_hidden_layers))

    @property
    def pools_mean(self) -> bool:  # noqa: D102
        return self.classifier_pooling == "mean"

    @property
    def mlm_act(self) -> str:  # noqa: D102
        return self.classifier_activation

    @property
    def classifier_dropout_prob(self) -> float:  # noqa: D102
        return self.classifier_dropout

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier_activation not in ACTIVATIONS:
            raise self._error("classifier_activation", f"must be one of {', '.join(ACTIVATIONS)}", limit=80)
        if self.classifier_pooling not in _POOLINGS:
            raise self._error("classifier_pooling", f"must be one of {', '.join(_POOLINGS)}")
        if self.hidden_size // self.num_attention_heads % 2:
            raise UserError(
                f"{_TITLE}: hidden_size / num_attention_heads must be even for rotary positions, found "
                f"{self.hidden_size} / {self.num_attention_heads}"
            )
        for name in ("global_attn_every_n_layers", "local_attention"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise self._error(name, f"must be from 1 to {2**20:,}")
        for name in ("global_rope_theta", "local_rope_theta"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise self._error(name, "must be above 0 and finite")
        # At least: a copy with fewer layers keeps the list.
        if self.layer_types and len(self.layer_types) < self.num_hidden_layers:
            raise self._error("layer_types", f"must have an entry for each of the {self.num_hidden_layers} layers")
        if unknown := set(self.layer_types) - {_GLOBAL, _LOCAL}:
            raise UserError(f"{_TITLE}: layer_types must be {_GLOBAL} or {_LOCAL}, found {shown(sorted(unknown)[0])}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:  # noqa: D102
        return super().from_dict({**values, **_read_thetas(values), **_read_layer_types(values)})

    def to_dict(self) -> dict[str, Any]:  # noqa: D102
        values = super().to_dict()
        # Without a period there is nothing that Transformers 4 computes: null makes it fail, where 3, its default,
        # would give other hidden states.
        period = None if self.layer_types else self.global_attn_every_n_layers
        return values | {
            "global_attn_every_n_layers": period,
            "layer_types": [_GLOBAL if is_global else _LOCAL for is_global in self.are_global],
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": theta}
                for kind, theta in ((_GLOBAL, self.global_rope_theta), (_LOCAL, self.local_rope_theta))
            },
        }

    @classmethod
    def _check_family(cls, values: Mapping[str, Any]) -> None:
        super()._check_family(values)
        if values.get("tie_word_embeddings") is False:
            raise UserError(f"{_TITLE}: tie_word_embeddings must be true: the decoder here is the word embeddings")
        for name, expected in (("head_dim", _quotient(values)), ("partial_rotary_factor", 1)):
            if expected is not None and values.get(name) not in (None, expected):
                raise UserError(f"{_TITLE}: {name} must be {expected}, found {shown(values[name])}")
        # Transformers 5 takes it for half of local_attention, version 4 ignores it.
        reach = values.get("sliding_window")
        if reach is not None and reach != _half(values.get("local_attention", cls.local_attention)):
            raise UserError(
                f"{_TITLE}: sliding_window must be half of local_attention, found {shown(reach)}; remove it, and state "
                "local_attention"
            )


def _quotient(values: Mapping[str, Any]) -> Any:
    size, heads = values.get("hidden_size"), values.get("num_attention_heads")
    return size // heads if isinstance(size, int) and isinstance(heads, int) and heads > 0 else None


def _half(size: Any) -> Any:
    return size // 2 if isinstance(size, int) else None


def _read_thetas(values: Mapping[str, Any]) -> dict[str, Any]:
    """The bases of both kinds of layers, from `rope_parameters` or `global_rope_theta` and `local_rope_theta`."""
    if _other_keys(scaling := values.get("rope_scaling") or {}):
        raise UserError(f"{_TITLE}: rope_scaling must be of rope_type default, found {shown(scaling)}")
    parameters = values.get("rope_parameters") or {}
    if not isinstance(parameters, dict) or parameters.keys() - {_GLOBAL, _LOCAL}:
        raise UserError(f"{_TITLE}: rope_parameters must have keys {_GLOBAL} and {_LOCAL}, found {shown(parameters)}")
    found: dict[str, Any] = {}
    for kind, name in ((_GLOBAL, "global_rope_theta"), (_LOCAL, "local_rope_theta")):
        own = parameters.get(kind) or {}
        if _other_keys(own, "rope_theta"):
            raise UserError(f"{_TITLE}: rope_parameters.{kind} must be of rope_type default, found {shown(own)}")
        stated = [theta for theta in (own.get("rope_theta"), values.get(name)) if theta is not None]
        if len(stated) == 2 and stated[0] != stated[1]:
            raise UserError(
                f"{_TITLE}: rope_parameters.{kind}.rope_theta is {shown(stated[0])}, {name} {shown(stated[1])}: "
                "Transformers 5 reads the first, version 4 the second; remove the wrong one"
            )
        found |= {name: stated[0]} if stated else {}
    if "local_rope_theta" in values and "local_rope_theta" not in found:  # null
        found["local_rope_theta"] = found.get("global_rope_theta", ModernBertConfig.global_rope_theta)
    return found


def _other_keys(parameters: Any, *known: str) -> bool:
    """Whether rotary parameters ask for anything but the default computation."""
    if not isinstance(parameters, dict):
        return True
    kinds = [parameters.get(name, "default") for name in ("rope_type", "type")]
    return bool(parameters.keys() - {"rope_type", "type", *known}) or kinds != ["default", "default"]


def _read_layer_types(values: Mapping[str, Any]) -> dict[str, Any]:
    """The period of the global layers, or else all layers' types, if they have no period."""
    types, layers = values.get("layer_types"), values.get("num_hidden_layers")
    period = values.get("global_attn_every_n_layers")
    if types is None or not isinstance(layers, int):
        return {"layer_types": None}
    if not isinstance(types, list | tuple) or not all(isinstance(kind, str) for kind in types) or len(types) != layers:
        raise UserError(f"{_TITLE}: layer_types must list one type for each of {layers} layers, found {shown(types)}")
    found = [kind == _GLOBAL for kind in types]
    candidates = [period] if type(period) is int and period >= 1 else range(1, layers + 1)
    periods = [n for n in candidates if found == [i % n == 0 for i in range(layers)]]
    if period is not None and not periods:
        raise UserError(
            f"{_TITLE}: layer_types and global_attn_every_n_layers {shown(period)} differ: Transformers 5 reads the "
            "first, version 4 the second; remove the wrong one"
        )
    if {*types} <= {_GLOBAL, _LOCAL} and periods:
        return {"layer_types": None, "global_attn_every_n_layers": periods[0]}
    return {"layer_types": tuple(types)}
