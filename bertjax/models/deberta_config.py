"""DeBERTa-v2's architecture, read from `config.json` and checked."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from bertjax.errors import UserError, shown
from bertjax.models.config import ACTIVATIONS, BertConfig

_POSITION_SCORES = ("c2p", "p2c")
_NORMS = ("none", "layer_norm")


@dataclasses.dataclass(frozen=True)
class DebertaV2Config(BertConfig):
    """DeBERTa-v2's architecture; see `BertConfig`.

    Defaults are those of Transformers, as published files leave many keys out.

    Attributes:
      embedding_size: Size of the tables of embeddings; 0 for the hidden size. A dense layer without bias follows the
        sum of embeddings if it is not the hidden size, and LayerNorm follows that layer.
      relative_attention: Whether attention depends on relative positions.
      pos_att_type: Which scores do: "c2p" of a query with the key's relative position, "p2c" of a key with the
        query's.
      position_buckets: Number of buckets in each direction; below 1 for a row of the table for each distance.
      max_relative_positions: The distance at which buckets, or rows, end; below 1 for `max_position_embeddings`.
      share_att_key: Whether relative positions share the projections of queries and keys.
      norm_rel_ebd: "layer_norm" if the table of relative positions is layer-normalised, else "none".
      position_biased_input: Whether absolute positions are added to the word embeddings.
      conv_kernel_size: Width of the convolution beside the first layer; 0 for none.
      conv_groups: Number of groups of its channels.
      conv_act: Its activation.
      pooler_dropout: Rate of the dropout before the pooler.
      pooler_hidden_act: Activation of the pooler.
      cls_dropout: Rate of the dropout before a sentence head's last layer; None for `hidden_dropout_prob`.
      legacy: Whether the masked-language-modelling head is named as in BERT.
    """

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    embedding_size: int = 0
    relative_attention: bool = False
    pos_att_type: tuple[str, ...] = ()
    position_buckets: int = -1
    max_relative_positions: int = -1
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    position_biased_input: bool = True
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    cls_dropout: float | None = None
    legacy: bool = True

    model_type: ClassVar[str] = "deberta-v2"
    title: ClassVar[str] = "DeBERTa-v2"
    fixed: ClassVar[frozenset[str]] = frozenset({"classifier_dropout"})  # `cls_dropout` is its name
    optional_sizes: ClassVar[frozenset[str]] = frozenset({"type_vocab_size"})
    has_pooler_dropout: ClassVar[bool] = True

    @property
    def pooler_act(self) -> str:  # noqa: D102
        return self.pooler_hidden_act

    @property
    def classifier_dropout_prob(self) -> float:  # noqa: D102
        return self.hidden_dropout_prob if self.cls_dropout is None else self.cls_dropout

    @property
    def pooler_dropout_prob(self) -> float:  # noqa: D102
        return self.pooler_dropout

    @property
    def max_distance(self) -> int:
        """The distance at which buckets, or rows of the table, end."""
        return self.max_position_embeddings if self.max_relative_positions < 1 else self.max_relative_positions

    @property
    def position_span(self) -> int:
        """Half the number of rows in the table of relative positions."""
        return self.max_distance if self.position_buckets < 1 else self.position_buckets

    def __post_init__(self) -> None:
        if self.embedding_size == 0:
            object.__setattr__(self, "embedding_size", self.hidden_size)
        super().__post_init__()
        for name, minimum, maximum in (
            ("embedding_size", 1, 2**16),
            ("position_buckets", -(2**20), 2**20),
            ("max_relative_positions", -(2**20), 2**20),
            ("conv_kernel_size", 0, 2**10),
            ("conv_groups", 1, 2**16),
        ):
            if not minimum <= getattr(self, name) <= maximum:
                raise self._error(name, f"must be from {minimum:,} to {maximum:,}")
        for name, known in (
            ("norm_rel_ebd", _NORMS),
            ("conv_act", ACTIVATIONS),
            ("pooler_hidden_act", ACTIVATIONS),
        ):
            if getattr(self, name) not in known:
                raise self._error(name, f"must be one of {', '.join(known)}", limit=80)
        if not set(self.pos_att_type) <= set(_POSITION_SCORES):
            raise self._error("pos_att_type", f"must be of {' and '.join(_POSITION_SCORES)}", limit=80)
        # Otherwise the logarithm has no buckets to fill.
        limit = 2 * self.max_distance - 3
        if self.relative_attention and self.position_buckets > 0 and not 2 <= self.position_buckets <= limit:
            raise self._error("position_buckets", f"must be from 2 to {limit:,} for {self.max_distance:,} positions")
        if self.conv_kernel_size > 0 and self.conv_kernel_size % 2 == 0:
            raise self._error("conv_kernel_size", "must be odd, or 0 for no convolution")
        if self.conv_kernel_size and self.hidden_size % self.conv_groups:
            raise self._error("conv_groups", f"must divide hidden_size {self.hidden_size}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:  # noqa: D102
        hidden_size = values.get("hidden_size")
        for name, expected in (
            ("pooler_hidden_size", hidden_size),
            ("attention_head_size", _quotient(hidden_size, values.get("num_attention_heads"))),
        ):
            if values.get(name) is not None and values[name] != expected:
                raise UserError(
                    f"{cls.title} config: {name} must be {expected}, as hidden_size and num_attention_heads say, found "
                    f"{shown(values[name])}; other sizes are not computed"
                )
        if values.get("embedding_size") == 0:
            raise UserError(f"{cls.title} config: embedding_size must be from 1 to {2**16:,}, found 0")
        changed = dict(values)
        if (types := values.get("pos_att_type")) is not None:
            changed["pos_att_type"] = _position_scores(types)
        if isinstance(norm := values.get("norm_rel_ebd"), str):
            changed["norm_rel_ebd"] = norm.strip().lower()
        return super().from_dict(changed)

    def to_dict(self) -> dict[str, Any]:  # noqa: D102
        return super().to_dict() | {"pos_att_type": list(self.pos_att_type)}


def _quotient(size: Any, parts: Any) -> Any:
    return size // parts if isinstance(size, int) and isinstance(parts, int) and parts > 0 else None


def _position_scores(types: Any) -> tuple[str, ...]:
    """The list of `pos_att_type`, which older files write as "c2p|p2c"; UserError if it is neither."""
    if isinstance(types, str):
        return tuple(each for part in types.lower().split("|") if (each := part.strip()))
    if isinstance(types, list) and all(isinstance(each, str) for each in types):
        return tuple(types)
    raise UserError(
        f'{DebertaV2Config.title} config: pos_att_type must be a list, or a string such as "c2p|p2c", found '
        f"{shown(types)}"
    )
