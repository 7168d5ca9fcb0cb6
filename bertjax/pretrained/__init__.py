"""Everybody's BERT checkpoints, in and out, strictly: every tensor is accounted for, or it is an error."""

from bertjax.pretrained.load import fitting_heads, load_pretrained, standardized_heads, with_heads
from bertjax.pretrained.names import tensor_names, tensor_shapes
from bertjax.pretrained.source import (
    STARTER,
    head_labels,
    head_scales,
    is_sentence_encoder,
    keep_encoder,
    lineage,
    read_config,
    resolve,
    small_files_of,
)

__all__ = [
    "STARTER",
    "fitting_heads",
    "head_labels",
    "head_scales",
    "is_sentence_encoder",
    "keep_encoder",
    "lineage",
    "load_pretrained",
    "read_config",
    "resolve",
    "small_files_of",
    "standardized_heads",
    "tensor_names",
    "tensor_shapes",
    "with_heads",
]
