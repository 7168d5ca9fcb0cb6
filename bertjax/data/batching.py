"""Batches of a few static shapes: examples of like length together, in an order that (seed, epoch) decides."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from bertjax.data.tokenize import TokenizedExamples
from bertjax.errors import UserError

HostBatch = dict[str, np.ndarray]


class PlannedBatch(NamedTuple):
    """What goes into a batch of B rows.

    Attributes:
      rows: the examples' indices in the split, int64 [at most B].
      length: S, the tokens that they are padded to.
    """

    rows: np.ndarray
    length: int


def optimal_bucket_boundaries(
    lengths: Sequence[int] | np.ndarray, *, max_buckets: int, multiple: int = 8
) -> tuple[int, ...]:
    """The lengths to pad to that need the fewest tokens, found exactly.

    Args:
      lengths: tokens of each example, [N].
      max_buckets: the most edges; fewer come back only where more would save nothing.
      multiple: every edge is one of it, so the last may exceed the longest example.

    Returns:
      The edges, ascending; an example is padded to the first that is no less than its length.

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
    # fewest[j]: tokens that the shortest j candidates' examples take with as many edges as there were rounds.
    fewest = np.full(len(candidates) + 1, np.inf)
    fewest[0] = 0
    choices = []
    # Every further edge up to the number of candidates saves tokens, so at most is exactly.
    for _ in range(min(max_buckets, len(candidates))):
        tokens = fewest + (examples[1:, None] - examples) * candidates[:, None]
        tokens[np.triu_indices_from(tokens, k=1)] = np.inf  # a bucket cannot begin after its end
        choices.append(tokens.argmin(axis=1))
        fewest = np.concatenate([[np.inf], tokens.min(axis=1)])
    bucket_boundaries, end = [], len(candidates)
    for choice in reversed(choices):
        bucket_boundaries.append(int(candidates[end - 1]))
        end = choice[end - 1]
    return tuple(reversed(bucket_boundaries))


def plan_epoch(
    lengths: Sequence[int] | np.ndarray, batch_size: int, bucket_boundaries: Sequence[int], seed: int, epoch: int
) -> list[PlannedBatch]:
    """Which examples make which batch of an epoch; every example is in exactly one.

    The examples are shuffled and cut into full batches within each bucket. What is left of the buckets is
    joined, shortest bucket first, so at most one batch of an epoch is not full. Then the batches are shuffled.

    Args:
      lengths: tokens of each example, [N].
      batch_size: B, rows of a batch.
      bucket_boundaries: from `bucket_edges`.
      seed: of the run, in [0, 2**32).
      epoch: counted from 0.

    Raises:
      UserError: the split is empty or batch_size is below 1.
      ValueError: an example is longer than the last edge.
    """
    # Grain shuffles its epoch e with seed + e: two runs with neighbouring seeds would see the same orders.
    example_seed, batch_seed = np.random.SeedSequence((seed, epoch)).generate_state(2)
    batches = _cut(_permutation(len(lengths), int(example_seed)), np.asarray(lengths), batch_size, bucket_boundaries)
    return [batches[i] for i in _permutation(len(batches), int(batch_seed))]


def steps_per_epoch(lengths: Sequence[int] | np.ndarray, batch_size: int, bucket_boundaries: Sequence[int]) -> int:
    """Batches of an epoch, whatever its seed; arguments and errors as of `plan_epoch`."""
    return len(_cut(np.arange(len(lengths)), np.asarray(lengths), batch_size, bucket_boundaries))


def real_token_fraction(
    lengths: Sequence[int] | np.ndarray, batch_size: int, bucket_boundaries: Sequence[int]
) -> float:
    """Share of an epoch's tokens that are no padding, whatever its seed; arguments and errors as of `plan_epoch`."""
    batches = _cut(np.arange(len(lengths)), np.asarray(lengths), batch_size, bucket_boundaries)
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
    """Batches for training, epoch after epoch in the order of `plan_epoch`.

    Args:
      examples: the split.
      batch_size: B.
      bucket_boundaries: from `bucket_edges`.
      seed: of the run, in [0, 2**32).
      epochs: how often each example comes.
      pad_id: token id of padding.
      convert: applied to every batch, as `with_pooled`.

    Returns:
      A Grain iterator over batches, each a dictionary of arrays with B rows and S, one of the edges, columns:
      `input_ids` and `token_type_ids` int32 [B, S]; `attention_mask` bool [B, S]; `label` [B] of the labels'
      dtype; `index` int32 [B], the example's place in the split; `valid` bool [B], False in rows that only
      fill up the batch: these have index 0, label 0 and one attended token. A state from `get_state()`, put
      into the iterator of an equal call by `set_state()`, resumes with the very next batch.

    Raises:
      UserError: the split is empty or batch_size is below 1.
      ValueError: an example is longer than the last edge.
    """
    source = _TrainingBatches(examples, batch_size, bucket_boundaries, seed, epochs, pad_id)
    # A batch takes microseconds from memory: threads would only contend for the interpreter.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    batches = grain.MapDataset.source(source)
    return iter((batches if convert is None else batches.map(convert)).to_iter_dataset(options))


def eval_batches(
    examples: TokenizedExamples, *, batch_size: int, bucket_boundaries: Sequence[int], pad_id: int = 0
) -> Iterator[HostBatch]:
    """Batches for evaluation: each example once, the shortest first, and only the last batch filled up.

    Args, batches and errors as of `train_batches`.
    """
    lengths = examples.lengths
    _check_split(lengths)
    _check_batch_size(batch_size)
    plan = _chunks(np.argsort(lengths, kind="stable"), lengths, batch_size, bucket_boundaries)
    return (_assemble(examples, batch, batch_size, pad_id) for batch in plan)


def with_pooled(pooled: np.ndarray, batch: HostBatch) -> HostBatch:
    """A batch with its examples' rows of `pooled`, float32 [N, D], as "pooled" [B, D] in place of their tokens."""
    return {"pooled": pooled[batch["index"]], **{name: batch[name] for name in ("label", "index", "valid")}}


class _TrainingBatches:
    """A run's batches by their place in it, as Grain wants a source."""

    def __init__(
        self,
        examples: TokenizedExamples,
        batch_size: int,
        bucket_boundaries: Sequence[int],
        seed: int,
        epochs: int,
        pad_id: int,
    ):
        self._examples = examples
        self._lengths = examples.lengths
        self._batch_size, self._bucket_boundaries, self._seed, self._pad_id = (
            batch_size,
            bucket_boundaries,
            seed,
            pad_id,
        )
        self._steps = steps_per_epoch(self._lengths, batch_size, bucket_boundaries)
        self._num_batches = epochs * self._steps
        self._planned: tuple[int, list[PlannedBatch]] = (-1, [])

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> HostBatch:
        epoch, step = divmod(index, self._steps)
        if self._planned[0] != epoch:
            self._planned = (
                epoch,
                plan_epoch(self._lengths, self._batch_size, self._bucket_boundaries, self._seed, epoch),
            )
        return _assemble(self._examples, self._planned[1][step], self._batch_size, self._pad_id)


def _check_split(lengths: np.ndarray) -> None:
    if not len(lengths):
        raise UserError("data: expected at least one example in a split, found none; check --config.data_dir")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"--config.batch_size: expected at least 1 example, found {batch_size}")


def _permutation(size: int, seed: int) -> np.ndarray:
    shuffled = grain.MapDataset.range(size).shuffle(seed=seed)
    return np.array([shuffled[i] for i in range(size)], np.int64)


def _cut(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, bucket_boundaries: Sequence[int]
) -> list[PlannedBatch]:
    """Full batches of each bucket, then those of the buckets' leftovers; how many and how long, lengths decide."""
    _check_split(lengths)
    _check_batch_size(batch_size)
    buckets = np.searchsorted(bucket_boundaries, lengths[order])
    batches, leftovers = [], []
    for bucket in range(len(bucket_boundaries) + 1):  # the last one is too long for any edge, which _chunks reports
        members = order[buckets == bucket]
        num_full = len(members) - len(members) % batch_size
        batches += _chunks(members[:num_full], lengths, batch_size, bucket_boundaries)
        leftovers.append(members[num_full:])
    return batches + _chunks(np.concatenate(leftovers), lengths, batch_size, bucket_boundaries)


def _chunks(
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


def _assemble(examples: TokenizedExamples, batch: PlannedBatch, batch_size: int, pad_id: int) -> HostBatch:
    shape = batch_size, batch.length
    num_real = len(batch.rows)
    input_ids = np.full(shape, pad_id, np.int32)
    token_type_ids = np.zeros(shape, np.int32)
    lengths = np.ones(batch_size, np.int64)  # no row is masked throughout: its softmax would be 0/0
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
