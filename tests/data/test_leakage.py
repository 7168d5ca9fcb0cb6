"""Warnings about a dataset's rows."""

from bertjax.data.leakage import dataset_warnings
from bertjax.data.tsv import Row
from bertjax.tasks import Schema

CLASSES = Schema(("text",), "mood", ("bad", "good"))
SCORES = Schema(("one", "two"), "likeness", low=0, high=5)


def rows(*texts, label=None):
    return [Row(f"r{i}", (text,), i % 2 if label is None else label) for i, text in enumerate(texts)]


def test_no_warning():
    splits = {"train": rows("a", "a", "b"), "dev": rows("c", label=1), "test": rows("d", label=1)}
    assert dataset_warnings(splits, CLASSES) == []


def test_one_label():
    one = {"train": rows("a", "b", label=1), "dev": rows("c", "d")}
    (line,) = dataset_warnings(one, CLASSES)
    assert line.startswith("all 2 rows of train have the label good; ")
    scores = {"train": [Row("a", ("x", "y"), 2.5)], "dev": [Row("b", ("x", "z"), 1)]}
    (line,) = dataset_warnings(scores, SCORES)
    assert line.startswith("all 1 rows of train have the label 2.5; ")


def test_texts_in_two_splits():
    train = rows("a film", "A  Treat", "a tre\uff41t", "Treat")
    line = "2 of 4 rows of train have texts that are also in {0}, the first of them r1; scores on {0} may be too high"
    assert dataset_warnings({"train": train, "dev": rows(" a treat")}, CLASSES) == [line.format("dev")]
    assert dataset_warnings({"train": train, "dev": rows("b"), "test": rows("a treat")}, CLASSES) == [
        line.format("test")
    ]


def test_pairs_are_compared_whole():
    train = [Row("a", ("x", "y"), 1), Row("b", ("y", "z"), 2)]
    assert dataset_warnings({"train": train, "dev": [Row("c", ("y", "x"), 1)]}, SCORES) == []
    assert len(dataset_warnings({"train": train, "dev": [Row("c", ("Y", "z"), 1)]}, SCORES)) == 1
