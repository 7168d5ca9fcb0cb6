"""Batches: optimal boundaries by brute force, a pinned order, every example once, and exact resumption."""

import itertools
import json

import numpy as np
import pytest

from bertjax.data.batching import (
    eval_batches,
    optimal_bucket_boundaries,
    plan_epoch,
    real_token_fraction,
    steps_per_epoch,
    train_batches,
)
from bertjax.data.tokenize import TokenizedExamples
from bertjax.errors import UserError

LENGTHS = np.array([3, 9, 4, 10, 5, 11, 6, 12, 7, 20])
BOUNDARIES = (8, 16, 24)
MANY = np.random.default_rng(0).integers(2, 60, 203)
MANY_BOUNDARIES = (16, 32, 48, 64)


def make_examples(lengths, label_dtype=np.int32):
    """Example i has tokens 100 i + 1, 100 i + 2, ..., its second half of type 1, and label i + 1."""
    return TokenizedExamples(
        ids=[str(i) for i in range(len(lengths))],
        input_ids=[100 * i + np.arange(1, n + 1, dtype=np.int32) for i, n in enumerate(lengths)],
        token_type_ids=[(np.arange(n) >= n // 2).astype(np.int32) for n in lengths],
        labels=np.arange(1, len(lengths) + 1).astype(label_dtype),
    )


def assert_equal_batches(batches, expected):
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


# Bucket boundaries


def padded_tokens(lengths, bucket_boundaries):
    return sum(min(boundary for boundary in bucket_boundaries if boundary >= length) for length in lengths)


def test_boundaries_by_hand():
    lengths = [3, 8, 8, 9, 30]
    assert optimal_bucket_boundaries(lengths, max_buckets=1) == (32,)
    assert optimal_bucket_boundaries(lengths, max_buckets=2) == (8, 32)  # 88 tokens; (16, 32) takes 96
    assert optimal_bucket_boundaries(lengths, max_buckets=3) == (8, 16, 32)
    assert optimal_bucket_boundaries(lengths, max_buckets=9) == (8, 16, 32)
    assert optimal_bucket_boundaries([30, 9, 8, 3, 8], max_buckets=2, multiple=10) == (10, 30)


def test_boundaries_are_optimal():
    rng = np.random.default_rng(1)
    for trial in range(60):
        lengths = rng.integers(1, 29, rng.integers(1, 12))
        multiple, max_buckets = 1 + trial % 4, 1 + trial % 5
        top = -(-int(lengths.max()) // multiple) * multiple
        below = range(multiple, top, multiple)
        candidates = [(*lower, top) for k in range(max_buckets) for lower in itertools.combinations(below, k)]
        bucket_boundaries = optimal_bucket_boundaries(lengths, max_buckets=max_buckets, multiple=multiple)
        assert bucket_boundaries in candidates
        best = min(padded_tokens(lengths, candidate) for candidate in candidates)
        assert padded_tokens(lengths, bucket_boundaries) == best


def test_only_the_last_boundary_is_limited_by_max_length():
    assert optimal_bucket_boundaries([3, 9, 18], max_buckets=3, max_length=20) == (8, 16, 20)
    assert optimal_bucket_boundaries([3, 9, 18], max_buckets=3, max_length=99) == (8, 16, 24)


def test_bad_lengths_and_max_buckets_are_refused():
    with pytest.raises(UserError, match="found none"):
        optimal_bucket_boundaries([], max_buckets=2)
    with pytest.raises(ValueError, match="max_buckets"):
        optimal_bucket_boundaries([3], max_buckets=0)


# Plans


def test_order_is_pinned():
    def plan(epoch):
        return [(batch.rows.tolist(), batch.length) for batch in plan_epoch(LENGTHS, 2, BOUNDARIES, 0, epoch)]

    assert plan(0) == [([5, 7], 16), ([1, 3], 16), ([8, 4], 8), ([2, 0], 8), ([6, 9], 24)]
    assert plan(1) == [([7, 3], 16), ([1, 5], 16), ([8, 6], 8), ([0, 9], 24), ([2, 4], 8)]


@pytest.mark.parametrize("batch_size", [1, 4, 32, 500])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_plan_holds_every_example_once(seed, batch_size):
    plan = plan_epoch(MANY, batch_size, MANY_BOUNDARIES, seed, 3)
    assert sorted(np.concatenate([batch.rows for batch in plan])) == list(range(len(MANY)))
    assert sum(len(batch.rows) != batch_size for batch in plan) == (len(MANY) % batch_size > 0)
    assert len(plan) == steps_per_epoch(MANY, batch_size, MANY_BOUNDARIES) == -(-len(MANY) // batch_size)
    for batch in plan:
        assert batch.length == min(boundary for boundary in MANY_BOUNDARIES if boundary >= MANY[batch.rows].max())


def test_only_leftovers_share_a_batch_with_another_bucket():
    # 203 examples in buckets of 16: at most three boundaries between leftovers fall inside a batch.
    buckets = np.searchsorted(MANY_BOUNDARIES, MANY)
    plan = plan_epoch(MANY, 16, MANY_BOUNDARIES, 0, 0)
    assert sum(len(set(buckets[batch.rows])) > 1 for batch in plan) <= 3


def test_seeds_and_epochs_differ():
    def order(seed, epoch):
        return tuple(np.concatenate([batch.rows for batch in plan_epoch(MANY, 16, MANY_BOUNDARIES, seed, epoch)]))

    orders = {(seed, epoch): order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert order(1, 2) == orders[1, 2]


def test_batches_of_one_bucket_are_spread_over_the_epoch():
    lengths = [batch.length for batch in plan_epoch(MANY, 4, MANY_BOUNDARIES, 0, 0)]
    assert sum(a != b for a, b in itertools.pairwise(lengths)) > 20  # 3 if lengths were ascending


def test_early_batches_are_balanced():
    """If the label depends on length, early batches have no more of either label, on average over many seeds."""
    labels, shares, drifts = MANY > 30, [], []
    for seed in range(100):
        plan = plan_epoch(MANY, 8, MANY_BOUNDARIES, seed, 0)
        early = np.concatenate([batch.rows for batch in plan[: len(plan) // 5]])
        shares.append(labels[early].mean())
        drifts.append(np.corrcoef(np.arange(len(plan)), [batch.length for batch in plan])[0, 1])
    for values, expected in ((shares, labels.mean()), (drifts, 0)):
        standard_error = np.std(values) / len(values) ** 0.5
        assert abs(np.mean(values) - expected) < 3 * standard_error
        assert standard_error < 0.03


def test_real_token_fraction():
    # [3, 3] padded to 8, then the leftovers [3, 10] to 16.
    assert real_token_fraction([3, 3, 10, 3], 2, (8, 16)) == 19 / 48
    # Rows that only fill the batch are padding too.
    assert real_token_fraction([3], 4, (8,)) == 3 / 32


@pytest.mark.parametrize("seed", [0, 5])
def test_real_token_fraction_matches_the_batches(seed):
    batches = list(
        train_batches(make_examples(MANY), batch_size=8, bucket_boundaries=MANY_BOUNDARIES, seed=seed, epochs=1)
    )
    real = sum(batch["attention_mask"][batch["valid"]].sum() for batch in batches)
    total = sum(batch["input_ids"].size for batch in batches)
    assert real == MANY.sum()
    assert real_token_fraction(MANY, 8, MANY_BOUNDARIES) == real / total


# Batches


def test_a_batch_by_hand():
    first, last = eval_batches(make_examples([5, 3, 4]), batch_size=2, bucket_boundaries=(4, 6), pad_id=7)
    expected_first = {
        "input_ids": [[101, 102, 103, 7], [201, 202, 203, 204]],
        "token_type_ids": [[0, 1, 1, 0], [0, 0, 1, 1]],
        "attention_mask": [[True, True, True, False], [True, True, True, True]],
        "label": [2, 3],
        "index": [1, 2],
        "valid": [True, True],
    }
    expected_last = {
        "input_ids": [[1, 2, 3, 4, 5, 7], [7, 7, 7, 7, 7, 7]],
        "token_type_ids": [[0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]],
        "attention_mask": [[True] * 5 + [False], [True] + [False] * 5],
        "label": [1, 0],
        "index": [0, 0],
        "valid": [True, False],
    }
    assert_equal_batches([first, last], [expected_first, expected_last])
    ints = {name: first[name].dtype for name in ("input_ids", "token_type_ids", "label", "index")}
    assert ints == dict.fromkeys(ints, np.int32)
    assert first["attention_mask"].dtype == first["valid"].dtype == bool


def test_labels_keep_their_type():
    examples = make_examples(LENGTHS, np.float32)
    assert next(eval_batches(examples, batch_size=4, bucket_boundaries=BOUNDARIES))["label"].dtype == np.float32


def test_eval_batches_hold_every_example_once_and_in_order_of_length():
    batches = list(eval_batches(make_examples(MANY), batch_size=8, bucket_boundaries=MANY_BOUNDARIES))
    index = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert sorted(index) == list(range(len(MANY)))
    assert (np.diff(MANY[index]) >= 0).all()
    assert [batch["valid"].sum() for batch in batches] == [8] * 25 + [3]
    assert {batch["input_ids"].shape for batch in batches} == {(8, boundary) for boundary in MANY_BOUNDARIES}


def test_train_batches_follow_the_plan():
    examples = make_examples(LENGTHS)
    batches = list(train_batches(examples, batch_size=4, bucket_boundaries=BOUNDARIES, seed=3, epochs=2, pad_id=7))
    plan = [batch for epoch in range(2) for batch in plan_epoch(LENGTHS, 4, BOUNDARIES, 3, epoch)]
    assert len(batches) == len(plan) == 6
    for batch, planned in zip(batches, plan, strict=True):
        num_real = len(planned.rows)
        assert batch["input_ids"].shape == (4, planned.length)
        assert batch["index"].tolist() == [*planned.rows, *[0] * (4 - num_real)]
        assert batch["valid"].tolist() == [True] * num_real + [False] * (4 - num_real)
        assert batch["attention_mask"].any(axis=1).all()
        for i, row in enumerate(planned.rows):
            n = LENGTHS[row]
            assert batch["label"][i] == row + 1
            assert batch["attention_mask"][i].sum() == n
            assert batch["input_ids"][i].tolist() == [*examples.input_ids[row], *[7] * (planned.length - n)]


@pytest.mark.parametrize("taken", [0, 1, 6, 7, 8, 13, 21])
def test_a_state_resumes_exactly(taken):
    def batches():
        return train_batches(make_examples(MANY), batch_size=32, bucket_boundaries=MANY_BOUNDARIES, seed=1, epochs=3)

    assert steps_per_epoch(MANY, 32, MANY_BOUNDARIES) == 7
    whole = list(batches())
    begun = batches()
    for _ in range(taken):
        next(begun)
    state = json.loads(json.dumps(begun.get_state()))
    rest = list(begun)
    resumed = batches()
    next(resumed)
    resumed.set_state(state)
    assert_equal_batches(rest, whole[taken:])
    assert_equal_batches(list(resumed), whole[taken:])
    begun.set_state(state)
    assert_equal_batches(list(begun), whole[taken:])


# Errors


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size):
    message = rf"--config\.batch_size: expected at least 1 example, found {batch_size}"
    with pytest.raises(UserError, match=message):
        train_batches(make_examples(LENGTHS), batch_size=batch_size, bucket_boundaries=BOUNDARIES, seed=0, epochs=1)
    with pytest.raises(UserError, match=message):
        eval_batches(make_examples(LENGTHS), batch_size=batch_size, bucket_boundaries=BOUNDARIES)
    with pytest.raises(UserError, match=message):
        steps_per_epoch(LENGTHS, batch_size, BOUNDARIES)


def test_an_empty_split_is_an_error():
    with pytest.raises(UserError, match="expected at least one example in a split, found none"):
        train_batches(make_examples([]), batch_size=2, bucket_boundaries=BOUNDARIES, seed=0, epochs=1)
    with pytest.raises(UserError, match="found none"):
        eval_batches(make_examples([]), batch_size=2, bucket_boundaries=BOUNDARIES)
    with pytest.raises(UserError, match="found none"):
        plan_epoch([], 2, BOUNDARIES, 0, 0)


def test_an_example_beyond_the_last_edge_is_an_error():
    with pytest.raises(ValueError, match="an example has 20 tokens, the last bucket boundary is 16"):
        train_batches(make_examples(LENGTHS), batch_size=2, bucket_boundaries=(8, 16), seed=0, epochs=1)
    with pytest.raises(ValueError, match="an example has 20 tokens"):
        eval_batches(make_examples(LENGTHS), batch_size=2, bucket_boundaries=(8, 16))
