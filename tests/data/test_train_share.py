"""Subsets of the training examples."""

import numpy as np
import pytest

from bertjax.data.dataset import Dataset, subsample_train

WHOLE = Dataset("toy", "0" * 16, "", {"train": [{"id": str(i)} for i in range(200)], "dev": [{"id": "d"}]})


def drawn(share, seed):
    return [int(row["id"]) for row in subsample_train(WHOLE, share, seed).splits["train"]]


@pytest.mark.parametrize(("share", "size"), [(1, 200), (0.5, 100), (0.1, 20), (0.0125, 2), (1e-9, 1)])
def test_a_share_is_drawn_once_each_in_order(share, size):
    rows = drawn(share, 0)
    assert rows == sorted(set(rows))
    assert len(rows) == size
    assert subsample_train(WHOLE, share, 0).splits["dev"] == WHOLE.splits["dev"]


def test_a_smaller_share_is_part_of_a_larger_one():
    assert set(drawn(0.05, 3)) < set(drawn(0.1, 3)) < set(drawn(0.5, 3))


def test_seeds_draw_other_examples_and_each_as_often():
    assert drawn(0.1, 3) == drawn(0.1, 3) != drawn(0.1, 4)
    counts = np.bincount(np.concatenate([drawn(0.1, seed) for seed in range(400)]), minlength=200)
    assert 15 < counts.min() <= counts.max() < 70  # binomial of mean 40 and deviation 6: four deviations and more
