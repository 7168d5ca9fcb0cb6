"""Splits tokenised as a whole, in memory."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bertjax.errors import UserError

# Encodings also hold offsets, words and overflow: those of a whole split would not fit in memory.
_ENCODED_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class TokenizedExamples:
    """A tokenised split, in the order of its source.

    Attributes:
      ids: the examples' ids in their source.
      input_ids: int32 [L] for each example, with its own L, [CLS] and [SEP] included.
      token_type_ids: int32 [L] for each example; 1 in the second text of a pair, its [SEP] included.
      labels: [N], int32, or float32 if the source's labels are floats.
    """

    ids: list[str]
    input_ids: list[np.ndarray]
    token_type_ids: list[np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each example, int64 [N]."""
        return np.array([len(ids) for ids in self.input_ids], np.int64)


def tokenize(source: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, *, max_length: int) -> TokenizedExamples:
    """Tokenises a split.

    Args:
      source: examples with "id", "text" and "label", and "text_pair" for pairs.
      tokenizer: from `load_tokenizer`; unchanged on return.
      max_length: maximum number of tokens, special ones included. The longer text of a pair is truncated first.

    Returns:
      The examples in the order of the source.

    Raises:
      UserError: max_length leaves no room for text.
    """
    if max_length < 3:
        raise UserError(f"--config.max_length: expected at least 3 tokens, found {max_length}")
    ids: list[str] = []
    labels: list[Any] = []
    input_ids: list[np.ndarray] = []
    token_type_ids: list[np.ndarray] = []
    rows = iter(source)
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    try:
        while chunk := list(itertools.islice(rows, _ENCODED_AT_ONCE)):
            texts = [(row["text"], row["text_pair"]) if "text_pair" in row else row["text"] for row in chunk]
            for row, encoding in zip(chunk, tokenizer.encode_batch(texts), strict=True):
                ids.append(row["id"])
                labels.append(row["label"])
                input_ids.append(np.array(encoding.ids, np.int32))
                token_type_ids.append(np.array(encoding.type_ids, np.int32))
    finally:
        tokenizer.no_truncation()
    is_float = any(isinstance(label, float | np.floating) for label in labels)
    return TokenizedExamples(ids, input_ids, token_type_ids, np.array(labels, np.float32 if is_float else np.int32))
