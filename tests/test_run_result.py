"""A run's result.json read back: sound ones as they are, and every entry that is read, of another type, refused."""

import copy
import json

import pytest
from checkpoints import RESULT

from bertjax.errors import UserError
from bertjax.run_result import read_result

SCORES = {"accuracy": 0.5, "loss": 1}
FULL = RESULT | {
    "datasets": {"sst5": {"fingerprint": "f", "labels": "gold", "label_names": ["bad", "good"], "skipped": []}},
    "warnings": ["one"],
    "dev": {"sst5": {"final": SCORES, "best": SCORES | {"step": 3}}},
    "seed": 0,
}
READ = [
    ("datasets",),
    ("datasets", "sst5"),
    ("datasets", "sst5", "fingerprint"),
    ("datasets", "sst5", "labels"),
    ("datasets", "sst5", "label_names"),
    ("datasets", "sst5", "label_names", 0),
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


def test_a_sound_result(tmp_path):
    assert read_result(write(tmp_path, FULL)) == FULL


def test_further_pretraining_has_no_classes(tmp_path):
    result = copy.deepcopy(FULL)
    del result["datasets"]["sst5"]["label_names"]
    assert read_result(write(tmp_path, result)) == result


@pytest.mark.parametrize("path", READ, ids=str)
def test_another_type_is_refused(tmp_path, path):
    result = copy.deepcopy(FULL)
    holder = result
    for name in path[:-1]:
        holder = holder[name]
    for value in (None, True):
        holder[path[-1]] = value
        with pytest.raises(UserError, match=f"found {value}; make the run anew"):
            read_result(write(tmp_path, result))


@pytest.mark.parametrize("name", ["datasets", "lineage", "warnings", "dev", "steps"])
def test_a_missing_entry_is_refused(tmp_path, name):
    result = {key: value for key, value in FULL.items() if key != name}
    with pytest.raises(UserError, match=rf"result\.json: expected {name}, found none; make the run anew"):
        read_result(write(tmp_path, result))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b" " * (2**26 + 1), b"1" * 5000])
def test_what_is_no_result(tmp_path, data):
    (tmp_path / "result.json").write_bytes(data)
    with pytest.raises(UserError, match=r"result\.json: expected"):
        read_result(tmp_path)


def test_no_result(tmp_path):
    with pytest.raises(UserError, match="not found; --workdir must be the folder of a finished run"):
        read_result(tmp_path)
