"""The guides: each page's loop runs as printed, with both terms, with R_s alone, and plain."""

import json
import os
import re
import subprocess
import sys

import pytest

from tools.manual import ROOT, blocks

FOLDER = ROOT / "docs" / "guides"
PAGES = sorted(set(FOLDER.glob("*.md")) - {FOLDER / "index.md"})
MAX_SMOOTHNESS_LINES, MAX_LINES = 5, 8

# Runs the forms in turn, the plain one first, and prints what each has logged.
RUNNER = """
import json, sys
logs = []
for code in json.load(sys.stdin):
    namespace = {"__name__": "guide"}
    exec(compile(code, "guide", "exec"), namespace)
    runs = namespace["histories"] if "histories" in namespace else {"": namespace["history"]}
    runs = {run: [{k: float(v) for k, v in metrics.items()} for metrics in log] for run, log in runs.items()}
    logs.append({"runs": runs, "imports bertjax": "bertjax" in sys.modules})
print("\\n" + json.dumps(logs))
"""


def script(page):
    (block,) = [block for block in blocks(page) if block.language == "python"]
    return block.code


def without(code, *marks):
    """The code without the lines that end in one of the marks."""
    return "".join(line for line in code.splitlines(True) if not line.rstrip().endswith(marks))


def marked(code, mark):
    return sum(line.rstrip().endswith(mark) for line in code.splitlines())


def run(*codes):
    """What each script logs, all of them run in one process of four devices in which every warning is an error."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": " ".join(flags),
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",  # as in conftest.py
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER],
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def at_radius_0(code):
    """The first step of a loop, with no perturbation: R_s is then 0, unless its two passes have other dropout masks."""
    one_step = re.sub(r"(?<=key\(2\), )\d+|(?<=in range\()\d+", "1", code)
    assert one_step != code
    return one_step.replace("divergence=", "radius=0.0, divergence=")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_loop_runs_with_both_terms_with_one_and_plain(page):
    code = script(page)
    forms = [without(code, "# R_s", "# D"), without(code, "# D"), code]
    if has_dropout := re.search("dropout|bernoulli", code):
        forms.append(at_radius_0(code))
    plain, smooth, both, *unperturbed = run(*forms)
    assert not plain["imports bertjax"]
    for form in (plain, smooth, both):
        for log in form["runs"].values():
            assert log[-1]["loss"] < 0.2 * log[0]["loss"]
            assert set(log[0]) == set(log[-1])
        # However it is mapped over devices, the same loop logs the same.
        first, *others = form["runs"].values()
        for log in others:
            assert log[-1] == pytest.approx(first[-1], rel=1e-3)
    (plain_log, *_), (log, *_) = plain["runs"].values(), both["runs"].values()
    assert set(plain_log[0]) == {"loss"}
    assert set(log[0]) == {"loss", "R_s", "D"}
    assert all(1e-6 < metrics["R_s"] < 1 for metrics in log)
    assert all(0 <= metrics["D"] < 1 for metrics in log)
    assert log[0]["D"] < 1e-12  # the anchor is a copy of the parameters, and has the same dropout masks
    assert log[-1]["D"] > 0
    assert len(unperturbed) == bool(has_dropout)
    for form in unperturbed:
        assert all(metrics["R_s"] < 1e-12 for log in form["runs"].values() for metrics in log)


def test_the_index_counts_the_lines_to_add():
    rows = re.findall(r"^\| \[[^]]+\]\((\w+)\.md\) \|.*\| (\d+) \| (\d+) \|$", (FOLDER / "index.md").read_text(), re.M)
    counts = {page.stem: (marked(script(page), "# R_s"), marked(script(page), "# D")) for page in PAGES}
    assert {name: (int(smooth), int(both) - int(smooth)) for name, smooth, both in rows} == counts
    for smooth, bregman in counts.values():
        assert 0 < smooth <= MAX_SMOOTHNESS_LINES
        assert bregman > 0
        assert smooth + bregman <= MAX_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_line_that_needs_smart_is_marked(page):
    assert "smart" not in without(script(page), "# R_s", "# D")
    assert all(f"`{mark}`" in page.read_text() for mark in ("# R_s", "# D"))


def test_every_guide_is_in_the_table_of_contents():
    listed = re.findall(r"^ *- (guides/\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(f"guides/{page.name}" for page in FOLDER.glob("*.md"))
