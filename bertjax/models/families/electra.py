"""ELECTRA (Clark et al., ICLR 2020), discriminators and generators.

Embeddings may be smaller than hidden states: a dense layer follows them. SMART perturbs them before that layer and
before dropout, right after their LayerNorm as in BERT. The dense layer of sentence heads, with gelu, is our pooler.
"""

import dataclasses
from typing import ClassVar

from bertjax.models.config import BertConfig
from bertjax.models.families.family import BERT_MODULES, Family


@dataclasses.dataclass(frozen=True)
class ElectraConfig(BertConfig):
    """ELECTRA's architecture; see `BertConfig`."""

    embedding_size: int = 128
    intermediate_size: int = 1024

    model_type: ClassVar[str] = "electra"
    title: ClassVar[str] = "ELECTRA"
    has_pooler_dropout: ClassVar[bool] = True

    @property
    def pooler_act(self) -> str:  # noqa: D102
        return "gelu"

    @property
    def mlm_act(self) -> str:  # noqa: D102
        return "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.embedding_size <= 2**16:
            raise self._error("embedding_size", f"must be from 1 to {2**16:,}")


ELECTRA = Family(
    config=ElectraConfig,
    class_name="Electra",
    tokenizer="BertTokenizer",
    prefix="electra.",
    modules={**BERT_MODULES, "projection": "embeddings_project"},
    pooler=None,
    classifier={"pooler": "classifier.dense", "classifier": "classifier.out_proj"},
    mlm={"mlm/transform": "generator_predictions.dense", "mlm/norm": "generator_predictions.LayerNorm"},
    mlm_bias="generator_lm_head.bias",
    mlm_decoder="generator_lm_head",
)
