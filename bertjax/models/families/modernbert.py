"""ModernBERT (Warner et al., 2024). Its sentence head and its MLM head share names; `architectures` says which it is.

The dense layer and the LayerNorm of the sentence head are our pooler.
"""

from bertjax.models.families.family import Family
from bertjax.models.modernbert import ModernBert
from bertjax.models.modernbert_config import ModernBertConfig

_LAYER = "layers.{}."

MODERNBERT = Family(
    config=ModernBertConfig,
    class_name="ModernBert",
    tokenizer="PreTrainedTokenizer",
    prefix="model.",
    modules={
        "embeddings/word": "embeddings.tok_embeddings",
        "embeddings/norm": "embeddings.norm",
        "layer/attention_norm": f"{_LAYER}attn_norm",
        "layer/qkv": f"{_LAYER}attn.Wqkv",
        "layer/attention_output": f"{_LAYER}attn.Wo",
        "layer/mlp_norm": f"{_LAYER}mlp_norm",
        "layer/intermediate": f"{_LAYER}mlp.Wi",
        "layer/output": f"{_LAYER}mlp.Wo",
        "final_norm": "final_norm",
    },
    pooler=None,
    classifier={"pooler/dense": "head.dense", "pooler/norm": "head.norm", "classifier": "classifier"},
    mlm={"mlm/transform": "head.dense", "mlm/norm": "head.norm"},
    mlm_bias="decoder.bias",
    mlm_decoder="decoder",
    module=ModernBert,
)
