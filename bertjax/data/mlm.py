"""Examples for masked-language modelling and next-sentence prediction (Devlin et al., NAACL 2019).

Every draw depends on (seed, epoch) or on (seed, epoch, index in the epoch) alone, so neither resuming nor another batch
size or device count changes an example.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from bertjax.data.batching import (
    HostBatch,
    PlannedBatch,
    optimal_bucket_boundaries,
    plan_epoch,
    real_token_fraction,
    steps_per_epoch,
)
from bertjax.data.masking import Vocabulary, mask_tokens, max_masked_positions
from bertjax.data.sentence_pairs import _MASK, Pair, TokenDocument, _cut, _rng, check_documents, plan_pairs

EVAL_SEED, EVAL_PASSES = 0, 4


MAX_BUCKETS, MIN_SAVED = 4, 0.05


def pair_batch_iterator(source: "PairBatches") -> "grain.DatasetIterator":
    """A Grain iterator over a run's batches.

    A state from `get_state()`, put into the iterator of an equal source by `set_state()`, resumes with the very next
    batch.
    """
    # As for fine-tuning: threads would only contend for the interpreter.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def eval_pair_batches(
    documents: Sequence[TokenDocument],
    vocabulary: Vocabulary,
    *,
    max_length: int,
    batch_size: int,
    whole_word: bool = False,
) -> "PairBatches":
    """Batches for evaluation, the same at every call: four passes, as few held-out documents give few pairs.

    Args, batches and errors as of `PairBatches`.
    """
    return PairBatches(
        documents,
        vocabulary,
        max_length=max_length,
        batch_size=batch_size,
        seed=EVAL_SEED,
        epochs=EVAL_PASSES,
        whole_word=whole_word,
    )


class PairBatches:
    """The batches of a run by their place in it, as Grain wants a source: new pairs and masks in every epoch.

    Batches are of like length, as `batches.plan_epoch` makes them; at most one an epoch is filled up. A batch is a
    dictionary: `input_ids`, `token_type_ids` int32 and `attention_mask` bool [B, S];
    `masked_positions`, `masked_ids` (the tokens that stood there) int32 and `masked_valid` bool [B, P], P = ⌈0.15 S⌉,
    real ones first; `label` int32 [B], 1 where the second text does not follow the first; `index` int32 [B], the
    example's number in the run, before it is shuffled; `valid` bool [B], False in rows that only fill up.

    Attributes:
      bucket_boundaries: the values of S, ascending. At most MAX_BUCKETS, and each must save a share MIN_SAVED of the
        tokens, because a step is compiled for each.
    """

    def __init__(
        self,
        documents: Sequence[TokenDocument],
        vocabulary: Vocabulary,
        *,
        max_length: int,
        batch_size: int,
        seed: int,
        epochs: int,
        whole_word: bool = False,
    ):
        """Plans a run.

        Args:
          documents: a split.
          vocabulary: of its tokens.
          max_length: the most columns of a batch.
          batch_size: B.
          seed: of the run, in [0, 2**32).
          epochs: how often the documents come.
          whole_word: whether words are masked whole.

        Raises:
          UserError: as of `check_documents`.
        """
        check_documents(documents)
        self._documents, self._vocabulary = documents, vocabulary
        self._max_length, self._batch_size = max_length, batch_size
        self._seed, self._whole_word = seed, whole_word
        self._lengths = [self._lengths_of(self._pairs(epoch)) for epoch in range(epochs)]
        self.bucket_boundaries = _bucket_boundaries(np.concatenate(self._lengths), max_length)
        self._firsts = np.cumsum([0, *map(len, self._lengths)])
        self._ends = np.cumsum(
            [steps_per_epoch(lengths, batch_size, self.bucket_boundaries) for lengths in self._lengths]
        )
        self._planned: tuple[int, list[Pair], list[PlannedBatch]] = (-1, [], [])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __iter__(self) -> Iterator[HostBatch]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, batch: int) -> HostBatch:
        epoch = int(np.searchsorted(self._ends, batch, side="right"))
        if self._planned[0] != epoch:
            batches = plan_epoch(self._lengths[epoch], self._batch_size, self.bucket_boundaries, self._seed, epoch)
            self._planned = epoch, self._pairs(epoch), batches
        _, pairs, batches = self._planned
        planned = batches[batch - int(self._ends[epoch])]  # from the epoch's end
        size, length, places = self._batch_size, planned.length, max_masked_positions(planned.length)
        arrays: HostBatch = {
            "input_ids": np.full((size, length), self._vocabulary.pad, np.int32),
            "token_type_ids": np.zeros((size, length), np.int32),
            "attention_mask": np.zeros((size, length), bool),
            "masked_positions": np.zeros((size, places), np.int32),
            "masked_ids": np.zeros((size, places), np.int32),
            "masked_valid": np.zeros((size, places), bool),
            "label": np.zeros(size, np.int32),
            "index": np.zeros(size, np.int32),
            "valid": np.arange(size) < len(planned.rows),
        }
        arrays["attention_mask"][:, 0] = True  # no row is masked throughout: its softmax would be 0/0
        for row, place in enumerate(planned.rows):
            self._fill(arrays, row, pairs[place], epoch, int(place))
        return arrays

    def real_token_fraction(self) -> float:
        """Share of the first epoch's tokens that are no padding."""
        return real_token_fraction(self._lengths[0], self._batch_size, self.bucket_boundaries)

    def _pairs(self, epoch: int) -> list[Pair]:
        return plan_pairs(self._documents, self._max_length, self._seed, epoch)

    def _lengths_of(self, pairs: Sequence[Pair]) -> np.ndarray:
        texts = ([s for n, begin, end in pair[:2] for s in self._documents[n][begin:end]] for pair in pairs)
        return np.array([min(3 + sum(map(len, text)), self._max_length) for text in texts], np.int32)

    def _texts(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        first, second = (
            np.concatenate(self._documents[document][begin:end]) for document, begin, end in (pair.first, pair.second)
        )
        return first, second

    def _fill(self, arrays: HostBatch, row: int, pair: Pair, epoch: int, place: int) -> None:
        vocabulary = self._vocabulary
        first, second = _cut(*self._texts(pair), self._max_length - 3)
        sep = [vocabulary.sep]
        ids = np.concatenate([[vocabulary.cls], first, sep, second, sep]).astype(np.int32)
        rng = _rng(self._seed, epoch, _MASK, place)
        most = max_masked_positions(len(ids))  # not the batch's, so that a larger one changes nothing
        hidden, chosen = mask_tokens(ids, vocabulary, rng, most=most, whole_word=self._whole_word)
        arrays["input_ids"][row, : len(ids)] = hidden
        arrays["token_type_ids"][row, len(first) + 2 : len(ids)] = 1
        arrays["attention_mask"][row, : len(ids)] = True
        arrays["masked_positions"][row, : len(chosen)] = chosen
        arrays["masked_ids"][row, : len(chosen)] = ids[chosen]
        arrays["masked_valid"][row, : len(chosen)] = True
        arrays["label"][row] = pair.label
        arrays["index"][row] = self._firsts[epoch] + place


def _bucket_boundaries(lengths: np.ndarray, max_length: int) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    padded = np.inf
    for count in range(1, MAX_BUCKETS + 1):
        bucket_boundaries = tuple(
            min(edge, max_length) for edge in optimal_bucket_boundaries(lengths, max_buckets=count)
        )
        tokens = np.array(bucket_boundaries)[np.searchsorted(bucket_boundaries, lengths)].sum()
        if tokens > (1 - MIN_SAVED) * padded:
            break
        found, padded = bucket_boundaries, tokens
    return found
