"""Properties of the batches of any split: each example once an epoch, unchanged, and resumption at any point."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.batching import eval_batches, optimal_bucket_boundaries, steps_per_epoch, train_batches
from bertjax.data.mixture import Mixture, task_schedule
from bertjax.data.tokenize import TokenizedExamples

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=25)
SEEDS = st.integers(0, 2**32 - 1)
PAD = -1


def make_examples(lengths):
    """Example i has tokens 1000 i, 1000 i + 1, ..., its second half of type 1, and label i + 1."""
    return TokenizedExamples(
        ids=[str(i) for i in range(len(lengths))],
        input_ids=[1000 * i + np.arange(n, dtype=np.int32) for i, n in enumerate(lengths)],
        token_type_ids=[(np.arange(n) >= n // 2).astype(np.int32) for n in lengths],
        labels=np.arange(1, len(lengths) + 1, dtype=np.int32),
    )


def check(batch, examples, batch_size, bucket_boundaries):
    rows, length = batch["input_ids"].shape
    assert rows == batch_size
    assert length in bucket_boundaries
    real = int(batch["valid"].sum())
    assert batch["valid"].tolist() == [True] * real + [False] * (batch_size - real)
    longest = 0
    for row, index in enumerate(batch["index"][:real]):
        ids, types = examples.input_ids[index], examples.token_type_ids[index]
        longest = max(longest, len(ids))
        padding = length - len(ids)
        assert batch["input_ids"][row].tolist() == [*ids, *[PAD] * padding]
        assert batch["token_type_ids"][row].tolist() == [*types, *[0] * padding]
        assert batch["attention_mask"][row].tolist() == [True] * len(ids) + [False] * padding
        assert batch["label"][row] == index + 1
    assert length == min(boundary for boundary in bucket_boundaries if boundary >= longest)
    for row in range(real, batch_size):
        assert (batch["input_ids"][row] == PAD).all()
        assert batch["attention_mask"][row].sum() == 1
        assert batch["label"][row] == batch["index"][row] == 0


def indices(batches):
    return [int(i) for batch in batches for i in batch["index"][batch["valid"]]]


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


@given(
    lengths=LENGTHS,
    batch_size=st.integers(1, 7),
    max_buckets=st.integers(1, 4),
    multiple=st.integers(1, 9),
    seed=SEEDS,
    epochs=st.integers(1, 2),
    cut=st.floats(0, 1),
)
@settings(max_examples=50)
def test_training(lengths, batch_size, max_buckets, multiple, seed, epochs, cut):
    examples = make_examples(lengths)
    bucket_boundaries = optimal_bucket_boundaries(lengths, max_buckets=max_buckets, multiple=multiple)
    assert len(bucket_boundaries) <= max_buckets
    assert bucket_boundaries[-1] - multiple < max(lengths) <= bucket_boundaries[-1]
    assert all(boundary % multiple == 0 for boundary in bucket_boundaries)
    options = {
        "batch_size": batch_size,
        "bucket_boundaries": bucket_boundaries,
        "seed": seed,
        "epochs": epochs,
        "pad_id": PAD,
    }

    whole = list(train_batches(examples, **options))
    for batch in whole:
        check(batch, examples, batch_size, bucket_boundaries)
    steps = steps_per_epoch(lengths, batch_size, bucket_boundaries)
    assert len(whole) == epochs * steps
    for epoch in range(epochs):
        assert sorted(indices(whole[epoch * steps : (epoch + 1) * steps])) == list(range(len(lengths)))

    begun, taken = train_batches(examples, **options), round(cut * len(whole))
    for _ in range(taken):
        next(begun)
    resumed = train_batches(examples, **options)
    resumed.set_state(json.loads(json.dumps(begun.get_state())))
    assert_equal(list(resumed), whole[taken:])


@given(lengths=LENGTHS, batch_size=st.integers(1, 7), max_buckets=st.integers(1, 4))
@settings(max_examples=100)
def test_evaluation(lengths, batch_size, max_buckets):
    examples, bucket_boundaries = make_examples(lengths), optimal_bucket_boundaries(lengths, max_buckets=max_buckets)
    found = list(eval_batches(examples, batch_size=batch_size, bucket_boundaries=bucket_boundaries, pad_id=PAD))
    for batch in found:
        check(batch, examples, batch_size, bucket_boundaries)
    assert sorted(indices(found)) == list(range(len(lengths)))
    assert len(found) == -(-len(lengths) // batch_size)


class Numbers:
    """An iterator over 1, 2, ... in place of a task's batches."""

    def __init__(self):
        self._place = 0

    def __next__(self):
        self._place += 1
        return self._place

    def get_state(self):
        return {"place": self._place}

    def set_state(self, state):
        self._place = state["place"]


@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1),
    sampling=st.sampled_from(["round_robin", "proportional", "square_root", "annealed", None]),
    num_steps=st.integers(1, 20),
    seed=SEEDS,
    data=st.data(),
)
@settings(max_examples=100)
def test_a_mixture(sizes, sampling, num_steps, seed, data):
    order = None if sampling is None else task_schedule(sizes, sampling, num_steps, seed)
    mixture, later = (Mixture({name: Numbers() for name in sizes}, order) for _ in range(2))
    states, whole = [], []
    for _ in range(num_steps):
        states.append(json.loads(json.dumps(mixture.get_state())))
        whole.append(next(mixture))
    if order is not None:
        assert [[*batches] for batches in whole] == [[name] for name in order]
        with pytest.raises(StopIteration):
            next(mixture)
    for name in sizes:
        seen = [batches[name] for batches in whole if name in batches]
        assert seen == [*range(1, len(seen) + 1)]
        assert order is not None or len(seen) == num_steps
    # Any sequence of positions, forwards and backwards.
    for place in data.draw(st.lists(st.integers(0, num_steps - 1), min_size=1, max_size=4)):
        later.set_state(states[place])
        assert [next(later) for _ in whole[place:]] == whole[place:]
