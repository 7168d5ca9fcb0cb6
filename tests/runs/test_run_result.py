"""A run's result.json: valid ones are read, and a wrong type in any entry that is used is refused."""

import copy
import json

import pytest
from checkpoints import RESULT

from bertjax.errors import UserError
from bertjax.runs.run_result import read_result

SCORES = {"accuracy": 0.5, "loss": 1}
FULL = RESULT | {
    "datasets": {
        "sst5": {"fingerprint": "f", "labels": "gold", "label_names": ["bad", "good"], "skipped": []},
        "sts": {"fingerprint": "f", "labels": "gold", "label_names": [], "label_scale": {"mean": 2, "std": 1.5}},
    },
    "warnings": ["one"],
    "dev": {"sst5": {"final": SCORES, "best": SCORES | {"step": 3}}},
    "seed": 0,
}
USED = [
    ("datasets",),
    ("datasets", "sst5"),
    ("datasets", "sst5", "fingerprint"),
    ("datasets", "sst5", "labels"),
    ("datasets", "sst5", "label_names"),
    ("datasets", "sst5", "label_names", 0),
    ("datasets", "sts", "label_scale"),
    ("datasets", "sts", "label_scale", "mean"),
    ("datasets", "sts", "label_scale", "std"),
    ("lineage",),
    ("lineage", 0),
    ("lineage", 0, "init_from"),
    ("warnings",),
    ("warnings", 0),
    ("dev",),
    ("dev", "sst5"),
    ("dev", "sst5", "final"),
    ("dev", "sst5", "final", "accuracy"),
    ("dev", "sst5", "best"),
    ("dev", "sst5", "best", "step"),
    ("dev", "sst5", "best", "accuracy"),
    ("steps",),
]


def write(folder, result):
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_valid_result(tmp_path):
    assert read_result(write(tmp_path, FULL)) == FULL


def test_a_scale_without_spread_is_refused(tmp_path):
    result = copy.deepcopy(FULL)
    result["datasets"]["sts"]["label_scale"]["std"] = 0
    with pytest.raises(
        UserError, match="result.json: label_scale: expected a finite mean and a std above 0, found 2 and"
    ):
        read_result(write(tmp_path, result))


def test_further_pretraining_has_no_classes(tmp_path):
    result = copy.deepcopy(FULL)
    del result["datasets"]["sst5"]["label_names"]
    assert read_result(write(tmp_path, result)) == result


@pytest.mark.parametrize("path", USED, ids=str)
def test_another_type_is_refused(tmp_path, path):
    result = copy.deepcopy(FULL)
    holder = result
    for name in path[:-1]:
        holder = holder[name]
    for value in (None, True):
        holder[path[-1]] = value
        with pytest.raises(UserError, match=rf"result\.json: expected .*, found {value}; "):
            read_result(write(tmp_path, result))


@pytest.mark.parametrize("name", ["datasets", "lineage", "warnings", "dev", "steps"])
def test_a_missing_entry_is_refused(tmp_path, name):
    result = {key: value for key, value in FULL.items() if key != name}
    with pytest.raises(UserError, match=rf"result\.json: expected {name}, found none; "):
        read_result(write(tmp_path, result))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b" " * (2**26 + 1), b"1" * 5000])
def test_a_file_that_is_not_a_result(tmp_path, data):
    (tmp_path / "result.json").write_bytes(data)
    with pytest.raises(UserError, match=r"result\.json: expected"):
        read_result(tmp_path)


def test_no_result(tmp_path):
    with pytest.raises(UserError, match="not found; --workdir must be the folder of a finished run"):
        read_result(tmp_path)
