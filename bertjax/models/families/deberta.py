"""DeBERTa-v2 and -v3 (He et al., ICLR 2021 and 2023), and mDeBERTa: disentangled attention to relative positions.

Checkpoints of DeBERTa v1 have other tensors and another attention, and are refused.
"""

import dataclasses

from bertjax.models.config import BertConfig
from bertjax.models.deberta import Deberta
from bertjax.models.deberta_config import DebertaV2Config
from bertjax.models.families.family import BERT_MODULES, LAYER, Family


class _DebertaFamily(Family):
    """DeBERTa's: its two masked-language-modelling heads compute the same under different names."""

    def for_config(self, config: BertConfig) -> Family:
        """The names of the head that `legacy` selects."""
        if not isinstance(config, DebertaV2Config) or config.legacy:
            return self
        head = "lm_predictions.lm_head"
        return dataclasses.replace(
            self,
            mlm={"mlm/transform": f"{head}.dense", "mlm/norm": f"{head}.LayerNorm"},
            mlm_bias=f"{head}.bias",
            mlm_decoder=None,
        )


DEBERTA_V2 = _DebertaFamily(
    config=DebertaV2Config,
    class_name="DebertaV2",
    tokenizer="DebertaV2Tokenizer",
    prefix="deberta.",
    modules={
        **BERT_MODULES,
        "embeddings/projection": "embeddings.embed_proj",
        "layer/query": f"{LAYER}attention.self.query_proj",
        "layer/key": f"{LAYER}attention.self.key_proj",
        "layer/value": f"{LAYER}attention.self.value_proj",
        "layer/position_key": f"{LAYER}attention.self.pos_key_proj",
        "layer/position_query": f"{LAYER}attention.self.pos_query_proj",
        "relative_positions/table": "encoder.rel_embeddings",
        "relative_positions/norm": "encoder.LayerNorm",
        "convolution/filter": "encoder.conv.conv",
        "convolution/norm": "encoder.conv.LayerNorm",
    },
    pooler=None,
    classifier={"pooler": "pooler.dense", "classifier": "classifier"},
    mlm={"mlm/transform": "cls.predictions.transform.dense", "mlm/norm": "cls.predictions.transform.LayerNorm"},
    mlm_bias="cls.predictions.bias",
    mlm_decoder="cls.predictions.decoder",
    unused=("embeddings.position_embeddings.weight",),
    module=Deberta,
)
