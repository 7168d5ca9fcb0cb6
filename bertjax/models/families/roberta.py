"""RoBERTa (Liu et al., 2019) and what was trained like it: XLM-RoBERTa and CamemBERT.

Positions are counted over real tokens, from the id of padding + 1. The sentence head has its own dense layer, which is
our pooler.
"""

import dataclasses
from typing import ClassVar

from bertjax.models.config import BertConfig
from bertjax.models.families.family import BERT_MODULES, Family


@dataclasses.dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """RoBERTa's architecture; see `BertConfig`."""

    pad_token_id: int = 1

    model_type: ClassVar[str] = "roberta"
    title: ClassVar[str] = "RoBERTa"
    has_pooler_dropout: ClassVar[bool] = True

    @property
    def position_padding_id(self) -> int | None:  # noqa: D102
        return self.pad_token_id

    @property
    def mlm_act(self) -> str:  # noqa: D102
        return "gelu"


@dataclasses.dataclass(frozen=True)
class XlmRobertaConfig(RobertaConfig):
    """XLM-RoBERTa's architecture."""

    model_type: ClassVar[str] = "xlm-roberta"
    title: ClassVar[str] = "XLM-RoBERTa"


@dataclasses.dataclass(frozen=True)
class CamembertConfig(RobertaConfig):
    """CamemBERT's architecture."""

    model_type: ClassVar[str] = "camembert"
    title: ClassVar[str] = "CamemBERT"


ROBERTA = Family(
    config=RobertaConfig,
    class_name="Roberta",
    tokenizer="RobertaTokenizer",
    prefix="roberta.",
    modules=BERT_MODULES,
    pooler="pooler.dense",
    classifier={"pooler": "classifier.dense", "classifier": "classifier.out_proj"},
    mlm={"mlm/transform": "lm_head.dense", "mlm/norm": "lm_head.layer_norm"},
    mlm_bias="lm_head.bias",
    mlm_decoder="lm_head.decoder",
)
XLM_ROBERTA = dataclasses.replace(
    ROBERTA, config=XlmRobertaConfig, class_name="XLMRoberta", tokenizer="XLMRobertaTokenizer"
)
CAMEMBERT = dataclasses.replace(ROBERTA, config=CamembertConfig, class_name="Camembert", tokenizer="CamembertTokenizer")
