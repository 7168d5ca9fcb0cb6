"""Pre-training batches: sentence pairs with masked tokens (Devlin et al., NAACL 2019), new in every epoch.

The pairs of an epoch depend on (seed, epoch) alone, and an example's masks on (seed, epoch, index). So an example is
the same after resuming, and for any batch size and number of devices.
"""

from collections.abc import Iterator, Sequence

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
from bertjax.data.sentence_pairs import Pair, TokenDocument, check_documents, plan_pairs

EVAL_SEED, EVAL_EPOCHS = 0, 4

# A step is compiled for each bucket, so each must save a share of the tokens.
_MAX_BUCKETS, _MIN_SAVED = 4, 0.05


class PairBatches:
    """The batches of a pre-training run, indexed by their position in it.

    Examples of similar length share a batch, as `batching.plan_epoch` plans them; at most one batch an epoch is not
    full. A batch is a dictionary:

      input_ids, token_type_ids: int32 [B, S], after masking.
      attention_mask: bool [B, S].
      masked_positions, masked_ids: int32 [B, P] with P = ⌈0.15 S⌉, the chosen positions and their original tokens.
      masked_valid: bool [B, P], False in the padding that follows the chosen positions.
      label: int32 [B], 0 if the second text follows the first, else 1.
      index: int32 [B], the example's number in the run, before shuffling.
      valid: bool [B], False in rows that only fill the batch.

    Attributes:
      bucket_boundaries: the values of S, ascending: at most four, each saving at least 5% of the tokens.
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
          vocabulary: the vocabulary of its tokens.
          max_length: maximum of S.
          batch_size: B.
          seed: the run's seed, in [0, 2**32).
          epochs: number of passes over the documents.
          whole_word: mask all pieces of a word or none.

        Raises:
          UserError: see `check_documents`.
        """
        check_documents(documents)
        self._documents, self._vocabulary = documents, vocabulary
        self._max_length, self._batch_size = max_length, batch_size
        self._seed, self._whole_word = seed, whole_word
        self._lengths = [self._pair_lengths(self._plan_pairs(epoch)) for epoch in range(epochs)]
        self.bucket_boundaries = _bucket_boundaries(np.concatenate(self._lengths), max_length)
        self._first_index = np.cumsum([0, *map(len, self._lengths)])
        self._epoch_ends = np.cumsum(
            [steps_per_epoch(lengths, batch_size, self.bucket_boundaries) for lengths in self._lengths]
        )
        self._planned_epoch = -1
        self._pairs: list[Pair] = []
        self._plan: list[PlannedBatch] = []

    def __len__(self) -> int:
        return int(self._epoch_ends[-1])

    def __iter__(self) -> Iterator[HostBatch]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> HostBatch:
        epoch = int(np.searchsorted(self._epoch_ends, index, side="right"))
        if epoch != self._planned_epoch:
            self._pairs = self._plan_pairs(epoch)
            self._plan = plan_epoch(self._lengths[epoch], self._batch_size, self.bucket_boundaries, self._seed, epoch)
            self._planned_epoch = epoch
        planned = self._plan[index - int(self._epoch_ends[epoch])]  # a negative index, from the epoch's end
        size, length, num_masked = self._batch_size, planned.length, max_masked_positions(planned.length)
        batch: HostBatch = {
            "input_ids": np.full((size, length), self._vocabulary.pad, np.int32),
            "token_type_ids": np.zeros((size, length), np.int32),
            "attention_mask": np.zeros((size, length), bool),
            "masked_positions": np.zeros((size, num_masked), np.int32),
            "masked_ids": np.zeros((size, num_masked), np.int32),
            "masked_valid": np.zeros((size, num_masked), bool),
            "label": np.zeros(size, np.int32),
            "index": np.zeros(size, np.int32),
            "valid": np.arange(size) < len(planned.rows),
        }
        batch["attention_mask"][:, 0] = True  # a row without attended tokens would make the softmax 0/0
        for row, pair_index in enumerate(planned.rows):
            self._write_example(batch, row, epoch, int(pair_index))
        return batch

    def real_token_fraction(self) -> float:
        """Share of the first epoch's tokens that are not padding."""
        return real_token_fraction(self._lengths[0], self._batch_size, self.bucket_boundaries)

    def _plan_pairs(self, epoch: int) -> list[Pair]:
        return plan_pairs(self._documents, self._max_length, self._seed, epoch)

    def _pair_lengths(self, pairs: Sequence[Pair]) -> np.ndarray:
        texts = ([s for n, begin, end in pair[:2] for s in self._documents[n][begin:end]] for pair in pairs)
        return np.array([min(3 + sum(map(len, text)), self._max_length) for text in texts], np.int32)

    def _write_example(self, batch: HostBatch, row: int, epoch: int, pair_index: int) -> None:
        vocabulary, pair = self._vocabulary, self._pairs[pair_index]
        first, second = (
            np.concatenate(self._documents[number][begin:end]) for number, begin, end in (pair.first, pair.second)
        )
        first, second = _truncate_pair(first, second, self._max_length - 3)
        sep = [vocabulary.sep]
        ids = np.concatenate([[vocabulary.cls], first, sep, second, sep]).astype(np.int32)
        rng = np.random.default_rng((self._seed, epoch, 1, pair_index))  # `plan_pairs` draws from (seed, epoch, 0, 0)
        # The example's maximum, not the batch's: the batch it is in must not change its masks.
        max_masked = max_masked_positions(len(ids))
        hidden, chosen = mask_tokens(ids, vocabulary, rng, max_masked=max_masked, whole_word=self._whole_word)
        batch["input_ids"][row, : len(ids)] = hidden
        batch["token_type_ids"][row, len(first) + 2 : len(ids)] = 1
        batch["attention_mask"][row, : len(ids)] = True
        batch["masked_positions"][row, : len(chosen)] = chosen
        batch["masked_ids"][row, : len(chosen)] = ids[chosen]
        batch["masked_valid"][row, : len(chosen)] = True
        batch["label"][row] = pair.label
        batch["index"][row] = self._first_index[epoch] + pair_index


def eval_pair_batches(
    documents: Sequence[TokenDocument],
    vocabulary: Vocabulary,
    *,
    max_length: int,
    batch_size: int,
    whole_word: bool = False,
) -> PairBatches:
    """Batches for evaluation, the same at every call: four passes, because few held-out documents give few pairs.

    See `PairBatches` for arguments, batches and errors.
    """
    return PairBatches(
        documents,
        vocabulary,
        max_length=max_length,
        batch_size=batch_size,
        seed=EVAL_SEED,
        epochs=EVAL_EPOCHS,
        whole_word=whole_word,
    )


def _truncate_pair(first: np.ndarray, second: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the texts to `max_tokens` in all, the longer one first: the first at its start, the second at its end."""
    half = max_tokens // 2
    longest_first = max(max_tokens - half, max_tokens - len(second))
    first = first[max(0, len(first) - longest_first) :]
    return first, second[: max_tokens - len(first)]


def _bucket_boundaries(lengths: np.ndarray, max_length: int) -> tuple[int, ...]:
    """As many optimal boundaries as each save at least a share `_MIN_SAVED` of the tokens."""
    best: tuple[int, ...] = ()
    best_tokens = np.inf
    for count in range(1, _MAX_BUCKETS + 1):
        boundaries = optimal_bucket_boundaries(lengths, max_buckets=count, max_length=max_length)
        tokens = np.array(boundaries)[np.searchsorted(boundaries, lengths)].sum()
        if tokens > (1 - _MIN_SAVED) * best_tokens:
            break
        best, best_tokens = boundaries, tokens
    return best
