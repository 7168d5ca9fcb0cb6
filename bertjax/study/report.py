"""The report of a study: Markdown with charts for a repository, and one HTML page that needs nothing else."""

import collections
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bertjax.config import default_config
from bertjax.errors import UserError
from bertjax.evaluation.html import html_page
from bertjax.files.atomic import write_json, write_text
from bertjax.study import statistics
from bertjax.study.baselines import BASELINES, Baselines
from bertjax.study.charts import (
    PAGE,
    THEMES,
    calibration_chart,
    cost_chart,
    difference_chart,
    groups_of,
    headline_rows,
    loss_chart,
    save_chart,
    size_chart,
    title_of,
)
from bertjax.study.results import CELLS
from bertjax.study.summary import BASE, LONGER, MIN_SEEDS, Comparison, Row, summarise

CHARTS = {
    "headline": f"Points by which methods beat {BASE} on dev: those tested on several tasks or sizes, or beyond noise",
    "differences": f"Points by which each method beats {BASE} on dev, with 95% intervals",
    "cost": f"Points better than {BASE} on dev, with 95% intervals, against the time of a run",
    "sizes": "Score on dev against the size of the training set, at each size's own settings",
    "curves": "Training loss over epochs, mean and range of the seeds",
    "calibration": "Calibration error against local smoothness",
}
"""Each chart's name and what it shows, which is also its text where it cannot be seen."""


COLUMNS = (
    "method",
    "seeds",
    "score, %",
    f"minus {BASE}, points",
    "paired seeds",
    "95% interval",
    "p, corrected",
    "loss",
    "calibration error, %",
    "smoothness",
    "time of an update",
    "of a run",
    "operations",
    "memory",
)


def _colours(theme: str) -> str:
    """CSS that sets the page's colours."""
    return "".join(f"{name}:{of};" for name, of in zip(PAGE, THEMES[theme], strict=True))


_STYLE = f""":root{{color-scheme:light dark;{_colours("light")}}}body{{font:16px/1.5 system-ui,sans-serif;
max-width:78rem;margin:2rem auto;padding:0 1rem;color:var(--text);background:#fff}}table{{border-collapse:collapse;
font-size:.85rem;display:block;overflow-x:auto}}th,td{{padding:.25rem .6rem;border-bottom:1px solid var(--line);
text-align:right;white-space:nowrap}}th:first-child,td:first-child{{text-align:left}}figure{{margin:1.5rem 0}}
svg{{max-width:100%;height:auto}}@media(prefers-color-scheme:dark){{:root{{{_colours("dark")}}}
body{{background:#0d1117}}}}"""


def cells_of(row: Row) -> list[str]:
    """A row of the table, as text, in the order of COLUMNS; empty where there is nothing to say."""
    compared, tested, deviation = row.minus.get(BASE), row.tested(), row.deviation
    calibration = row.metrics.get("calibration_error")
    smoothness = row.metrics.get("relative_smoothness", row.metrics.get("smoothness"))
    return [
        row.method,
        str(len(row.scores)),
        f"{100 * row.mean:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}"),
        "" if compared is None else f"{100 * compared.difference.mean:+.2f}",
        "" if compared is None else str(compared.difference.seeds),
        "" if tested is None else f"{100 * tested.difference.low:+.2f} to {100 * tested.difference.high:+.2f}",
        "" if tested is None else p_value(tested) + (" *" if tested.is_beyond_noise else ""),
        f"{row.metrics['loss']:.3f}" if "loss" in row.metrics else "",
        "" if calibration is None else f"{100 * calibration:.1f}",
        "" if smoothness is None else f"{smoothness:.3g}",
        "" if row.time_ratio is None else f"{row.time_ratio:.2f}",
        "" if row.run_ratio is None else f"{row.run_ratio:.2f}",
        "" if row.flops_ratio is None else f"{row.flops_ratio:.2f}",
        "" if row.memory_ratio is None else f"{row.memory_ratio:.2f}",
    ]


def p_value(compared: Comparison) -> str:
    """As text: below a thousandth these tests cannot tell the order of magnitude."""
    return "" if compared.p is None else f"{compared.p:.2g}" if compared.p >= 0.001 else "<0.001"


def headline(rows: Sequence[Row]) -> list[str]:
    """A sentence a task and size: which methods beat BASE beyond noise, and which lose to it."""
    lines = []
    for group, members in groups_of(rows).items():
        compared = {row.method: found for row in members if (found := row.tested()) is not None}
        if not compared:
            continue
        means = {name: 100 * found.difference.mean for name, found in compared.items() if found.is_beyond_noise}
        told = {sign: [f"{name} ({mean:+.1f})" for name, mean in means.items() if mean * sign > 0] for sign in (1, -1)}
        better = f"beyond noise better than {BASE}: {', '.join(told[1])}" if told[1] else ""
        worse = f"beyond noise worse: {', '.join(told[-1])}" if told[-1] else ""
        none = f"not told apart from {BASE}: {', '.join(compared)}" if not means else ""
        lines.append(f"{title_of(group)}: {'; '.join(filter(None, (better, worse, none)))}.")
    return lines


def settings_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not the defaults: a line of what all cells share, and one or more for each method."""
    flat = [set(_flat(line["settings"])) for line in lines]
    shared = set.intersection(*flat)
    found: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for line, values in zip(lines, flat, strict=True):
        groups = found.setdefault((line["method"], tuple(sorted(values - shared))), {})
        groups[f"{line['tasks']} {100 * line['share']:g}%"] = None
    told = [f"{name} ({', '.join(groups)}): {', '.join(values) or '-'}" for (name, values), groups in found.items()]
    return [f"All: {', '.join(sorted(shared)) or '-'}", *sorted(told)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}={value}")
    return found


def at_equal_time(members: Sequence[Row]) -> list[str]:
    """A sentence on how the methods of a task and size compare with plain fine-tuning for as long; none without it."""
    told = [
        f"{row.method} {100 * found.difference.mean:+.2f} ({100 * found.difference.low:+.2f} to "
        f"{100 * found.difference.high:+.2f}, p {p_value(found)})"
        for row in members
        if (found := row.tested(LONGER)) is not None
    ]
    return [f"Minus {LONGER}, points: {'; '.join(told)}."] if told else []


def about(lines: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> list[str]:
    """How the figures came about."""
    machines = {f"{line['devices']['platform']}, JAX {line['versions']['jax']}": None for line in lines}
    versions = collections.Counter(line.get("code", "not recorded") for line in lines)
    codes = ", ".join(f"{code} ({count})" for code, count in versions.items())
    comparisons = sum(row.tested(other) is not None for row in rows for other in row.minus)
    text = f"""{len(lines)} runs so far; {"; ".join(machines)}; bertjax {codes}. The settings at the
end say what each method is; unless they say otherwise, runs start from {default_config().init_from}. A run's score is
that of its last update on dev, ± the standard deviation over seeds. A seed draws the training examples, the head, their
order and the masks, the same for every method, so differences are paired, on the seeds that both have. "further" starts
from one further pre-training on all of the domain's text, for all seeds, so intervals leave out its own seed.

Intervals and p tell of other seeds and of other dev sets of this size: Student's t, with the variance over seeds and,
by a bootstrap of {statistics.RESAMPLES:,} resamples, over dev examples, and no narrower than a paired t-test over seeds
(bertjax.study.statistics). Both are given for {MIN_SEEDS} seeds or more; p is corrected for all
{comparisons} comparisons (Holm), and * marks those below 0.05.

Times and memory are against {BASE}'s: an update's, and a run's, which is of all its updates, further pre-training's
with them. Times are compared between runs on one machine; as these share it, they are rough: benchmarks/steps.py
measures in peace. Operations (XLA's count) are an update's, against plain fine-tuning. Smoothness is the mean
divergence at a perturbation of 2% of the embeddings' RMS, near the worst one, and of scores a share of the predictions'
variance: less is smoother. An interval that holds 0 is no proof of no effect: see the number of seeds and of rows."""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def without_labels(task: str, baselines: Baselines) -> list[str]:
    """A sentence on what the checkpoint scores on a task of pairs before fine-tuning; none where it is not known."""
    if task not in baselines:
        return []
    found = baselines[task]
    threshold = found.get("threshold")
    fitted = "" if threshold is None else f", with a threshold of {threshold:.2f} fitted on all of train"
    return [
        f"Before any fine-tuning, the cosine of {found['init_from']}'s mean-pooled sentence vectors{fitted}: "
        f"{100 * found['score']:.2f} on the same {found['rows']:,} rows."
    ]


def write_report(
    lines: Sequence[Mapping[str, Any]],
    root: Path,
    out: Path,
    *,
    baselines: Baselines = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> None:
    """Writes README.md, its charts, report.html and the cells into a folder.

    Args:
      lines: of the finished cells, as of `study_results.read_lines`.
      root: folder of the study.
      out: folder of the report.
      baselines: by task, from `study_baselines.read_baselines`.
      notes: paragraphs of the recipe's, which come first.

    Raises:
      UserError: the study has no finished cell, or the folder cannot be written.
    """
    if not lines:
        raise UserError(f"--workdir: expected a study with finished cells in {root / CELLS}, found none")
    rows = summarise(lines)
    try:
        _write(lines, rows, root, out, baselines, notes)
    except OSError as error:
        raise UserError(
            f"--out: {error.filename or out} cannot be written ({error.strerror}); use another one"
        ) from None
    print(f"{len(lines)} cells: {out / 'README.md'}, {out / 'report.html'}")


def _write(
    lines: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    root: Path,
    out: Path,
    baselines: Baselines,
    notes: Sequence[str],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    drawn = {
        "headline": difference_chart(headline_rows(rows)),
        "differences": difference_chart(rows),
        "cost": cost_chart(rows),
        "sizes": size_chart(rows),
        "curves": loss_chart(lines),
        "calibration": calibration_chart(rows),
    }
    vectors = {name: save_chart(name, chart, out) for name, chart in drawn.items() if chart is not None}
    write_text(out / "README.md", markdown(lines, rows, list(vectors), baselines, notes))
    write_text(out / "report.html", _page(lines, rows, vectors, baselines, notes))
    if out.resolve() != root.resolve():
        write_text(out / CELLS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        if baselines:
            write_json(out / BASELINES, baselines)


def markdown(
    lines: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    charts: Sequence[str],
    baselines: Baselines = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> str:
    """The report for a repository, with the charts of these names beside it."""
    findings = "\n".join(f"- {line}" for line in headline(rows))
    parts = ["# The study", "Written by `python -m bertjax.study`.", *notes]
    parts += [*filter(None, [findings]), *about(lines, rows)]
    for name in charts:
        parts.append(
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">'
            f'<img src="{name}-light.png" alt="{CHARTS[name]}"></picture>'
        )
        parts.append(f"{CHARTS[name]}.")
    for group, members in groups_of(rows).items():
        parts += [f"## {_heading(group, members)}"]
        table = [COLUMNS, ["---"] * len(COLUMNS), *map(cells_of, members)]
        parts.append("\n".join(f"| {' | '.join(map(_escaped, cells))} |" for cells in table))
        parts += without_labels(members[0].task, baselines)
        parts += at_equal_time(members)
        parts += [f"Warning: {line}" for line in dict.fromkeys(line for row in members for line in row.warnings)]
    parts += ["## Settings that are not the defaults", "\n".join(f"- {line}" for line in settings_of(lines))]
    return "\n\n".join(parts) + "\n"


def _heading(group: tuple[str, str, float], members: Sequence[Row]) -> str:
    return f"{title_of(group)}: {members[0].metric} on {members[0].dev_rows:,} rows of dev"


def _linked(note: str) -> str:
    """A paragraph of Markdown, whose only marks are links, as HTML."""
    return re.sub(r"\[(.+?)\]\((.+?)\)", r'<a href="\2">\1</a>', html.escape(note))


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _page(
    lines: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    vectors: Mapping[str, str],
    baselines: Baselines,
    notes: Sequence[str],
) -> str:
    body = [
        "<h1>The study</h1>",
        *(f"<p>{_linked(note)}</p>" for note in notes),
        "<ul>",
        *(f"<li>{html.escape(line)}</li>" for line in headline(rows)),
        "</ul>",
    ]
    body += [f"<p>{html.escape(line)}</p>" for line in about(lines, rows)]
    for name, vector in vectors.items():
        told = html.escape(CHARTS[name])
        body.append(
            f'<figure><div role="img" aria-label="{told}">{vector}</div><figcaption>{told}.</figcaption></figure>'
        )
    for group, members in groups_of(rows).items():
        body.append(f"<h2>{html.escape(_heading(group, members))}</h2><table><tr>")
        body += [f"<th>{html.escape(column)}</th>" for column in COLUMNS]
        body.append("</tr>")
        for row in members:
            body.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells_of(row))}</tr>")
        body.append("</table>")
        body += [f"<p>{html.escape(line)}</p>" for line in without_labels(members[0].task, baselines)]
        body += [f"<p>{html.escape(line)}</p>" for line in at_equal_time(members)]
        warnings = dict.fromkeys(line for row in members for line in row.warnings)
        body += [f"<p>Warning: {html.escape(line)}</p>" for line in warnings]
    body += ["<h2>Settings that are not the defaults</h2><ul>"]
    body += [*(f"<li>{html.escape(line)}</li>" for line in settings_of(lines)), "</ul>"]
    return html_page("bertjax: the study", _STYLE, "".join(body))
