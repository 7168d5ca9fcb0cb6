"""Examples of consecutive sentences, for MLM alone, as in RoBERTa (Liu et al., 2019, FULL-SENTENCES)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.data.masking import Vocabulary
from bertjax.data.pretraining_examples import EpochExamples, PretrainingExample, TokenDocument, planning_rng
from bertjax.errors import UserError


class Run(NamedTuple):
    """Consecutive sentences of a document, from `begin` up to but not including `end`."""

    document: int
    begin: int
    end: int


class FullSentences:
    """Examples [CLS] sentences [SEP], packed with as many whole sentences as fit.

    An epoch passes through all documents, in a random order, and has every token of them exactly once. An example may
    run into the next document; another [SEP] separates the two. A sentence too long for an example is cut, and its
    parts are packed like sentences. Token types are 0.
    """

    def __init__(self, documents: Sequence[TokenDocument], vocabulary: Vocabulary, max_length: int):
        """Prepares a split.

        Args:
          documents: The split.
          vocabulary: The vocabulary of its tokens.
          max_length: Maximum number of tokens of an example, with special tokens; at least 3.

        Raises:
          UserError: There are no documents.
        """
        if not documents:
            raise UserError(
                "--config.corpus: expected text in each split, found none that the tokenizer keeps; add text"
            )
        self.max_length = max_length
        self._vocabulary, self._max_tokens = vocabulary, max_length - 2
        self._documents = [_without_long_sentences(document, self._max_tokens) for document in documents]
        self._sizes = [[len(sentence) for sentence in document] for document in self._documents]

    def plan(self, seed: int, epoch: int) -> EpochExamples:
        """See `ExamplePlanner.plan`."""
        order = planning_rng(seed, epoch).permutation(len(self._documents))
        packed = pack_sentences(self._sizes, order, self._max_tokens)
        lengths = [1 + sum(1 + sum(self._sizes[number][begin:end]) for number, begin, end in runs) for runs in packed]
        return EpochExamples(np.array(lengths, np.int32), lambda index: self._example(packed[index]))

    def _example(self, runs: Sequence[Run]) -> PretrainingExample:
        parts = [np.array([self._vocabulary.cls])]
        for number, begin, end in runs:
            parts += [*self._documents[number][begin:end], np.array([self._vocabulary.sep])]
        ids = np.concatenate(parts).astype(np.int32)
        return PretrainingExample(ids, np.zeros_like(ids), None)


def pack_sentences(
    sizes: Sequence[Sequence[int]], order: Sequence[int] | np.ndarray, max_tokens: int
) -> list[list[Run]]:
    """Packs sentences into examples, each as full as the next sentence allows.

    Args:
      sizes: The number of tokens of each sentence by document, from 1 to `max_tokens`.
      order: The documents, in the order in which they are read.
      max_tokens: Maximum number of an example's tokens, with a separator between documents and without those around it.

    Returns:
      The runs of each example, one per document.
    """
    packed: list[list[Run]] = []
    room = 0
    for number in map(int, order):
        for i, size in enumerate(sizes[number]):
            is_continued = i > 0
            if i == 0:
                room -= 1  # the separator from the document before
            if not packed or size > room:
                packed.append([])
                room, is_continued = max_tokens, False
            if is_continued:
                packed[-1][-1] = packed[-1][-1]._replace(end=i + 1)
            else:
                packed[-1].append(Run(number, i, i + 1))
            room -= size
    return packed


def _without_long_sentences(document: TokenDocument, max_tokens: int) -> TokenDocument:
    """The document with sentences of more than `max_tokens` tokens cut after every `max_tokens`."""
    return [part for sentence in document for part in np.split(sentence, range(max_tokens, len(sentence), max_tokens))]
