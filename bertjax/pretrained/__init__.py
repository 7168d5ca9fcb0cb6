"""Everybody's BERT checkpoints, in and out, strictly: every tensor is accounted for, or it is an error."""

from bertjax.pretrained.load import load_pretrained, with_heads
from bertjax.pretrained.names import tensor_names, tensor_shapes
from bertjax.pretrained.source import STARTER, head_labels, keep_encoder, lineage, read_config, resolve

__all__ = [
    "STARTER",
    "head_labels",
    "keep_encoder",
    "lineage",
    "load_pretrained",
    "read_config",
    "resolve",
    "tensor_names",
    "tensor_shapes",
    "with_heads",
]
