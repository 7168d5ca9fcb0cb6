"""Rows within a given time: what is left out, and the results file at every moment."""

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import timed_rows
from benchmarks.timed_rows import Results, Row, run_rows

ROOT = Path(__file__).parents[2]
HANGING = """
import ctypes, sys, time
from pathlib import Path
from benchmarks.timed_rows import Results, Row, end_process_at, run_rows

def hang():
    ctypes.PyDLL(None).sleep(60) if sys.argv[2] == "lock" else time.sleep(60)

deadline = time.monotonic() + 1.5
end_process_at(deadline)
measures = {"first": lambda: {"a": 1}, "hung": hang}
rows = [Row(name, "rows", name, lambda: 0.1, measure) for name, measure in measures.items()]
run_rows(rows, Results(Path(sys.argv[1]), {}), deadline)
"""


def row(name, measure=lambda: {"value": 1}, *, seconds=0.001, kind="kind", unavailable=""):
    return Row(name, "rows", kind, lambda: seconds, measure, {"about": name}, unavailable)


def run(rows, path, *, seconds=60.0):
    results = Results(path, {"machine": "here"})
    results.summarize = lambda: {"finished": sum(map(len, results.sections.values()))}
    run_rows(rows, results, time.monotonic() + seconds)
    return json.loads(path.read_text())


def fate(report):
    """What the file says of each row; each is there once."""
    found = [(entry["row"], "measured") for entry in report.get("rows", ())]
    found += [(entry["row"], name) for name in ("failed", "left_out") for entry in report[name]]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_the_file_is_complete_before_and_after_each_row(tmp_path):
    path, names, seen = tmp_path / "out.json", ["a", "b", "c"], []

    def measure():
        seen.append(json.loads(path.read_text()))
        return {"value": len(seen)}

    seen.append(run([row(name, measure) for name in names], path))
    for finished, report in enumerate(seen):
        assert fate(report) == {name: "measured" if i < finished else "left_out" for i, name in enumerate(names)}
    assert [entry["reason"] for entry in seen[1]["left_out"]] == [
        "started and did not end: the process was stopped",
        "not reached",
    ]
    assert seen[-1]["machine"] == "here"
    assert [report["finished"] for report in seen] == [0, 1, 2, 3]
    assert seen[-1]["rows"][1].items() >= {"row": "b", "about": "b", "value": 2}.items()


def test_a_failed_row_is_one_line_and_the_others_follow(tmp_path, capsys):
    def fail():
        raise MemoryError("out of\nmemory")

    report = run([row("a", fail), row("b")], tmp_path / "out.json")
    assert fate(report) == {"a": "failed", "b": "measured"}
    assert report["failed"] == [{"row": "a", "reason": "out of memory"}]
    assert "a: failed: out of memory\n" in capsys.readouterr().out


def test_what_does_not_fit_or_cannot_run_is_left_out_with_the_reason(tmp_path):
    rows = [row("long", seconds=50), row("short"), row("missing", unavailable="torch is not installed")]
    report = run(rows, tmp_path / "out.json", seconds=60)
    assert fate(report) == {"long": "left_out", "short": "measured", "missing": "left_out"}
    assert [entry["reason"] for entry in report["left_out"]] == [
        "needs about 75 s, 60 s are left",
        "torch is not installed",
    ]


def test_a_kind_that_takes_longer_than_predicted_is_expected_to_do_so_again(tmp_path):
    def slow():
        time.sleep(0.2)
        return {}

    rows = [
        row("slow", slow, seconds=0.01, kind="update"),
        row("fast", seconds=0.01, kind="check"),
        row("other", seconds=1, kind="check"),
        row("again", seconds=1, kind="update"),
    ]
    assert fate(run(rows, tmp_path / "out.json", seconds=10)) == {
        "slow": "measured",
        "fast": "measured",
        "other": "measured",
        "again": "left_out",
    }


def test_a_write_cut_short_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    before = run([row("a")], path)
    monkeypatch.setattr(timed_rows.os, "replace", lambda *_: sys.exit("killed"))
    with pytest.raises(SystemExit):
        run([row("b")], path)
    assert json.loads(path.read_text()) == before


@pytest.mark.parametrize(("holds", "status"), [("nothing", 0), pytest.param("lock", 1)])
def test_a_row_that_hangs_is_cut_off(tmp_path, holds, status):
    if holds == "lock" and not hasattr(ctypes.PyDLL(None), "sleep"):
        pytest.skip("no C library to hang in")
    path = tmp_path / "out.json"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-W", "error", "-c", HANGING, path, holds], cwd=ROOT, timeout=30)
    assert done.returncode == status
    assert time.monotonic() - start < 1.5 + timed_rows.TEARDOWN_SECONDS
    assert fate(json.loads(path.read_text())) == {"first": "measured", "hung": "left_out"}


def test_a_killed_process_leaves_what_it_had(tmp_path):
    path = tmp_path / "out.json"
    process = subprocess.Popen([sys.executable, "-c", HANGING.replace("+ 1.5", "+ 60"), path, "nothing"], cwd=ROOT)
    while not path.exists() or "did not end" not in path.read_text() or '"a": 1' not in path.read_text():
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert fate(json.loads(path.read_text())) == {"first": "measured", "hung": "left_out"}
