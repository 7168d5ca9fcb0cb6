"""The report of a made-up study, whose answers are known."""

import dataclasses
import json
import re
import shutil
import subprocess

import matplotlib.image
import numpy as np
import pytest
from helpers import Page
from matplotlib.figure import Figure

from bertjax.errors import UserError
from bertjax.study.charts import (
    THEMES,
    _style,
    _thinned,
    calibration_chart,
    cost_chart,
    groups_of,
    headline_rows,
    save_chart,
)
from bertjax.study.report import CHARTS, COLUMNS, about, at_equal_time, headline, markdown, settings_of, write_report
from bertjax.study.summary import BASE, LONGER, summarise

LABELS = np.random.default_rng(0).integers(0, 5, 400)
SCORES = np.random.default_rng(1).uniform(0, 5, 60)


def line(tasks, method, share, seed, right, steps=0.2, peak=100):
    """A cell of which about a share of the classes is right, and scores correlate by as much."""
    rng = np.random.default_rng((seed, round(1000 * right)))
    dev = {}
    for task in tasks.split("+"):
        if task == "sts":
            predicted = np.round(SCORES * right + rng.normal(size=60) * (1 - right), 3)
            name, score, labels = "pearson", np.corrcoef(predicted, SCORES)[0, 1], np.round(SCORES, 3)
            numbers = {"pearson": float(score), "smoothness": 0.5}
        else:
            predicted = np.where(rng.random(400) < right, LABELS, (LABELS + 1) % 5)
            name, score, labels = "accuracy", np.mean(predicted == LABELS), LABELS
            numbers = {"accuracy": float(score), "calibration_error": 0.1 * right, "smoothness": right}
        dev[task] = numbers | {"metric": name, "score": float(score)}
        dev[task] |= {"predicted": predicted.tolist(), "labels": labels.tolist()}
    return {
        "tasks": tasks,
        "method": method,
        "share": share,
        "seed": seed,
        "settings": {"epochs": 3} | ({"smart": {"preset": "bertjax"}} if method == "smart" else {}),
        "dev": dev,
        "steps": 3,
        "cost": {"flops_ratio": 1.0 if method == "fine-tune" else 2.5, "peak_bytes": peak},
        "timing": {"step_seconds_median": steps},
        "further_seconds": 1.2 if method == "bad" else 0.0,
        "log": [[1.0, 1.5 - right], [2.0, 1.2 - right]],
        "warnings": ["seen <before>"] if method == "smart" else [],
        "versions": {"jax": "1.2.3"},
        "devices": {"platform": "cpu"},
        "machine": "a",
    }


LINES = [
    line(tasks, method, share, seed, right, steps, peak)
    for tasks in ("sst5", "sst5+sts")
    for share in (0.1, 1.0)
    for method, right, steps, peak in (
        ("smart", 0.75, 0.4, 150),
        ("fine-tune", 0.5, 0.2, 100),
        ("R_s", 0.5, 0.3, 120),
        ("bad", 0.3, 0.2, 100),
    )
    for seed in range(3)
]


@pytest.fixture(scope="module")
def rows():
    return summarise(LINES)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A folder with the report of LINES."""
    folder = tmp_path_factory.mktemp("report")
    write_report(LINES, folder / "study", folder)
    return folder


def test_a_summary_by_hand(rows):
    assert [row.method for row in rows[:4]] == ["fine-tune", "smart", "R_s", "bad"]
    assert [row.group for row in rows[::4]] == [
        ("sst5", "sst5", 0.1),
        ("sst5", "sst5", 1.0),
        ("sst5+sts", "sst5", 0.1),
        ("sst5+sts", "sts", 0.1),
        ("sst5+sts", "sst5", 1.0),
        ("sst5+sts", "sts", 1.0),
    ]
    base, ours, _, bad = rows[:4]
    by_seed = {x["seed"]: x["dev"]["sst5"]["accuracy"] for x in LINES if x["method"] == "smart" and x["share"] == 0.1}
    assert ours.scores == by_seed
    assert ours.mean == pytest.approx(np.mean(list(by_seed.values())))
    assert ours.deviation == pytest.approx(np.std(list(by_seed.values()), ddof=1))
    assert base.minus == {}
    assert ours.minus[BASE].difference.mean == pytest.approx(ours.mean - base.mean)
    assert ours.minus[BASE].is_beyond_noise
    assert bad.minus[BASE].difference.high < 0
    assert (ours.time_ratio, ours.flops_ratio, ours.memory_ratio) == pytest.approx((2.0, 2.5, 1.5))
    assert (ours.run_ratio, bad.run_ratio) == pytest.approx((2.0, 3.0))  # of 3 updates of 0.2 s, and 1.2 s before
    assert ours.metrics["calibration_error"] == pytest.approx(0.075)
    compared = [found for row in rows for found in row.minus.values()]
    few = summarise([x for x in LINES if x["seed"] < 2])
    assert [(row.minus[BASE].difference.seeds, row.minus[BASE].p) for row in few if row.minus] == [(2, None)] * 18
    assert [row.tested() for row in few] == [None] * 24
    assert len(compared) == 18
    assert all(found.p >= found.difference.p for found in compared)


def test_the_headline_says_what_is_beyond_noise(rows):
    first, *_ = headline(rows)
    better, worse = first.split("; ")
    assert re.fullmatch(r"sst5, 10% of train: beyond noise better than fine-tune: smart \(\+2\d\.\d\)", better)
    assert re.fullmatch(r"beyond noise worse: bad \(-\d+\.\d\)\.", worse)
    alike = [x for x in LINES if x["method"] in ("fine-tune", "R_s") and x["tasks"] == "sst5" and x["share"] == 1.0]
    alike += [line("sst5", "R_s", 1.0, seed, 0.5) for seed in range(3)]
    assert headline(summarise(alike)) == ["sst5, 100% of train: not told apart from fine-tune: R_s."]


def test_the_foremost_methods_recur_or_differ(rows):
    once = [row for row in rows if row.group == ("sst5", "sst5", 0.1)]
    assert [row.method for row in headline_rows(once)] == ["smart", "bad"]
    assert not any(row.tested().is_beyond_noise for row in rows if row.method == "R_s")
    assert [row.method for row in headline_rows(rows)] == ["smart", "R_s", "bad"] * 6


def test_plain_finetuning_for_as_long_is_a_comparison_of_its_own():
    part = [x for x in LINES if x["tasks"] == "sst5" and x["share"] == 1.0]
    rows = summarise([*part, *(line("sst5", "fine-tune longer", 1.0, seed, 0.74) for seed in range(3))])
    found = {row.method: row for row in rows}
    assert found["fine-tune"].minus == {}
    assert found["fine-tune longer"].minus.keys() == {BASE}
    smart, longer = found["smart"], found["fine-tune longer"]
    assert longer.minus[BASE].difference.mean == pytest.approx(longer.mean - found["fine-tune"].mean)
    assert smart.minus[LONGER].difference.mean == pytest.approx(smart.mean - longer.mean)
    p = [compared.p for row in rows for compared in row.minus.values()]
    assert len(p) == 7
    assert smart.minus[BASE].p > 3 * smart.minus[BASE].difference.p  # Holm, for seven, of which few are as sure
    (told,) = at_equal_time(rows)
    assert told.startswith(f"Minus fine-tune longer, points: smart {100 * smart.minus[LONGER].difference.mean:+.2f} (")
    assert told.count("p ") == 3
    assert at_equal_time(summarise(part)) == []


def test_what_is_not_known_or_not_alike_is_left_out():
    part = [
        dict(x) for x in LINES if x["tasks"] == "sst5" and x["share"] == 1.0 and x["method"] in ("smart", "fine-tune")
    ]
    ours = part[:3]
    ours[0]["timing"] = {"step_seconds_median": None}
    ours[1]["devices"] = {"platform": "gpu"}
    row = {row.method: row for row in summarise(part)}["smart"]
    assert (row.time_ratio, row.run_ratio) == pytest.approx((2.0, 2.0))  # of the third alone
    for x in ours:
        x["settings"] = {"tune": "head"}
        x["further_seconds"] = None
    row = {row.method: row for row in summarise(part)}["smart"]
    assert (row.flops_ratio, row.run_ratio) == (None, None)
    assert "cpu, JAX 1.2.3; gpu, JAX 1.2.3" in about(part[::-1], [row])[0]


def test_operations_are_of_the_runs_that_counted_them():
    base, ours = ([line("sst5", method, 1.0, seed, 0.5) for seed in range(3)] for method in ("fine-tune", "smart"))
    ours[0]["cost"] = {"flops_ratio": None, "peak_bytes": None}
    assert summarise([*base, *ours])[1].flops_ratio == 2.5
    for x in ours:
        x["cost"] = {"flops_ratio": None, "peak_bytes": None}
    row = summarise([*base, *ours])[1]
    assert (row.flops_ratio, row.memory_ratio) == (None, None)


def test_memory_is_compared_on_the_same_examples():
    base = [line("sst5", "fine-tune", 1.0, seed, 0.5, peak=100 * (seed + 1)) for seed in range(3)]
    ours = line("sst5", "smart", 1.0, 2, 0.5, peak=450)
    _, row = summarise([*base, ours])
    assert row.memory_ratio == pytest.approx(1.5)


def test_times_are_compared_on_the_same_machine():
    part = [
        dict(x) for x in LINES if x["tasks"] == "sst5" and x["share"] == 1.0 and x["method"] in ("smart", "fine-tune")
    ]
    ours, base = part[:3], part[3:]
    assert (ours[0]["method"], base[0]["method"]) == ("smart", "fine-tune")
    for x in (*ours, base[0]):
        x["machine"] = "b"
    base[0]["timing"] = {"step_seconds_median": 0.1}
    row = {row.method: row for row in summarise(part)}["smart"]
    assert (row.time_ratio, row.run_ratio) == pytest.approx((4.0, 4.0))  # the two of 0.2 s ran elsewhere
    assert row.memory_ratio == pytest.approx(1.5)
    base[0]["machine"] = "c"
    row = {row.method: row for row in summarise(part)}["smart"]
    assert (row.time_ratio, row.run_ratio, row.memory_ratio) == (None, None, pytest.approx(1.5))


def test_settings_are_told_once():
    lines = [x for x in LINES if x["method"] in ("smart", "fine-tune")]
    assert settings_of(lines) == [
        "All: epochs=3",
        "fine-tune (sst5 10%, sst5 100%, sst5+sts 10%, sst5+sts 100%): -",
        "smart (sst5 10%, sst5 100%, sst5+sts 10%, sst5+sts 100%): smart.preset=bertjax",
    ]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out: .*file.* cannot be written \(Not a directory\)"):
        write_report(LINES[:6], tmp_path, tmp_path / "file" / "out")


def test_the_report_is_whole(report):
    text = (report / "README.md").read_text()
    for name in re.findall(r"[\w-]+\.png", text):
        assert (report / name).read_bytes().startswith(b"\x89PNG")
    assert len(set(re.findall(r"[\w-]+\.png", text))) == 2 * len(CHARTS)
    assert text.count("\n| smart | 3 |") == 6
    assert "\n## sst5, 10% of train: accuracy on 400 rows of dev\n" in text
    html, page = (report / "report.html").read_text(), Page()
    page.feed(html)
    assert not page.open
    assert page.counts["svg"] == page.counts["figure"] == len(CHARTS)
    # Text and lines are in the page's colours, whichever these are.
    assert not any(colour in html.partition("<body>")[2] for colour in THEMES["light"])
    assert page.counts["table"] == 6
    assert len(page.ids) == len(set(page.ids)) > 0
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>|<rdf:RDF.*?</rdf:RDF>', "", html, flags=re.S)
    assert "seen &lt;before&gt;" in html
    assert (report / "cells.jsonl").read_text() == "".join(json.dumps(x) + "\n" for x in LINES)


def test_charts_drawn_again_are_the_same(rows, tmp_path):
    chart = calibration_chart(rows)
    first, again = (save_chart("c", chart, tmp_path) for _ in range(2))
    assert first == again != save_chart("d", chart, tmp_path)
    drawn = [(tmp_path / f"{name}-{theme}.png").read_bytes() for theme in THEMES for name in "cd"]
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_a_bar_in_a_name_is_no_column(rows):
    named = [dataclasses.replace(row, method="a|b") for row in rows[:1]]
    (line,) = [x for x in markdown(LINES, named, []).splitlines() if "a" in x and x.startswith("| a")]
    assert line.startswith("| a\\|b | 3 |")


def test_notes_baselines_versions_and_relative_smoothness(tmp_path):
    scores = [
        line("sts", method, 0.1, seed, right) for method, right in (("fine-tune", 0.5), ("D", 0.6)) for seed in range(3)
    ]
    for cell in scores:
        cell["dev"]["sts"] |= {"relative_smoothness": 0.125, "loss": 0.75}
    scores[0]["code"] = "0.1.0 abc"
    found = {"init_from": "minilm-l6", "score": 0.8375, "rows": 60, "threshold": None}
    notes = ("Read [this](first.md) & that.",)
    write_report(scores, tmp_path, tmp_path, baselines={"sts": found}, notes=notes)
    text, page = (tmp_path / "README.md").read_text(), (tmp_path / "report.html").read_text()
    assert text.index(notes[0]) < text.index("6 runs so far")
    assert 'Read <a href="first.md">this</a> &amp; that.' in page
    assert "bertjax 0.1.0 abc (1), not recorded (5)" in text
    assert "cosine of minilm-l6's mean-pooled sentence vectors: 83.75 on the same 60 rows" in text
    (row,) = [row.split(" | ") for row in text.splitlines() if row.startswith("| D |")]
    cells = dict(zip(COLUMNS, [cell.strip("| ") for cell in row], strict=True))
    assert (cells["paired seeds"], cells["loss"], cells["smoothness"]) == ("3", "0.750", "0.125")


def test_nothing_finished_is_told(tmp_path):
    with pytest.raises(UserError, match="--workdir: expected a study with finished cells in .*, found none"):
        write_report([], tmp_path, tmp_path / "out")


# Says, in the page's own title, how large each chart is that can be seen, and how many shapes it holds.
MEASURE = """<script>document.title = JSON.stringify([...document.querySelectorAll("svg")]
.filter(x => x.getClientRects().length).map(x => [x.getBoundingClientRect().width, x.getBoundingClientRect().height,
x.querySelectorAll("path, use").length]))</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_every_chart(report, tmp_path, theme):
    page = tmp_path / "measured.html"
    page.write_text((report / "report.html").read_text().replace("</body>", MEASURE))
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--enable-logging=stderr", "--window-size=1200,6000", f"--screenshot={tmp_path / 'page.png'}"),
            *(f"--blink-settings=preferredColorScheme={['dark', 'light'].index(theme)}", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    charts = json.loads(re.search("<title>(.*?)</title>", done.stdout)[1])
    assert len(charts) == len(CHARTS)
    for width, height, shapes in charts:
        assert width > 300
        assert height > 100
        assert shapes > 20
    picture = matplotlib.image.imread(tmp_path / "page.png")[..., :3]
    background = picture[0, 0]
    assert (background.mean() > 0.9) == (theme == "light")
    inked = np.abs(picture - background).max(axis=-1) > 0.3
    assert 0.01 < inked.mean() < 0.5


def test_long_curves_are_of_means_and_short_ones_as_they_are():
    short = [(1.0, 3.0), (2.0, 2.0)]
    assert _thinned(short) == short
    found = _thinned([(float(i), float(i)) for i in range(1, 126)])
    assert len(found) <= 60
    assert (found[0], found[-1]) == ((3.0, 2.0), (125.0, 124.5))


def test_cost_is_against_paired_differences_and_not_scores(rows):
    drawn = Figure()
    cost_chart(rows)[1](drawn)
    members = next(iter(groups_of(rows).values()))
    expected = {row.method: 100 * row.minus[BASE].difference.mean for row in members if row.method != BASE} | {BASE: 0}
    found = {bars.get_label(): bars[0].get_ydata()[0] for bars in drawn.axes[0].containers}
    assert found == pytest.approx(expected)


def test_a_method_looks_the_same_in_every_panel_and_unlike_the_others(rows):
    drawn, methods = Figure(), {row.method for row in rows}
    calibration_chart(rows)[1](drawn)
    looks = {}
    for axes in drawn.axes:
        for line in axes.lines:
            looks.setdefault(line.get_label(), set()).add((line.get_color(), line.get_marker()))
    assert len(drawn.axes) > 1
    assert all(len(look) == 1 for look in looks.values())
    assert len(set.union(*looks.values())) == len(looks)
    (legend,) = drawn.legends
    assert {text.get_text() for text in legend.get_texts()} == set(looks) <= methods
    assert len({tuple(_style(place).items()) for place in range(30)}) == 30
