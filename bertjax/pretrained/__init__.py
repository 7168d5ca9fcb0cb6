"""Reads and writes BERT checkpoints in all common formats; a missing or surplus tensor is an error."""

from bertjax.pretrained.encoder_files import copy_encoder_files, encoder_files, read_model_config
from bertjax.pretrained.head_metadata import classifier_problem_type, head_class_names, head_label_scales
from bertjax.pretrained.heads import matching_heads, standardize_heads, with_heads
from bertjax.pretrained.lineage import read_lineage
from bertjax.pretrained.load import check_head_alone, load_pretrained
from bertjax.pretrained.param_names import tensor_names, tensor_shapes
from bertjax.pretrained.source import STARTER, is_sentence_encoder, resolve_checkpoint
from bertjax.pretrained.tokenizer import load_tokenizer

__all__ = [
    "STARTER",
    "check_head_alone",
    "classifier_problem_type",
    "copy_encoder_files",
    "encoder_files",
    "head_class_names",
    "head_label_scales",
    "is_sentence_encoder",
    "load_pretrained",
    "load_tokenizer",
    "matching_heads",
    "read_lineage",
    "read_model_config",
    "resolve_checkpoint",
    "standardize_heads",
    "tensor_names",
    "tensor_shapes",
    "with_heads",
]
