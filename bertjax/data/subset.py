"""Part of a training set, drawn by the seed, to see what a method does where data are scarce."""

import dataclasses

import numpy as np

from bertjax.data.builders import Dataset


def with_train_share(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The dataset with a share of its training examples, at least one; other splits are left whole.

    The examples stay in the order of their source. Of one seed, what a smaller share draws is part of what a larger one
    draws; of several tasks each draws alike.

    Args:
      dataset: with a split "train".
      share: in (0, 1].
      seed: in [0, 2**32).
    """
    if share == 1:
        return dataset
    train = dataset.splits["train"]
    # Apart from all else that the seed decides.
    order = np.random.default_rng((seed, 1)).permutation(len(train))
    rows = np.sort(order[: max(1, round(share * len(train)))])
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": [train[int(row)] for row in rows]})
