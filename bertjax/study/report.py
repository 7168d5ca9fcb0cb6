"""The report of a study: README.md with charts for a repository, and report.html, a page in one file."""

import collections
import dataclasses
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bertjax.config import default_config
from bertjax.errors import UserError
from bertjax.evaluation.html import html_page
from bertjax.files.atomic import write_json, write_text
from bertjax.study import statistics
from bertjax.study.baselines import BASELINES_FILE, Baselines
from bertjax.study.charts import (
    CSS_COLOURS,
    THEMES,
    by_group,
    calibration_chart,
    cost_chart,
    difference_chart,
    group_title,
    headline_rows,
    loss_chart,
    save_chart,
    size_chart,
)
from bertjax.study.plan import FURTHER
from bertjax.study.results import RESULTS_FILE, TrialLine
from bertjax.study.summary import BASE, LONGER, MIN_SEEDS, Comparison, SummaryRow, summarise

CHARTS = {
    "headline": f"Score on dev minus {BASE}'s, with 95% intervals: methods tested on several tasks or sizes, or with a "
    "significant difference",
    "differences": f"Score on dev minus {BASE}'s, with 95% intervals: all tested methods",
    "cost": f"Score on dev minus {BASE}'s, with 95% intervals, against the time of a run",
    "sizes": "Score on dev against the size of the training set, mean and standard deviation over seeds; each size has "
    "its own settings",
    "curves": "Training loss over epochs, mean and range over seeds",
    "calibration": "Calibration error against local smoothness, means over seeds",
}
"""Each chart's caption, which is also its alternative text."""
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
    "update time",
    "run time",
    "operations",
    "memory",
)
_SETTINGS_TITLE = "Settings that differ from the defaults"


def _css_colours(theme: str) -> str:
    return "".join(f"{name}:{colour};" for name, colour in zip(CSS_COLOURS, THEMES[theme], strict=True))


_STYLE = f""":root{{color-scheme:light dark;{_css_colours("light")}}}body{{font:16px/1.5 system-ui,sans-serif;
max-width:78rem;margin:2rem auto;padding:0 1rem;color:var(--text);background:#fff}}table{{border-collapse:collapse;
font-size:.85rem;display:block;overflow-x:auto}}th,td{{padding:.25rem .6rem;border-bottom:1px solid var(--line);
text-align:right;white-space:nowrap}}th:first-child,td:first-child{{text-align:left}}figure{{margin:1.5rem 0}}
svg{{max-width:100%;height:auto}}@media(prefers-color-scheme:dark){{:root{{{_css_colours("dark")}}}
body{{background:#0d1117}}}}"""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report is made from.

    Attributes:
      lines: the finished trials, from `bertjax.study.results.read_results`.
      rows: their summary, from `bertjax.study.summary.summarise`.
      baselines: scores before any fine-tuning by task, from `bertjax.study.baselines.read_baselines`.
      notes: the recipe's paragraphs in Markdown, with links but no other markup. They come first.
    """

    lines: Sequence[TrialLine]
    rows: Sequence[SummaryRow]
    baselines: Baselines = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def comparisons(self) -> int:
        """The number of comparisons that p-values are corrected for."""
        return sum(row.tested(other) is not None for row in self.rows for other in row.minus)

    def sections(self) -> Iterator[tuple[str, list[SummaryRow], list[str]]]:
        """Yields the heading, the rows and the paragraphs below the table for each task and training-set size."""
        for group, rows in by_group(self.rows).items():
            warnings = dict.fromkeys(warning for row in rows for warning in row.warnings)
            yield (
                f"{group_title(group)}: {rows[0].metric} on {rows[0].dev_rows:,} rows of dev",
                rows,
                [
                    *zero_label_note(rows[0].task, self.baselines),
                    *equal_time_note(rows),
                    *(f"Warning: {warning}" for warning in warnings),
                ],
            )


def write_report(
    lines: Sequence[TrialLine],
    root: Path,
    out: Path,
    *,
    baselines: Baselines = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> None:
    """Writes README.md, its charts, report.html, and a copy of the results if the folder is not the study's.

    Args:
      lines: see `Report`.
      root: the study's folder.
      out: the report's folder.
      baselines: see `Report`.
      notes: see `Report`.

    Raises:
      UserError: the study has no finished trials, or the folder cannot be written.
    """
    if not lines:
        raise UserError(f"--workdir: expected a study with finished trials in {root / RESULTS_FILE}, found none")
    try:
        _write_files(Report(lines, summarise(lines), baselines, notes), root, out)
    except OSError as error:
        raise UserError(
            f"--out: {error.filename or out} cannot be written ({error.strerror}); use another folder"
        ) from None
    print(f"{len(lines)} trials: {out / 'README.md'}, {out / 'report.html'}")


def _write_files(report: Report, root: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    charts = {
        "headline": difference_chart(headline_rows(report.rows)),
        "differences": difference_chart(report.rows),
        "cost": cost_chart(report.rows),
        "sizes": size_chart(report.rows),
        "curves": loss_chart(report.lines),
        "calibration": calibration_chart(report.rows),
    }
    svgs = {name: save_chart(name, chart, out) for name, chart in charts.items() if chart is not None}
    write_text(out / "README.md", markdown(report, list(svgs)))
    write_text(out / "report.html", _page(report, svgs))
    if out.resolve() != root.resolve():
        write_text(out / RESULTS_FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in report.lines))
        if report.baselines:
            write_json(out / BASELINES_FILE, report.baselines)


def markdown(report: Report, charts: Sequence[str]) -> str:
    """The report as Markdown, with the PNG files of these charts beside it."""
    parts = ["# The study", "Generated by `python -m bertjax.study`.", *report.notes]
    if findings := headline(report.rows):
        parts += ["## Findings", _findings_intro(report), "\n".join(f"- {finding}" for finding in findings)]
    for name in charts:
        parts.append(
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">'
            f'<img src="{name}-light.png" alt="{CHARTS[name]}"></picture>'
        )
        parts.append(f"{CHARTS[name]}.")
    parts += ["## How to read the numbers", "\n".join(f"- **{term}**: {text}" for term, text in about(report).items())]
    for heading, rows, paragraphs in report.sections():
        table = [COLUMNS, ["---"] * len(COLUMNS), *map(table_cells, rows)]
        parts += [f"## {heading}", "\n".join(f"| {' | '.join(map(_escape_bar, cells))} |" for cells in table)]
        parts += paragraphs
    parts += [f"## {_SETTINGS_TITLE}", "\n".join(f"- {text}" for text in settings_list(report.lines))]
    return "\n\n".join(parts) + "\n"


def _page(report: Report, svgs: Mapping[str, str]) -> str:
    escape = html.escape
    body = ["<h1>The study</h1>", *(f"<p>{_with_links(note)}</p>" for note in report.notes)]
    if findings := headline(report.rows):
        body += [f"<h2>Findings</h2><p>{escape(_findings_intro(report))}</p><ul>"]
        body += [*(f"<li>{escape(finding)}</li>" for finding in findings), "</ul>"]
    for name, svg in svgs.items():
        caption = escape(CHARTS[name])
        body.append(
            f'<figure><div role="img" aria-label="{caption}">{svg}</div><figcaption>{caption}.</figcaption></figure>'
        )
    body.append("<h2>How to read the numbers</h2><ul>")
    body += [*(f"<li><b>{escape(term)}</b>: {escape(text)}</li>" for term, text in about(report).items()), "</ul>"]
    for heading, rows, paragraphs in report.sections():
        body.append(f"<h2>{escape(heading)}</h2><table><tr>")
        body += [*(f"<th>{escape(column)}</th>" for column in COLUMNS), "</tr>"]
        body += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in table_cells(row))}</tr>" for row in rows]
        body += ["</table>", *(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)]
    body.append(f"<h2>{_SETTINGS_TITLE}</h2><ul>")
    body += [*(f"<li>{escape(text)}</li>" for text in settings_list(report.lines)), "</ul>"]
    return html_page("bertjax: the study", _STYLE, "".join(body))


def _with_links(note: str) -> str:
    return re.sub(r"\[(.+?)\]\((.+?)\)", r'<a href="\2">\1</a>', html.escape(note))


def _escape_bar(cell: str) -> str:
    return cell.replace("|", "\\|")


def _findings_intro(report: Report) -> str:
    return (
        f"Methods that score significantly better or worse than {BASE} on dev, with the difference in points. "
        f"Significant: p < 0.05, two-sided, paired by seed, corrected for all {report.comparisons} comparisons (Holm)."
    )


def headline(rows: Sequence[SummaryRow]) -> list[str]:
    """A sentence for each task and size: the methods significantly better or worse than BASE."""
    findings = []
    for group, members in by_group(rows).items():
        tested = {row.method: comparison for row in members if (comparison := row.tested()) is not None}
        if not tested:
            continue
        means = {name: 100 * c.difference.mean for name, c in tested.items() if c.is_significant}
        better = ", ".join(f"{name} ({mean:+.1f})" for name, mean in means.items() if mean > 0)
        worse = ", ".join(f"{name} ({mean:+.1f})" for name, mean in means.items() if mean < 0)
        parts = [f"{word}: {names}" for word, names in (("better", better), ("worse", worse)) if names]
        none = f"no significant difference: {', '.join(tested)}"
        findings.append(f"{group_title(group)}: {'; '.join(parts) or none}.")
    return findings


def about(report: Report) -> dict[str, str]:
    """Explains the numbers: the meaning of each term."""
    lines = report.lines
    platforms = dict.fromkeys(f"{line['devices']['platform']}, JAX {line['versions']['jax']}" for line in lines)
    versions = collections.Counter(line.get("code", "not recorded") for line in lines)
    codes = ", ".join(f"{code} ({count})" for code, count in versions.items())
    return {
        "Runs": f"{len(lines)} finished; {'; '.join(platforms)}; bertjax {codes}. They start from "
        f"{default_config().init_from} unless the settings at the end say otherwise.",
        "Score": "the task's metric × 100 on dev after the last update, mean ± standard deviation over seeds. A seed "
        "draws the training examples, their order, the head and the dropout masks, the same for every method.",
        f"Minus {BASE}": "the mean difference in points, paired by seed over the seeds that both methods have.",
        "95% interval": "of that difference, not corrected. It covers other seeds and other dev sets of this size: "
        f"Student's t, with the variance over seeds and, from a bootstrap of {statistics.RESAMPLES:,} resamples, over "
        "dev examples. It is never narrower than that of a paired t-test over seeds (bertjax.study.statistics). It "
        f"needs {MIN_SEEDS} seeds. An interval that contains 0 does not show that there is no effect.",
        "p, corrected": f"two-sided, from the same test, corrected for all {report.comparisons} comparisons (Holm). "
        "* marks values below 0.05.",
        "Loss, calibration error": "on dev, means over seeds. The loss is the cross-entropy in nats or, for scores, "
        "the squared error of standardised scores.",
        "Smoothness": "the mean divergence of the outputs near the worst perturbation of 2% of the embeddings' RMS; "
        "for scores, divided by the predictions' variance. Lower is smoother.",
        "Update time, run time, memory": f"relative to {BASE}. A run's time is that of all its updates, further "
        "pre-training included. Memory is a step's peak. Times are compared on one machine only. They are rough, as "
        "several runs share it; benchmarks/steps.py measures a step alone.",
        "Operations": "of an update relative to plain fine-tuning, counted by XLA.",
        f"'{FURTHER}'": "starts from one further pre-training on all of the domain's texts. All seeds share it, so the "
        "intervals leave out its variation.",
    }


def table_cells(row: SummaryRow) -> list[str]:
    """A table row as text, in the order of COLUMNS; empty where a value is unknown."""
    comparison, tested, deviation = row.minus.get(BASE), row.tested(), row.deviation
    calibration = row.metrics.get("calibration_error")
    smoothness = row.metrics.get("relative_smoothness", row.metrics.get("smoothness"))
    return [
        row.method,
        str(len(row.scores)),
        f"{100 * row.mean:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}"),
        "" if comparison is None else f"{100 * comparison.difference.mean:+.2f}",
        "" if comparison is None else str(comparison.difference.seeds),
        "" if tested is None else f"{100 * tested.difference.low:+.2f} to {100 * tested.difference.high:+.2f}",
        "" if tested is None else format_p(tested) + (" *" if tested.is_significant else ""),
        f"{row.metrics['loss']:.3f}" if "loss" in row.metrics else "",
        "" if calibration is None else f"{100 * calibration:.1f}",
        "" if smoothness is None else f"{smoothness:.3g}",
        *(
            "" if ratio is None else f"{ratio:.2f}"
            for ratio in (row.time_ratio, row.run_ratio, row.flops_ratio, row.memory_ratio)
        ),
    ]


def format_p(comparison: Comparison) -> str:
    """The corrected p-value as text; these tests do not resolve values below 0.001."""
    p = comparison.p
    return "" if p is None else f"{p:.2g}" if p >= 0.001 else "<0.001"


def equal_time_note(rows: Sequence[SummaryRow]) -> list[str]:
    """A sentence that compares the methods of a task and size with LONGER; none without it."""
    differences = [
        f"{row.method} {100 * comparison.difference.mean:+.2f} ({100 * comparison.difference.low:+.2f} to "
        f"{100 * comparison.difference.high:+.2f}, p {format_p(comparison)})"
        for row in rows
        if (comparison := row.tested(LONGER)) is not None
    ]
    return [f"Minus {LONGER}, points (95% interval, corrected p): {'; '.join(differences)}."] if differences else []


def zero_label_note(task: str, baselines: Baselines) -> list[str]:
    """A sentence on what the checkpoint scores on a pair task before any fine-tuning; none if it is unknown."""
    if task not in baselines:
        return []
    baseline = baselines[task]
    threshold = baseline.get("threshold")
    fitted = "" if threshold is None else f", with a threshold of {threshold:.2f} fitted on all of train"
    return [
        f"Before any fine-tuning, the cosine of {baseline['init_from']}'s mean-pooled sentence vectors{fitted}: "
        f"{100 * baseline['score']:.2f} on the same {baseline['rows']:,} rows."
    ]


def settings_list(lines: Sequence[TrialLine]) -> list[str]:
    """The settings that differ from the defaults: those that all trials share, then those of each method."""
    flat = [set(_flat(line["settings"])) for line in lines]
    shared = set.intersection(*flat)
    groups: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    for line, settings in zip(lines, flat, strict=True):
        members = groups.setdefault((line["method"], tuple(sorted(settings - shared))), {})
        members[f"{line['tasks']} {100 * line['share']:g}%"] = None
    methods = [f"{name} ({', '.join(members)}): {', '.join(own) or '-'}" for (name, own), members in groups.items()]
    return [f"All: {', '.join(sorted(shared)) or '-'}", *sorted(methods)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    flat = []
    for name, value in settings.items():
        flat += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [f"{prefix}{name}={value}"]
    return flat
