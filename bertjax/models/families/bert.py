"""BERT (Devlin et al., NAACL 2019)."""

from bertjax.models.config import BertConfig
from bertjax.models.families.family import BERT_MODULES, Family

BERT = Family(
    config=BertConfig,
    class_name="Bert",
    tokenizer="BertTokenizer",
    prefix="bert.",
    modules=BERT_MODULES,
    pooler="pooler.dense",
    classifier={"classifier": "classifier"},
    mlm={"mlm/transform": "cls.predictions.transform.dense", "mlm/norm": "cls.predictions.transform.LayerNorm"},
    mlm_bias="cls.predictions.bias",
    mlm_decoder="cls.predictions.decoder",
    nsp="cls.seq_relationship",
)
