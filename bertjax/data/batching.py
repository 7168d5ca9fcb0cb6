"""Batches of a few static shapes.

Examples of similar length share a batch, which is padded to one of a few bucket boundaries: little padding, few
compilations. (seed, epoch) alone decides an epoch's order, so a run resumes exactly.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from bertjax.data.tokenize import TokenizedExamples
from bertjax.errors import UserError

HostBatch = dict[str, np.ndarray]
"""A batch by field name, in NumPy arrays with B rows."""


class PlannedBatch(NamedTuple):
    """The examples of a batch and the length they are padded to.

    Attributes:
      rows: indices of the examples in the split, int64 [at most B].
      length: S, in tokens.
    """

    rows: np.ndarray
    length: int


def optimal_bucket_boundaries(
    lengths: Sequence[int] | np.ndarray, *, max_buckets: int, multiple: int = 8, max_length: int | None = None
) -> tuple[int, ...]:
    """Finds the bucket boundaries that minimise the number of padded tokens, by dynamic programming.

    Args:
      lengths: tokens of each example, [N].
      max_buckets: maximum number of boundaries. Fewer are returned only if more would save nothing.
      multiple: every boundary is a multiple of it, so the last may exceed the longest example.
      max_length: upper limit of the last boundary, which then need not be a multiple.

    Returns:
      The boundaries, ascending. An example is padded to the first boundary that is at least its length.

    Raises:
      UserError: there are no lengths.
      ValueError: max_buckets or multiple is below 1.
    """
    if max_buckets < 1 or multiple < 1:
        raise ValueError(f"max_buckets and multiple must be at least 1, found {max_buckets} and {multiple}")
    lengths = np.asarray(lengths)
    _check_split(lengths)
    candidates, counts = np.unique(-(-lengths // multiple) * multiple, return_counts=True)
    examples = np.concatenate([[0], np.cumsum(counts)])
    # After k rounds min_tokens[j] is the minimum for the examples of the shortest j candidates in exactly k buckets.
    # Up to the number of candidates every further bucket saves tokens, so k = max_buckets is best.
    min_tokens = np.full(len(candidates) + 1, np.inf)
    min_tokens[0] = 0
    bucket_starts = []
    for _ in range(min(max_buckets, len(candidates))):
        tokens = min_tokens + (examples[1:, None] - examples) * candidates[:, None]
        tokens[np.triu_indices_from(tokens, k=1)] = np.inf  # a bucket cannot start after its end
        bucket_starts.append(tokens.argmin(axis=1))
        min_tokens = np.concatenate([[np.inf], tokens.min(axis=1)])
    bucket_boundaries, end = [], len(candidates)
    for starts in reversed(bucket_starts):
        bucket_boundaries.append(int(candidates[end - 1]))
        end = starts[end - 1]
    if max_length is not None:
        bucket_boundaries[0] = min(bucket_boundaries[0], max_length)
    return tuple(reversed(bucket_boundaries))


def plan_epoch(
    lengths: Sequence[int] | np.ndarray, batch_size: int, bucket_boundaries: Sequence[int], seed: int, epoch: int
) -> list[PlannedBatch]:
    """Plans the batches of an epoch; every example is in exactly one.

    The examples are shuffled and cut into full batches within each bucket. The buckets' leftovers are joined,
    shortest bucket first, so at most one batch of an epoch is not full. Then the batches are shuffled.

    Args:
      lengths: tokens of each example, [N].
      batch_size: B, rows of a batch.
      bucket_boundaries: from `optimal_bucket_boundaries`.
      seed: the run's seed, in [0, 2**32).
      epoch: counted from 0.

    Raises:
      UserError: the split is empty or batch_size is below 1.
      ValueError: an example is longer than the last boundary.
    """
    # Not Grain's own epochs: it shuffles epoch e with seed + e, so runs with neighbouring seeds would share orders.
    example_seed, batch_seed = np.random.SeedSequence((seed, epoch)).generate_state(2)
    order = _permutation(len(lengths), int(example_seed))
    batches = _plan_batches(order, np.asarray(lengths), batch_size, bucket_boundaries)
    return [batches[i] for i in _permutation(len(batches), int(batch_seed))]


def steps_per_epoch(lengths: Sequence[int] | np.ndarray, batch_size: int, bucket_boundaries: Sequence[int]) -> int:
    """Number of batches of an epoch, the same for every seed; see `plan_epoch` for arguments and errors."""
    return len(_plan_batches(np.arange(len(lengths)), np.asarray(lengths), batch_size, bucket_boundaries))


def real_token_fraction(
    lengths: Sequence[int] | np.ndarray, batch_size: int, bucket_boundaries: Sequence[int]
) -> float:
    """Share of an epoch's tokens that are not padding, the same for every seed.

    See `plan_epoch` for arguments and errors.
    """
    batches = _plan_batches(np.arange(len(lengths)), np.asarray(lengths), batch_size, bucket_boundaries)
    return float(np.sum(lengths) / sum(batch_size * batch.length for batch in batches))


def train_batches(
    examples: TokenizedExamples,
    *,
    batch_size: int,
    bucket_boundaries: Sequence[int],
    seed: int,
    epochs: int,
    pad_id: int = 0,
    convert: Callable[[HostBatch], HostBatch] | None = None,
) -> "grain.DatasetIterator":
    """Iterates over training batches, epoch after epoch, in the order of `plan_epoch`.

    Args:
      examples: the split.
      batch_size: B.
      bucket_boundaries: from `optimal_bucket_boundaries`; S is one of them.
      seed: the run's seed, in [0, 2**32).
      epochs: number of passes over the split.
      pad_id: token id of padding.
      convert: applied to every batch, for example `with_pooled`.

    Returns:
      A `resumable_iterator` over batches with these fields:

        input_ids, token_type_ids: int32 [B, S].
        attention_mask: bool [B, S].
        label: [B], of the labels' dtype.
        index: int32 [B], the example's index in the split.
        valid: bool [B]; False in rows that only fill the batch, which have index 0, label 0 and one attended token.

    Raises:
      UserError: the split is empty or batch_size is below 1.
      ValueError: an example is longer than the last boundary.
    """
    return resumable_iterator(_TrainingBatches(examples, batch_size, bucket_boundaries, seed, epochs, pad_id), convert)


def resumable_iterator(
    batches: Any, convert: Callable[[HostBatch], HostBatch] | None = None
) -> "grain.DatasetIterator":
    """A Grain iterator over batches that are indexed by their position in the run.

    A state from `get_state()`, passed to `set_state()` of the iterator of an equal call, resumes with the next batch.

    Args:
      batches: has `__len__` and `__getitem__`.
      convert: applied to every batch.
    """
    # Batches are built from memory within microseconds: threads would only contend for the interpreter.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    dataset = grain.MapDataset.source(batches)
    return iter((dataset if convert is None else dataset.map(convert)).to_iter_dataset(options))


def eval_batches(
    examples: TokenizedExamples, *, batch_size: int, bucket_boundaries: Sequence[int], pad_id: int = 0
) -> Iterator[HostBatch]:
    """Iterates over evaluation batches: each example once, shortest first; only the last batch may not be full.

    See `train_batches` for arguments, batches and errors.
    """
    lengths = examples.lengths
    _check_split(lengths)
    _check_batch_size(batch_size)
    plan = _consecutive_batches(np.argsort(lengths, kind="stable"), lengths, batch_size, bucket_boundaries)
    return (_make_batch(examples, batch, batch_size, pad_id) for batch in plan)


def with_pooled(pooled: np.ndarray, batch: HostBatch) -> HostBatch:
    """Replaces the tokens of a batch by "pooled" [B, D]: its examples' rows of `pooled`, float32 [N, D]."""
    return {"pooled": pooled[batch["index"]], **{name: batch[name] for name in ("label", "index", "valid")}}


class _TrainingBatches:
    """The batches of a run, indexed by their position in it."""

    def __init__(
        self,
        examples: TokenizedExamples,
        batch_size: int,
        bucket_boundaries: Sequence[int],
        seed: int,
        epochs: int,
        pad_id: int,
    ):
        self._examples, self._lengths = examples, examples.lengths
        self._batch_size, self._bucket_boundaries = batch_size, bucket_boundaries
        self._seed, self._epochs, self._pad_id = seed, epochs, pad_id
        self._steps_per_epoch = steps_per_epoch(self._lengths, batch_size, bucket_boundaries)
        self._planned_epoch = -1
        self._plan: list[PlannedBatch] = []

    def __len__(self) -> int:
        return self._epochs * self._steps_per_epoch

    def __getitem__(self, index: int) -> HostBatch:
        epoch, step = divmod(index, self._steps_per_epoch)
        if epoch != self._planned_epoch:
            self._plan = plan_epoch(self._lengths, self._batch_size, self._bucket_boundaries, self._seed, epoch)
            self._planned_epoch = epoch
        return _make_batch(self._examples, self._plan[step], self._batch_size, self._pad_id)


def _check_split(lengths: np.ndarray) -> None:
    if not len(lengths):
        raise UserError("data: expected at least one example in a split, found none; check --config.data_dir")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"--config.batch_size: expected at least 1 example, found {batch_size}")


def _permutation(size: int, seed: int) -> np.ndarray:
    shuffled = grain.MapDataset.range(size).shuffle(seed=seed)
    return np.array([shuffled[i] for i in range(size)], np.int64)


def _plan_batches(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, bucket_boundaries: Sequence[int]
) -> list[PlannedBatch]:
    """Full batches of each bucket, then batches of the leftovers; `order` changes neither their number nor lengths."""
    _check_split(lengths)
    _check_batch_size(batch_size)
    buckets = np.searchsorted(bucket_boundaries, lengths[order])
    batches, leftovers = [], []
    # One more than there are boundaries, for examples that are too long: `_consecutive_batches` reports those.
    for bucket in range(len(bucket_boundaries) + 1):
        members = order[buckets == bucket]
        num_full = len(members) - len(members) % batch_size
        batches += _consecutive_batches(members[:num_full], lengths, batch_size, bucket_boundaries)
        leftovers.append(members[num_full:])
    return batches + _consecutive_batches(np.concatenate(leftovers), lengths, batch_size, bucket_boundaries)


def _consecutive_batches(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, bucket_boundaries: Sequence[int]
) -> list[PlannedBatch]:
    batches = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = int(lengths[rows].max())
        if longest > bucket_boundaries[-1]:
            raise ValueError(f"an example has {longest} tokens, the last bucket boundary is {bucket_boundaries[-1]}")
        batches.append(PlannedBatch(rows, bucket_boundaries[int(np.searchsorted(bucket_boundaries, longest))]))
    return batches


def _make_batch(examples: TokenizedExamples, batch: PlannedBatch, batch_size: int, pad_id: int) -> HostBatch:
    shape = batch_size, batch.length
    num_real = len(batch.rows)
    input_ids = np.full(shape, pad_id, np.int32)
    token_type_ids = np.zeros(shape, np.int32)
    lengths = np.ones(batch_size, np.int64)  # a row without attended tokens would make the softmax 0/0
    for i, row in enumerate(batch.rows):
        ids = examples.input_ids[row]
        lengths[i] = len(ids)
        input_ids[i, : len(ids)] = ids
        token_type_ids[i, : len(ids)] = examples.token_type_ids[row]
    label = np.zeros(batch_size, examples.labels.dtype)
    label[:num_real] = examples.labels[batch.rows]
    index = np.zeros(batch_size, np.int32)
    index[:num_real] = batch.rows
    return {
        "input_ids": input_ids,
        "token_type_ids": token_type_ids,
        "attention_mask": np.arange(batch.length) < lengths[:, None],
        "label": label,
        "index": index,
        "valid": np.arange(batch_size) < num_real,
    }
