"""What an example of further pre-training is, before masking, and the tokenised documents that it comes from."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer

from bertjax.data.corpus import Document

TokenDocument = list[np.ndarray]
"""A document's sentences as int32 [L], without special tokens."""


class PretrainingExample(NamedTuple):
    """An example before masking.

    Attributes:
      input_ids: int32 [L], with special tokens.
      token_type_ids: int32 [L].
      label: What next-sentence prediction should answer; None if the examples are not pairs.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    label: int | None


class EpochExamples(NamedTuple):
    """The examples of an epoch.

    Attributes:
      lengths: Tokens of each, int32 [N].
      build: Builds the example of an index in [0, N).
    """

    lengths: np.ndarray
    build: Callable[[int], PretrainingExample]


class ExamplePlanner(Protocol):
    """Makes examples from documents: `SentencePairs` or `FullSentences`.

    Attributes:
      max_length: Maximum number of tokens of an example, with special tokens.
    """

    max_length: int

    def plan(self, seed: int, epoch: int) -> EpochExamples:
        """The examples of an epoch, which depend on the seed and the epoch alone.

        An implementation draws from `planning_rng(seed, epoch)`, which shares no stream with masking.

        Args:
          seed: The run's seed, in [0, 2**32).
          epoch: Counted from 0.
        """


def planning_rng(seed: int, epoch: int) -> np.random.Generator:
    """The random draws of an epoch's plan."""
    return np.random.default_rng((seed, epoch, 0, 0))


def masking_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random draws of an example's masks."""
    return np.random.default_rng((seed, epoch, 1, index))


def tokenize_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> list[TokenDocument]:
    """Tokenises documents sentence by sentence; sentences and documents without tokens are dropped.

    A document reads as its sentences joined by spaces. A byte-level tokenizer, such as RoBERTa's, gives a word other
    ids after a space than at the start of a text; WordPiece does not.
    """
    tokenized = []
    for document in documents:
        sentences = [*document[:1], *(f" {sentence}" for sentence in document[1:])]
        encoded = tokenizer.encode_batch(sentences, add_special_tokens=False)
        tokenized.append([np.array(sentence.ids, np.int32) for sentence in encoded if sentence.ids])
    return [document for document in tokenized if document]
