"""Sentence pairs for next-sentence prediction (Devlin et al., NAACL 2019), planned from whole documents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from bertjax.data.corpus import Document
from bertjax.errors import UserError

SHORT_CHUNK_RATE = 0.1
"""Share of chunks that get a random target length instead of the full one."""
IS_NEXT, NOT_NEXT = 0, 1
"""Labels of pairs, in Hugging Face's order."""
TokenDocument = list[np.ndarray]
"""A document's sentences as int32 [L], without special tokens."""


class Pair(NamedTuple):
    """The text of an example: (document, first sentence, end sentence) for each segment.

    Attributes:
      first: segment A.
      second: segment B: the text that follows A, or sentences of another document.
      label: IS_NEXT if B follows A, else NOT_NEXT.
    """

    first: tuple[int, int, int]
    second: tuple[int, int, int]
    label: int


def tokenize_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> list[TokenDocument]:
    """Tokenises documents sentence by sentence; sentences and documents without tokens are dropped."""
    tokenized = []
    for document in documents:
        encoded = tokenizer.encode_batch(list(document), add_special_tokens=False)
        tokenized.append([np.array(sentence.ids, np.int32) for sentence in encoded if sentence.ids])
    return [document for document in tokenized if document]


def plan_pairs(documents: Sequence[TokenDocument], max_length: int, seed: int, epoch: int) -> list[Pair]:
    """Plans the pairs of an epoch, document by document.

    1. Consecutive sentences are packed into a chunk until they reach the target length: max_length minus three special
       tokens or, for one chunk in ten, a random shorter length.
    2. The chunk is cut into A and B at a random sentence boundary.
    3. With probability 1/2, B is replaced by sentences of another document with about as many tokens. B's own
       sentences then start the next chunk.

    A single sentence left at the end is skipped. Only random text could follow it, so its mere presence would give the
    label away.

    Args:
      documents: at least two.
      max_length: maximum number of tokens of an example, with special tokens.
      seed: the run's seed, in [0, 2**32).
      epoch: counted from 0.
    """
    rng = np.random.default_rng((seed, epoch, 0, 0))  # mlm.py draws masks from (seed, epoch, 1, index)
    pairs = []
    for number, document in enumerate(documents):
        sizes = [len(sentence) for sentence in document]
        begin = 0
        while len(document) - begin >= 2:
            target = max_length - 3
            if rng.random() < SHORT_CHUNK_RATE:
                target = int(rng.integers(2, target + 1))
            end = begin + 2
            while end < len(document) and sum(sizes[begin:end]) < target:
                end += 1
            cut = int(rng.integers(begin + 1, end))
            if rng.random() < 0.5:
                pairs.append(Pair((number, begin, cut), (number, cut, end), IS_NEXT))
                begin = end
            else:
                other = _random_text(documents, number, sum(sizes[cut:end]), rng)
                pairs.append(Pair((number, begin, cut), other, NOT_NEXT))
                begin = cut
    return pairs


def check_documents(documents: Sequence[Sequence[Any]]) -> None:
    """Raises UserError if a split yields no pairs: fewer than two documents, or none with two sentences."""
    if len(documents) < 2 or all(len(document) < 2 for document in documents):
        raise UserError(
            "--config.corpus: expected at least 2 documents with text in each split, one of them of 2 sentences or "
            f"more, found {len(documents)} documents; add documents, with one sentence a line"
        )


def _random_text(
    documents: Sequence[TokenDocument], exclude: int, size: int, rng: np.random.Generator
) -> tuple[int, int, int]:
    """Sentences of a random document other than `exclude`, with at least `size` tokens if the document has them.

    The size is that of the text replaced, so that B's length does not give the label away.
    """
    number = int(rng.integers(len(documents) - 1))
    number += number >= exclude
    document = documents[number]
    begin = end = int(rng.integers(len(document)))
    num_tokens = 0
    while end < len(document) and num_tokens < size:
        num_tokens += len(document[end])
        end += 1
    return number, begin, end
