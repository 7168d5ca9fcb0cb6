"""The report of a made-up study with known answers."""

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
    by_group,
    calibration_chart,
    cost_chart,
    headline_rows,
    save_chart,
)
from bertjax.study.report import (
    CHARTS,
    COLUMNS,
    Report,
    about,
    equal_time_note,
    headline,
    markdown,
    settings_list,
    write_report,
)
from bertjax.study.summary import BASE, LONGER, summarise

LABELS = np.random.default_rng(0).integers(0, 5, 400)
SCORES = np.random.default_rng(1).uniform(0, 5, 60)


def line(tasks, method, share, seed, right, steps=0.2, peak=100):
    """A trial with about this share of classes correct, and scores correlated accordingly."""
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
    assert ours.minus[BASE].is_significant
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


def test_the_headline_lists_significant_differences(rows):
    first, *_ = headline(rows)
    better, worse = first.split("; ")
    assert re.fullmatch(r"sst5, 10% of train: better: smart \(\+2\d\.\d\)", better)
    assert re.fullmatch(r"worse: bad \(-\d+\.\d\)\.", worse)
    alike = [x for x in LINES if x["method"] in ("fine-tune", "R_s") and x["tasks"] == "sst5" and x["share"] == 1.0]
    alike += [line("sst5", "R_s", 1.0, seed, 0.5) for seed in range(3)]
    assert headline(summarise(alike)) == ["sst5, 100% of train: no significant difference: R_s."]


def test_headline_rows_recur_or_differ_significantly(rows):
    once = [row for row in rows if row.group == ("sst5", "sst5", 0.1)]
    assert [row.method for row in headline_rows(once)] == ["smart", "bad"]
    assert not any(row.tested().is_significant for row in rows if row.method == "R_s")
    assert [row.method for row in headline_rows(rows)] == ["smart", "R_s", "bad"] * 6


def test_methods_are_compared_with_longer_fine_tuning_too():
    part = [x for x in LINES if x["tasks"] == "sst5" and x["share"] == 1.0]
    rows = summarise([*part, *(line("sst5", "fine-tune longer", 1.0, seed, 0.74) for seed in range(3))])
    found = {row.method: row for row in rows}
    assert found["fine-tune"].minus == {}
    assert found["fine-tune longer"].minus.keys() == {BASE}
    smart, longer = found["smart"], found["fine-tune longer"]
    assert longer.minus[BASE].difference.mean == pytest.approx(longer.mean - found["fine-tune"].mean)
    assert smart.minus[LONGER].difference.mean == pytest.approx(smart.mean - longer.mean)
    assert sum(len(row.minus) for row in rows) == 7
    assert smart.minus[BASE].p > 3 * smart.minus[BASE].difference.p  # Holm over seven, most with larger p
    (note,) = equal_time_note(rows)
    assert note.startswith("Minus fine-tune longer, points")
    assert f": smart {100 * smart.minus[LONGER].difference.mean:+.2f} (" in note
    assert note.count(", p ") == 3
    assert equal_time_note(summarise(part)) == []


def test_unknown_times_and_other_devices_are_left_out():
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
    assert "cpu, JAX 1.2.3; gpu, JAX 1.2.3" in about(Report(part[::-1], [row]))["Runs"]


def test_operations_come_from_the_runs_that_counted_them():
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


def test_shared_settings_are_listed_once():
    lines = [x for x in LINES if x["method"] in ("smart", "fine-tune")]
    assert settings_list(lines) == [
        "All: epochs=3",
        "fine-tune (sst5 10%, sst5 100%, sst5+sts 10%, sst5+sts 100%): -",
        "smart (sst5 10%, sst5 100%, sst5+sts 10%, sst5+sts 100%): smart.preset=bertjax",
    ]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out: .*file.* cannot be written \(Not a directory\)"):
        write_report(LINES[:6], tmp_path, tmp_path / "file" / "out")


def test_the_report_is_complete(report):
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
    # Text and lines take the colours of the page's theme.
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


def test_a_bar_in_a_name_is_escaped(rows):
    named = [dataclasses.replace(row, method="a|b") for row in rows[:1]]
    (line,) = [x for x in markdown(Report(LINES, named), []).splitlines() if x.startswith("| a")]
    assert line.startswith("| a\\|b | 3 |")


def test_notes_baselines_versions_and_relative_smoothness(tmp_path):
    scores = [
        line("sts", method, 0.1, seed, right) for method, right in (("fine-tune", 0.5), ("D", 0.6)) for seed in range(3)
    ]
    for each in scores:
        each["dev"]["sts"] |= {"relative_smoothness": 0.125, "loss": 0.75}
    scores[0]["code"] = "0.1.0 abc"
    found = {"init_from": "minilm-l6", "score": 0.8375, "rows": 60, "threshold": None}
    notes = ("Read [this](first.md) & that.",)
    write_report(scores, tmp_path, tmp_path, baselines={"sts": found}, notes=notes)
    text, page = (tmp_path / "README.md").read_text(), (tmp_path / "report.html").read_text()
    assert text.index(notes[0]) < text.index("6 finished; cpu, JAX 1.2.3;")
    assert 'Read <a href="first.md">this</a> &amp; that.' in page
    assert "bertjax 0.1.0 abc (1), not recorded (5)" in text
    assert "cosine of minilm-l6's mean-pooled sentence vectors: 83.75 on the same 60 rows" in text
    (row,) = [row.split(" | ") for row in text.splitlines() if row.startswith("| D |")]
    cells = dict(zip(COLUMNS, [cell.strip("| ") for cell in row], strict=True))
    assert (cells["paired seeds"], cells["loss"], cells["smoothness"]) == ("3", "0.750", "0.125")


def test_a_study_without_finished_trials_is_refused(tmp_path):
    with pytest.raises(UserError, match="--workdir: expected .*cells.jsonl, found none"):
        write_report([], tmp_path, tmp_path / "out")


# Puts the size of each visible chart, and its number of shapes, into the page's title.
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


def test_long_curves_are_thinned_and_short_ones_are_not():
    short = [(1.0, 3.0), (2.0, 2.0)]
    assert _thinned(short) == short
    found = _thinned([(float(i), float(i)) for i in range(1, 126)])
    assert len(found) <= 60
    assert (found[0], found[-1]) == ((3.0, 2.0), (125.0, 124.5))


def test_the_cost_chart_shows_paired_differences(rows):
    figure = Figure()
    cost_chart(rows)[1](figure)
    members = next(iter(by_group(rows).values()))
    expected = {row.method: 100 * row.minus[BASE].difference.mean for row in members if row.method != BASE} | {BASE: 0}
    found = {bars.get_label(): bars[0].get_ydata()[0] for bars in figure.axes[0].containers}
    assert found == pytest.approx(expected)


def test_each_method_has_one_style_in_all_panels(rows):
    figure, methods = Figure(), {row.method for row in rows}
    calibration_chart(rows)[1](figure)
    looks = {}
    for axes in figure.axes:
        for line in axes.lines:
            looks.setdefault(line.get_label(), set()).add((line.get_color(), line.get_marker()))
    assert len(figure.axes) > 1
    assert all(len(look) == 1 for look in looks.values())
    assert len(set.union(*looks.values())) == len(looks)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(looks) <= methods
    assert len({tuple(_style(place).items()) for place in range(30)}) == 30
