"""Examples of two texts, for masked-language modelling and next-sentence prediction (Devlin et al., NAACL 2019)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.masking import Vocabulary
from bertjax.data.pretraining_examples import EpochExamples, PretrainingExample, TokenDocument, planning_rng
from bertjax.errors import UserError

SHORT_CHUNK_RATE = 0.1
"""Share of chunks that get a random target length instead of the full one."""
IS_NEXT, NOT_NEXT = 0, 1
"""Labels of pairs, in Hugging Face's order."""


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


class SentencePairs:
    """Examples [CLS] A [SEP] B [SEP], with token type 1 from B on; `plan_pairs` chooses A and B.

    An example that is too long loses tokens of its longer text first: A's at its start, B's at its end.
    """

    def __init__(self, documents: Sequence[TokenDocument], vocabulary: Vocabulary, max_length: int):
        """Prepares a split.

        Args:
          documents: The split.
          vocabulary: The vocabulary of its tokens.
          max_length: Maximum number of tokens of an example, with special tokens; at least 5.

        Raises:
          UserError: See `check_documents`.
        """
        check_documents(documents)
        self.max_length = max_length
        self._documents, self._vocabulary = documents, vocabulary

    def plan(self, seed: int, epoch: int) -> EpochExamples:
        """See `ExamplePlanner.plan`."""
        pairs = plan_pairs(self._documents, self.max_length, seed, epoch)
        texts = ([s for n, begin, end in pair[:2] for s in self._documents[n][begin:end]] for pair in pairs)
        lengths = [min(3 + sum(map(len, text)), self.max_length) for text in texts]
        return EpochExamples(np.array(lengths, np.int32), lambda index: self._example(pairs[index]))

    def _example(self, pair: Pair) -> PretrainingExample:
        first, second = (
            np.concatenate(self._documents[number][begin:end]) for number, begin, end in (pair.first, pair.second)
        )
        first, second = _truncate_pair(first, second, self.max_length - 3)
        sep = [self._vocabulary.sep]
        ids = np.concatenate([[self._vocabulary.cls], first, sep, second, sep]).astype(np.int32)
        types = (np.arange(len(ids)) >= len(first) + 2).astype(np.int32)
        return PretrainingExample(ids, types, pair.label)


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
    rng = planning_rng(seed, epoch)
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


def _truncate_pair(first: np.ndarray, second: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the texts to `max_tokens` in all, the longer one first: the first at its start, the second at its end."""
    half = max_tokens // 2
    longest_first = max(max_tokens - half, max_tokens - len(second))
    first = first[max(0, len(first) - longest_first) :]
    return first, second[: max_tokens - len(first)]
