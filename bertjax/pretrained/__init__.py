"""Everybody's BERT checkpoints, in and out, strictly: every tensor is accounted for, or it is an error."""

from bertjax.pretrained.heads import fitting_heads, standardized_heads, with_heads
from bertjax.pretrained.load import load_pretrained
from bertjax.pretrained.param_names import tensor_names, tensor_shapes
from bertjax.pretrained.source import (
    STARTER,
    encoder_files,
    head_labels,
    head_scales,
    is_sentence_encoder,
    keep_encoder,
    lineage,
    read_model_config,
    resolve,
)
from bertjax.pretrained.tokenizer import load_tokenizer

__all__ = [
    "STARTER",
    "encoder_files",
    "fitting_heads",
    "head_labels",
    "head_scales",
    "is_sentence_encoder",
    "keep_encoder",
    "lineage",
    "load_pretrained",
    "load_tokenizer",
    "read_model_config",
    "resolve",
    "standardized_heads",
    "tensor_names",
    "tensor_shapes",
    "with_heads",
]
