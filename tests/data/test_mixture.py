"""Schedules of several tasks, and their batches as one stream."""

import numpy as np
import pytest

from bertjax.data.batching import train_batches
from bertjax.data.mixture import Mixture, task_schedule
from bertjax.data.tokenize import TokenizedExamples

SIZES = {"big": 900, "mid": 90, "small": 10}


def examples(count):
    ids = [np.arange(3, dtype=np.int32)] * count
    return TokenizedExamples([str(i) for i in range(count)], ids, ids, np.arange(count, dtype=np.int32))


def mixture(schedule, steps=12):
    iterators = {
        name: train_batches(examples(count), batch_size=4, bucket_boundaries=(8,), seed=0, epochs=steps)
        for name, count in (("a", 7), ("b", 20))
    }
    return Mixture(iterators, schedule)


def test_round_robin():
    assert task_schedule(SIZES, "round_robin", 7, 0) == ["big", "mid", "small", "big", "mid", "small", "big"]


@pytest.mark.parametrize(
    ("sampling", "power"), [("proportional", 1.0), ("square_root", 0.5)], ids=["proportional", "square_root"]
)
def test_shares(sampling, power):
    drawn = task_schedule(SIZES, sampling, 20_000, 0)
    weights = {name: size**power for name, size in SIZES.items()}
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        # Five standard errors.
        assert drawn.count(name) / 20_000 == pytest.approx(share, abs=5 * (share * (1 - share) / 20_000) ** 0.5)


def test_annealed_sampling_moves_towards_equal_shares():
    drawn = task_schedule(SIZES, "annealed", 40_000, 0)
    for part, power in ((drawn[:2000], 0.98), (drawn[-2000:], 0.22)):
        weights = {name: size**power for name, size in SIZES.items()}
        share = weights["mid"] / sum(weights.values())
        assert part.count("mid") / 2000 == pytest.approx(share, abs=5 * (share * (1 - share) / 2000) ** 0.5)


def test_the_seed_decides_the_draws():
    assert task_schedule(SIZES, "proportional", 100, 1) == task_schedule(SIZES, "proportional", 100, 1)
    assert task_schedule(SIZES, "proportional", 100, 1) != task_schedule(SIZES, "proportional", 100, 2)


@pytest.mark.parametrize("stream", [7, (7, 0), (7, 1), (7, 2)], ids=str)
def test_the_schedule_has_its_own_random_stream(stream):
    """The subset of examples and the order of batches come from streams like these."""
    other = np.random.default_rng(stream).random(100) < 0.5
    drawn = task_schedule({"a": 1, "b": 1}, "proportional", 100, 7)
    assert [name == "a" for name in drawn] != other.tolist()


def test_each_task_has_its_own_stream():
    mixed = list(mixture(["a", "b", "b", "a", "a"]))
    assert [list(batches) for batches in mixed] == [["a"], ["b"], ["b"], ["a"], ["a"]]
    alone = iter(train_batches(examples(20), batch_size=4, bucket_boundaries=(8,), seed=0, epochs=12))
    for place in (1, 2):
        np.testing.assert_array_equal(mixed[place]["b"]["index"], next(alone)["index"])


def test_all_together():
    batches = mixture(None)
    assert list(next(batches)) == ["a", "b"]


@pytest.mark.parametrize("schedule", [["a", "b", "b", "a", "a", "b"], None], ids=["one", "all"])
def test_a_state_resumes_with_the_next_batch(schedule):
    whole, cut = mixture(schedule), mixture(schedule)
    for _ in range(3):
        next(whole), next(cut)
    resumed = mixture(schedule)
    resumed.set_state(cut.get_state())
    for _ in range(3):
        batches, expected = next(resumed), next(whole)
        assert list(batches) == list(expected)
        for name in batches:
            np.testing.assert_array_equal(batches[name]["index"], expected[name]["index"])
