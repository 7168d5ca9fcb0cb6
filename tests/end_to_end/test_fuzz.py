"""A fixed number of mangled files for every reader; `python -m tools.fuzz` tries more."""

import pytest

from tools import fuzz


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_a_good_file_is_taken(target, tmp_path):
    is_taken = fuzz.try_one(target, fuzz.TARGETS[target][1], tmp_path)
    assert is_taken or target == "index.json"  # whose shards are not there


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_nothing_but_a_refusal_comes_of_a_mangled_file(target):
    counts = fuzz.fuzz(target, 150, derandomize=True)
    assert counts[False] > 20
    assert sum(counts.values()) >= 150


def test_anything_else_is_a_failure(monkeypatch, tmp_path):
    def fail(path):
        raise KeyError("x")

    monkeypatch.setitem(fuzz.TARGETS, "broken", (fail, b""))
    with pytest.raises(fuzz.Failure, match="broken: KeyError"):
        fuzz.try_one("broken", b"", tmp_path)
