"""DistilBERT (Sanh et al., 2019): BERT without token types, under other names.

There is no dropout after attention. The sentence head has a dense layer with relu, which is our pooler.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from bertjax.models.config import BertConfig
from bertjax.models.families.family import BERT_MODULES, Family

_LAYER = "transformer.layer.{}."


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(BertConfig):
    """DistilBERT's architecture; see `BertConfig`."""

    type_vocab_size: int = 0
    classifier_dropout: float = 0.2

    model_type: ClassVar[str] = "distilbert"
    title: ClassVar[str] = "DistilBERT"
    keys: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "classifier_dropout": "seq_classif_dropout",
        }
    )
    fixed: ClassVar[frozenset[str]] = frozenset({"type_vocab_size", "layer_norm_eps"})

    @property
    def pooler_act(self) -> str:  # noqa: D102
        return "relu"

    @property
    def attention_output_dropout_prob(self) -> float:  # noqa: D102
        return 0.0

    @property
    def classifier_dropout_prob(self) -> float:  # noqa: D102
        return self.classifier_dropout


DISTILBERT = Family(
    config=DistilBertConfig,
    class_name="DistilBert",
    tokenizer="BertTokenizer",
    prefix="distilbert.",
    modules={
        **{ours: theirs for ours, theirs in BERT_MODULES.items() if ours.startswith("embeddings/")},
        "layer/query": f"{_LAYER}attention.q_lin",
        "layer/key": f"{_LAYER}attention.k_lin",
        "layer/value": f"{_LAYER}attention.v_lin",
        "layer/attention_output": f"{_LAYER}attention.out_lin",
        "layer/attention_norm": f"{_LAYER}sa_layer_norm",
        "layer/intermediate": f"{_LAYER}ffn.lin1",
        "layer/output": f"{_LAYER}ffn.lin2",
        "layer/output_norm": f"{_LAYER}output_layer_norm",
    },
    pooler=None,
    classifier={"pooler": "pre_classifier", "classifier": "classifier"},
    mlm={"mlm/transform": "vocab_transform", "mlm/norm": "vocab_layer_norm"},
    mlm_bias="vocab_projector.bias",
    mlm_decoder="vocab_projector",
)
