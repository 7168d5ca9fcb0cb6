"""MPNet (Song et al., NeurIPS 2020): RoBERTa's positions and head, no token types, and relative position biases.

All layers share one table of biases.
"""

import dataclasses
from typing import ClassVar

from bertjax.models.config import BertConfig
from bertjax.models.families.family import BERT_MODULES, LAYER
from bertjax.models.families.roberta import ROBERTA

_PADDING, _BUCKETS = 1, 32


@dataclasses.dataclass(frozen=True)
class MPNetConfig(BertConfig):
    """MPNet's architecture; see `BertConfig`."""

    type_vocab_size: int = 0
    pad_token_id: int = _PADDING
    relative_attention_num_buckets: int = _BUCKETS

    model_type: ClassVar[str] = "mpnet"
    title: ClassVar[str] = "MPNet"
    fixed: ClassVar[frozenset[str]] = frozenset({"type_vocab_size", "classifier_dropout"})
    has_pooler_dropout: ClassVar[bool] = True

    @property
    def position_padding_id(self) -> int | None:  # noqa: D102
        return _PADDING

    @property
    def num_relative_buckets(self) -> int:  # noqa: D102
        return self.relative_attention_num_buckets

    @property
    def mlm_act(self) -> str:  # noqa: D102
        return "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        # Transformers computes these two whatever config.json says.
        if self.pad_token_id != _PADDING:
            raise self._error("pad_token_id", f"must be {_PADDING}")
        if self.relative_attention_num_buckets != _BUCKETS:
            raise self._error("relative_attention_num_buckets", f"must be {_BUCKETS}")


MPNET = dataclasses.replace(
    ROBERTA,
    config=MPNetConfig,
    class_name="MPNet",
    tokenizer="MPNetTokenizer",
    prefix="mpnet.",
    modules={
        **BERT_MODULES,
        "relative_bias": "encoder.relative_attention_bias",
        "layer/query": f"{LAYER}attention.attn.q",
        "layer/key": f"{LAYER}attention.attn.k",
        "layer/value": f"{LAYER}attention.attn.v",
        "layer/attention_output": f"{LAYER}attention.attn.o",
        "layer/attention_norm": f"{LAYER}attention.LayerNorm",
    },
)
