"""Batches of further pre-training: examples with masked tokens (Devlin et al., NAACL 2019), new in every epoch.

The examples of an epoch depend on (seed, epoch) alone, and an example's masks on (seed, epoch, index). So an example
is the same after resuming, and for any batch size and number of devices.
"""

from collections.abc import Iterator

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
from bertjax.data.pretraining_examples import EpochExamples, ExamplePlanner, PretrainingExample, masking_rng

EVAL_SEED, EVAL_EPOCHS = 0, 4

# A step is compiled for each bucket, so each must save a share of the tokens.
_MAX_BUCKETS, _MIN_SAVED = 4, 0.05


class MlmBatches:
    """The batches of a pre-training run, indexed by their position in it.

    Examples of similar length share a batch, as `batching.plan_epoch` plans them; at most one batch an epoch is not
    full. A batch is a dictionary:

      input_ids, token_type_ids: int32 [B, S], after masking.
      attention_mask: bool [B, S].
      masked_positions, masked_ids: int32 [B, P] with P = ⌈0.15 S⌉, the chosen positions and their original tokens.
      masked_valid: bool [B, P], False in the padding that follows the chosen positions.
      label: int32 [B], 0 if the second text follows the first, else 1; only if the examples are pairs.
      index: int32 [B], the example's number in the run, before shuffling.
      valid: bool [B], False in rows that only fill the batch.

    Attributes:
      bucket_boundaries: the values of S, ascending: at most four, each saving at least 5% of the tokens.
    """

    def __init__(
        self,
        planner: ExamplePlanner,
        vocabulary: Vocabulary,
        *,
        batch_size: int,
        seed: int,
        epochs: int,
        whole_word: bool = False,
    ):
        """Plans a run.

        Args:
          planner: makes the examples.
          vocabulary: the vocabulary of their tokens.
          batch_size: B.
          seed: the run's seed, in [0, 2**32).
          epochs: number of passes over the documents.
          whole_word: mask all pieces of a word or none.
        """
        self._planner, self._vocabulary = planner, vocabulary
        self._batch_size, self._seed, self._whole_word = batch_size, seed, whole_word
        self._lengths = [planner.plan(seed, epoch).lengths for epoch in range(epochs)]
        self.bucket_boundaries = _bucket_boundaries(np.concatenate(self._lengths), planner.max_length)
        self._first_index = np.cumsum([0, *map(len, self._lengths)])
        self._epoch_ends = np.cumsum(
            [steps_per_epoch(lengths, batch_size, self.bucket_boundaries) for lengths in self._lengths]
        )
        self._planned_epoch = -1
        self._examples: EpochExamples
        self._plan: list[PlannedBatch] = []

    def __len__(self) -> int:
        return int(self._epoch_ends[-1])

    def __iter__(self) -> Iterator[HostBatch]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> HostBatch:
        epoch = int(np.searchsorted(self._epoch_ends, index, side="right"))
        if epoch != self._planned_epoch:
            self._examples = self._planner.plan(self._seed, epoch)
            self._plan = plan_epoch(self._lengths[epoch], self._batch_size, self.bucket_boundaries, self._seed, epoch)
            self._planned_epoch = epoch
        planned = self._plan[index - int(self._epoch_ends[epoch])]  # a negative index, from the epoch's end
        examples = [self._examples.build(int(i)) for i in planned.rows]
        size, length, num_masked = self._batch_size, planned.length, max_masked_positions(planned.length)
        batch: HostBatch = {
            "input_ids": np.full((size, length), self._vocabulary.pad, np.int32),
            "token_type_ids": np.zeros((size, length), np.int32),
            "attention_mask": np.zeros((size, length), bool),
            "masked_positions": np.zeros((size, num_masked), np.int32),
            "masked_ids": np.zeros((size, num_masked), np.int32),
            "masked_valid": np.zeros((size, num_masked), bool),
            "index": np.zeros(size, np.int32),
            "valid": np.arange(size) < len(examples),
        }
        labels = [example.label for example in examples if example.label is not None]
        if labels:
            batch["label"] = np.array(labels + [0] * (size - len(labels)), np.int32)
        batch["attention_mask"][:, 0] = True  # a row without attended tokens would make the softmax 0/0
        for row, (index_in_epoch, example) in enumerate(zip(planned.rows, examples, strict=True)):
            self._write_example(batch, row, epoch, int(index_in_epoch), example)
        return batch

    def real_token_fraction(self) -> float:
        """Share of the first epoch's tokens that are not padding."""
        return real_token_fraction(self._lengths[0], self._batch_size, self.bucket_boundaries)

    def _write_example(
        self, batch: HostBatch, row: int, epoch: int, index_in_epoch: int, example: PretrainingExample
    ) -> None:
        ids = example.input_ids
        rng = masking_rng(self._seed, epoch, index_in_epoch)
        # The example's maximum, not the batch's: the batch it is in must not change its masks.
        max_masked = max_masked_positions(len(ids))
        hidden, chosen = mask_tokens(ids, self._vocabulary, rng, max_masked=max_masked, whole_word=self._whole_word)
        batch["input_ids"][row, : len(ids)] = hidden
        batch["token_type_ids"][row, : len(ids)] = example.token_type_ids
        batch["attention_mask"][row, : len(ids)] = True
        batch["masked_positions"][row, : len(chosen)] = chosen
        batch["masked_ids"][row, : len(chosen)] = ids[chosen]
        batch["masked_valid"][row, : len(chosen)] = True
        batch["index"][row] = self._first_index[epoch] + index_in_epoch


def eval_mlm_batches(
    planner: ExamplePlanner, vocabulary: Vocabulary, *, batch_size: int, whole_word: bool = False
) -> MlmBatches:
    """Batches for evaluation, the same at every call: four passes, because few held-out documents give few examples.

    See `MlmBatches` for arguments and batches.
    """
    return MlmBatches(
        planner,
        vocabulary,
        batch_size=batch_size,
        seed=EVAL_SEED,
        epochs=EVAL_EPOCHS,
        whole_word=whole_word,
    )


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
