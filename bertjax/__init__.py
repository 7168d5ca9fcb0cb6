"""A pure-functional Flax BERT, fine-tuned with SMART."""

from bertjax import smart
from bertjax.model import Bert, BertConfig, encode
from bertjax.pretrained import load_pretrained

__all__ = ["Bert", "BertConfig", "encode", "load_pretrained", "smart"]
