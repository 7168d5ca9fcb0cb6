"""Sentence pairs for next-sentence prediction (Devlin et al., NAACL 2019), planned from documents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from bertjax.data.corpus import Document
from bertjax.errors import UserError

SHORT = 0.1


_PLAN, _MASK = range(2)


IS_NEXT, NOT_NEXT = 0, 1


TokenDocument = list[np.ndarray]
"""A document's sentences as int32 [L], without special tokens."""


class Pair(NamedTuple):
    """Where an example's text stands: (document, first sentence, end) for each segment.

    Attributes:
      first: segment A.
      second: segment B: what follows A, or sentences of another document.
      label: 0 where B follows A, 1 where it does not: Hugging Face's order.
    """

    first: tuple[int, int, int]
    second: tuple[int, int, int]
    label: int


def tokenize_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> list[TokenDocument]:
    """Tokenises documents sentence by sentence; what has no token is left out."""
    found = []
    for document in documents:
        encoded = tokenizer.encode_batch(list(document), add_special_tokens=False)
        found.append([np.array(sentence.ids, np.int32) for sentence in encoded if sentence.ids])
    return [document for document in found if document]


def plan_pairs(documents: Sequence[TokenDocument], max_length: int, seed: int, epoch: int) -> list[Pair]:
    """The pairs of an epoch, document by document.

    Sentences of a document are packed until they reach the target: max_length less three special tokens, or in one
    chunk of ten a random shorter length. A chunk is cut into A and B at a random sentence boundary. Then a fair coin
    leaves B as it is, or takes sentences of another document, about as many tokens, and B's own sentences are put back
    for the next chunk. A last sentence left alone is passed over: only random text could follow it, and its standing
    alone would give the label away.

    Args:
      documents: at least two.
      max_length: tokens of an example, special ones included.
      seed: of the run, in [0, 2**32).
      epoch: counted from 0.
    """
    rng = _rng(seed, epoch, _PLAN)
    pairs = []
    for number, document in enumerate(documents):
        sizes = [len(sentence) for sentence in document]
        begin = 0
        while len(document) - begin >= 2:
            target = max_length - 3
            if rng.random() < SHORT:
                target = int(rng.integers(2, target + 1))
            end = begin + 2
            while end < len(document) and sum(sizes[begin:end]) < target:
                end += 1
            cut = int(rng.integers(begin + 1, end))
            if rng.random() < 0.5:
                pairs.append(Pair((number, begin, cut), (number, cut, end), IS_NEXT))
                begin = end
            else:
                other = _other_text(documents, number, sum(sizes[cut:end]), rng)
                pairs.append(Pair((number, begin, cut), other, NOT_NEXT))
                begin = cut
    return pairs


def check_documents(documents: Sequence[Sequence[Any]]) -> None:
    """UserError for a split that makes no pairs: fewer than two documents, or none of two sentences."""
    if len(documents) < 2 or all(len(document) < 2 for document in documents):
        raise UserError(
            "--config.corpus: expected at least 2 documents with text in each split, one of them of 2 sentences or "
            f"more, found {len(documents)} documents; add documents, with one sentence a line"
        )


def _rng(seed: int, epoch: int, purpose: int, index: int = 0) -> np.random.Generator:
    return np.random.default_rng((seed, epoch, purpose, index))


def _other_text(
    documents: Sequence[TokenDocument], number: int, size: int, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Sentences of another document until they have `size` tokens: B's length must not tell the label."""
    other = int(rng.integers(len(documents) - 1))
    other += other >= number
    begin = end = int(rng.integers(len(documents[other])))
    found = 0
    while end < len(documents[other]) and found < size:
        found += len(documents[other][end])
        end += 1
    return other, begin, end


def _cut(first: np.ndarray, second: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the longer text until both have `most` tokens; what meets in the middle stays."""
    half = most // 2
    longest = max(most - half, most - len(second))
    first = first[max(0, len(first) - longest) :]
    return first, second[: most - len(first)]
