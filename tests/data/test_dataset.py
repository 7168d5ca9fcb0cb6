"""Datasets as prepared and read back: splits, labels, the cache, and errors of their sources."""

import math
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bertjax.data import dataset as dataset_module
from bertjax.data import sources
from bertjax.data.problems import BadData
from bertjax.errors import UserError
from bertjax.files import assets
from bertjax.tasks import get_task

ROWS = {
    "train": [("t1", " `` Good '' , it 's a film .", 3), ("t0", "awful naïve 映画 \\/", 0), ("t2", "fine", 4)],
    "dev": [("d1", "so so", 2), ("d2", "so so", 1)],
}


def write(folder, splits=ROWS, label="sentiment"):
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        lines = [f"\tid\tsentence\t{label}", *(f"{i}\t{a}\t{b}\t{c}" for i, (a, b, c) in enumerate(rows))]
        (folder / f"ids-sst-{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def load(name, **options):
    return dataset_module.load_or_prepare(name, sources.SOURCES[name], get_task(name).schema, **options)


def examples(rows):
    return [{"id": name, "text": text, "label": label} for name, text, label in rows]


def message(*args, lines=1, **kwargs):
    with pytest.raises(UserError) as raised:
        load(*args, **kwargs)
    text = str(raised.value)
    assert len(text.split("\n")) == lines
    return text


def prepared(cache):
    """The folders of prepared data; none may be left unfinished."""
    return sorted(path.name for path in cache.glob("datasets/*/*"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rate(tmp_path, cache, monkeypatch):
    """Replaces the fetched ratings by (rating, text) rows, numbered from 1, that the returned function writes."""
    folder = tmp_path / "hutto"
    folder.mkdir()
    monkeypatch.setattr(assets, "fetch_asset", lambda name: {"hutto-2014": folder}[name])

    def rate(rows):
        lines = [f"{i}\t{rating}\t{text}" for i, (rating, text) in enumerate(rows, 1)]
        path = folder / "movieReviewSnippets_GroundTruth.txt"
        path.write_bytes("\r\n".join(lines).encode())

    return rate


def test_gold_rows_in_the_order_of_their_file(tmp_path, cache, capfd):
    dataset = load("sst5", data_dir=write(tmp_path / "gold"))
    assert dataset.name == "sst5"
    assert dataset.skipped == ()
    assert "gold" in dataset.labels
    assert list(dataset.splits) == ["train", "dev"]
    for split, rows in ROWS.items():
        assert list(dataset.splits[split]) == examples(rows)
    assert {type(value) for value in dataset.splits["train"][0].values()} == {str, int}
    # stdout is for predictions only.
    assert capfd.readouterr() == ("", "")


def test_many_rows_keep_their_order(tmp_path, cache):
    rows = [(f"id{i * 37 % 100}", f"text {i}", i % 5) for i in range(100)]
    dataset = load("sst5", data_dir=write(tmp_path / "gold", {"train": rows, "dev": rows[:3]}))
    assert list(dataset.splits["train"]) == examples(rows)


def test_a_split_is_a_sequence(tmp_path, cache):
    train = load("sst5", data_dir=write(tmp_path / "gold")).splits["train"]
    expected = examples(ROWS["train"])
    assert len(train) == 3
    assert [train[0], train[2], train[-1], train[-3]] == [expected[i] for i in (0, 2, 2, 0)]
    assert train[1:] == expected[1:]
    assert train[::-2] == expected[::-2]
    assert train[3:] == []
    for index in (3, -4):
        with pytest.raises(IndexError):
            train[index]


def test_a_test_split_with_labels_and_without(tmp_path, cache):
    folder = write(tmp_path / "gold", ROWS | {"test": [("x", "unseen", 1)]})
    assert list(load("sst5", data_dir=folder).splits["test"]) == examples([("x", "unseen", 1)])
    (folder / "ids-sst-test.csv").unlink()
    (folder / "ids-sst-test-student.csv").write_text("\tid\tsentence\n0\tx\tunseen\n")
    dataset = load("sst5", data_dir=folder)
    assert list(dataset.splits["test"]) == examples([("x", "unseen", -1)])
    assert dataset.unlabelled == ("test",)


def test_pairs_with_scores(tmp_path, cache):
    for split in ("train", "dev"):
        rows = "0\tp\tone\ttwo\t2.5\n1\tq\tthree\tfour\t5\n"
        (tmp_path / f"sts-{split}.csv").write_text(f"\tid\tsentence1\tsentence2\tsimilarity\n{rows}")
    (tmp_path / "sts-test.csv").write_text("\tid\tsentence1\tsentence2\n0\tr\tfive\tsix\n")
    dataset = load("sts", data_dir=tmp_path)
    assert list(dataset.splits["dev"]) == [
        {"id": "p", "text": "one", "text_pair": "two", "label": 2.5},
        {"id": "q", "text": "three", "text_pair": "four", "label": 5.0},
    ]
    (unlabelled,) = dataset.splits["test"]
    assert math.isnan(unlabelled["label"])


def test_missing_gold_files_are_named(tmp_path, cache):
    assert message("sst5").startswith("--config.data_dir: sst5 needs")
    assert "rated_sst, which needs no files" in message("sst5")
    folder = write(tmp_path / "gold", {"train": ROWS["train"]})
    assert f"--config.data_dir: expected the file {folder / 'ids-sst-dev.csv'}" in message("sst5", data_dir=folder)
    text = message("sst5", data_dir=tmp_path / "none")
    assert all(f"the file {tmp_path / 'none' / f'ids-sst-{split}.csv'}" in text for split in ("train", "dev"))
    assert not cache.exists()


def test_a_bad_row_is_an_error_or_skipped(tmp_path, cache):
    bad = {"train": [*ROWS["train"], ("t3", "a film", 9)], "dev": [("d0", " ", 0), *ROWS["dev"]]}
    folder = write(tmp_path / "gold", bad)
    text = message("sst5", data_dir=folder, lines=3)
    assert text.splitlines()[1:] == [
        f"{folder / 'ids-sst-train.csv'}:5: sentiment: expected a whole number from 0 to 4, found '9'",
        f"{folder / 'ids-sst-dev.csv'}:2: sentence: expected text, found none",
    ]
    assert prepared(cache) == []
    # Twice: the second time from the cache.
    for _ in range(2):
        dataset = load("sst5", data_dir=folder, on_bad_row="skip")
        assert [len(split) for split in dataset.splits.values()] == [3, 2]
        assert dataset.skipped == (
            "ids-sst-train.csv:5: sentiment: expected a whole number from 0 to 4, found '9'",
            "ids-sst-dev.csv:2: sentence: expected text, found none",
        )
    assert prepared(cache) == [dataset.fingerprint]
    # The rows skipped before are an error again.
    assert message("sst5", data_dir=folder, lines=3) == text


def test_all_files_are_checked_whatever_is_wrong_with_the_first(tmp_path, cache):
    folder = write(tmp_path / "gold", {"train": [], "dev": [("d0", "film", 5)]})
    (folder / "ids-sst-test.csv").write_bytes(b"\tid\tsent\xe9nce\n0\tx\tunseen\n")
    assert [line.partition("ids-sst-")[2] for line in message("sst5", data_dir=folder, lines=4).splitlines()[1:]] == [
        "train.csv: expected rows, found only a header; add rows",
        "dev.csv:2: sentiment: expected a whole number from 0 to 4, found '5'",
        "test.csv:1: expected UTF-8, found byte 0xe9; save the file as UTF-8 text",
    ]


def test_both_own_files_are_checked(tmp_path, cache):
    paths = [tmp_path / "my.tsv", tmp_path / "dev.tsv"]
    for path in paths:
        path.write_text("sentence\tsentiment\n\t1\n")
    with pytest.raises(BadData) as raised:
        dataset_module.load_or_prepare("data_file", sources.OwnFile(paths[0], dev=paths[1]), get_task("cfimdb").schema)
    assert [(problem.file, problem.line) for problem in raised.value.problems] == [(str(path), 2) for path in paths]


def test_warnings_are_kept_with_the_prepared_data(tmp_path, cache):
    train = [("t0", "a film", 3), ("t1", "fine", 3)]
    folder = write(tmp_path / "gold", {"train": train, "dev": [("d0", "A film", 2)]})
    for _ in range(2):  # the second time from the cache
        one_label, also_in_dev = load("sst5", data_dir=folder).warnings
        assert one_label.startswith("sst5: all 2 rows of train have the label positive; ")
        assert also_in_dev.startswith("sst5: 1 of 2 rows of train have texts that are also in dev, ")
    assert load("sst5", data_dir=write(tmp_path / "other")).warnings == ()


def test_a_full_disk_is_one_line_and_leaves_nothing_half_prepared(tmp_path, cache):
    write(tmp_path, {"train": [(f"t{i}", f"film {i}", i % 5) for i in range(200)], "dev": [("d", "a story", 1)]})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
        with pytest.raises(UserError, match="the prepared data cannot be written .*; free space, or set BERTJAX_CACHE"):
            load("sst5", data_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert prepared(cache) == []
    assert len(load("sst5", data_dir=tmp_path).splits["train"]) == 200


def test_unknown_mode(tmp_path, cache):
    folder = write(tmp_path / "gold")
    assert message("sst5", data_dir=folder, on_bad_row="drop").startswith("--config.on_bad_row: expected error or skip")


def test_prepared_once_and_again_when_the_data_change(tmp_path, cache, monkeypatch):
    folder = write(tmp_path / "gold")
    prepare, times = dataset_module._prepare, []
    monkeypatch.setattr(dataset_module, "_prepare", lambda builder: (times.append(1), prepare(builder)))
    first = load("sst5", data_dir=folder)
    again = load("sst5", data_dir=write(tmp_path / "moved"))
    assert len(times) == 1
    assert first.fingerprint == again.fingerprint
    assert len(first.fingerprint) == 16
    assert list(again.splits["train"]) == examples(ROWS["train"])

    write(folder, {"dev": [("d1", "so so", 2), ("d2", "so so", 3)]})
    edited = load("sst5", data_dir=folder)
    assert len(times) == 2
    assert edited.fingerprint != first.fingerprint
    assert [example["label"] for example in edited.splits["dev"]] == [2, 3]

    monkeypatch.setattr(dataset_module.LabelledTexts, "VERSION", dataset_module.tfds.core.Version("9.0.0"))
    assert load("sst5", data_dir=folder).fingerprint not in (first.fingerprint, edited.fingerprint)


def test_train_and_dev_are_not_interchangeable(tmp_path, cache):
    one, other = [("a", "good", 4)], [("b", "bad", 0)]
    first = load("sst5", data_dir=write(tmp_path / "1", {"train": one, "dev": other}))
    second = load("sst5", data_dir=write(tmp_path / "2", {"train": other, "dev": one}))
    assert first.fingerprint != second.fingerprint
    assert list(second.splits["train"]) == examples(other)


def test_two_prepare_at_once(tmp_path, cache, monkeypatch):
    folder = write(tmp_path / "gold")
    prepare, barrier = dataset_module._prepare, threading.Barrier(2, timeout=20)
    lock, loaded = threading.Lock(), []

    def both(builder):
        with lock:  # in practice two processes; TFDS is not thread-safe
            prepare(builder)
        barrier.wait()

    monkeypatch.setattr(dataset_module, "_prepare", both)
    threads = [threading.Thread(target=lambda: loaded.append(load("sst5", data_dir=folder))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [list(dataset.splits["dev"]) for dataset in loaded] == [examples(ROWS["dev"])] * 2
    assert prepared(cache) == [loaded[0].fingerprint]


# Last decimal digits of the texts' SHA-256, computed with sha256sum and bc: 4, 8, 9, 7, 5, 2. 8 is dev, 9 is test.
SPLITS = {
    "a good film": "train",
    "a treat": "dev",
    "a bore": "test",
    "a mess": "train",
    "weak": "train",
    "naïve café": "train",
}


@pytest.mark.parametrize(("text", "split"), SPLITS.items())
def test_the_split_of_a_text(text, split):
    assert sources.split_of(text) == split


def test_equal_texts_share_a_split():
    for variant in ("a treat", "A Treat", "a  treat", "a treat\n", "a tre\uff41t"):
        assert sources.split_of(variant) == "dev"
    drawn = [sources.split_of(f"text {i}") for i in range(2000)]
    # Four standard deviations of a binomial draw.
    assert abs(drawn.count("train") - 1600) < 72
    assert abs(drawn.count("dev") - 200) < 54
    assert abs(drawn.count("test") - 200) < 54


def test_cuts_between_classes():
    ratings = {-4: 0, -2.0001: 0, -2: 0, -1.9999: 1, -1: 1, -0.9999: 2, 0: 2, 0.9999: 2, 1: 3, 1.9999: 3, 2: 4, 4: 4}
    assert {rating: sources.rating_class(rating) for rating in ratings} == ratings


def test_rated_sentences(rate):
    rated = [(rating, text) for rating, text in zip(("-2.0", "-1.0", "0.25", "1.0", "2.0"), SPLITS, strict=False)]
    rate(rated)
    dataset = load("rated_sst")
    assert list(dataset.splits) == ["train", "dev", "test"]
    for split in dataset.splits:
        expected = [(str(i + 1), text, i) for i, (_, text) in enumerate(rated) if SPLITS[text] == split]
        assert list(dataset.splits[split]) == examples(expected)
    assert "not SST's gold labels" in dataset.labels


def test_a_bad_rating(rate):
    rows = [("1.0", text) for text in SPLITS]
    rate([*rows, ("nan", "a film")])
    where = f"movieReviewSnippets_GroundTruth.txt:{len(rows) + 1}: rating: expected a number from -4 to 4, found 'nan'"
    assert where in message("rated_sst")
    assert load("rated_sst", on_bad_row="skip").skipped == (where,)


def test_settings_of_a_source_are_in_the_fingerprint(tmp_path, cache):
    path, schema = tmp_path / "my.tsv", get_task("cfimdb").schema
    path.write_text("key\tsentence\tsentiment\n" + "".join(f"k{i}\tfilm {i}\t{i % 2}\n" for i in range(40)))
    ids = [
        dataset_module.load_or_prepare("data_file", sources.OwnFile(path, key), schema).splits["dev"][0]["id"]
        for key in (None, "key")
    ]
    assert ids[1] == f"k{int(ids[0]) - 1}"
    with pytest.raises(UserError, match="expected a header with one tab-separated column 'kay'"):
        dataset_module.load_or_prepare("data_file", sources.OwnFile(path, "kay"), schema)


@pytest.mark.parametrize("flag", ["data_file", "dev_file"])
def test_a_missing_own_file(tmp_path, cache, flag):
    path, gone = tmp_path / "my.tsv", tmp_path / "gone.tsv"
    path.write_text("sentence\tsentiment\nfilm\t0\n")
    source = sources.OwnFile(gone) if flag == "data_file" else sources.OwnFile(path, dev=gone)
    with pytest.raises(UserError, match=rf"--config.{flag}: expected the file {gone}, found none; check the path"):
        dataset_module.load_or_prepare("data_file", source, get_task("cfimdb").schema)


def test_ratings_as_scores(rate):
    rate([("-2.5", text) for text in SPLITS])
    source = sources.Ratings("movieReviewSnippets_GroundTruth.txt", "ratings")
    dataset = dataset_module.load_or_prepare("rated_movies", source, get_task("rated_tweets").schema)
    assert {row["label"] for split in dataset.splits.values() for row in split} == {-2.5}


def test_without_tensorflow(tmp_path, cache):
    """A fresh process, with every warning an error, prepares and reads; TensorFlow is not imported."""
    folder = write(tmp_path / "gold")
    code = f"""
import sys
from pathlib import Path
from bertjax.data import dataset as datasets, sources
from bertjax.tasks import get_task
schema = get_task("sst5").schema
dataset = datasets.load_or_prepare("sst5", sources.SOURCES["sst5"], schema, data_dir=Path({str(folder)!r}))
print(len(list(dataset.splits["train"])), "tensorflow" in sys.modules)
"""
    root = Path(dataset_module.__file__).parents[2]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 False\n", "")
