"""A checkpoint's tokenizer: what its files declare together, built as Transformers builds it, and written again."""

from bertjax.pretrained.tokenizer.reading import (
    CheckpointTokenizer,
    check_tokenizer_fits,
    load_tokenizer,
    read_tokenizer,
)

__all__ = ["CheckpointTokenizer", "check_tokenizer_fits", "load_tokenizer", "read_tokenizer"]
