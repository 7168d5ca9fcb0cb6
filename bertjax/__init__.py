"""A pure-functional Flax BERT, fine-tuned with SMART."""

from bertjax import smart
from bertjax.bert_config import BertConfig
from bertjax.model import Bert, encode
from bertjax.pretrained import load_pretrained

__all__ = ["Bert", "BertConfig", "encode", "load_pretrained", "smart"]
