"""The charts of a study, each for light and dark pages."""

import io
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bertjax.study.results import TrialLine
from bertjax.study.summary import BASE, SummaryRow

THEMES = {"light": ("#1f2328", "#8c959f"), "dark": ("#e6edf3", "#6e7681")}
"""Colours of text and of lines. Charts have no background of their own."""
CSS_COLOURS = ("--text", "--line")
"""The CSS variables that replace these colours in SVG."""
Chart = tuple[tuple[float, float], Callable[[Figure], None]]
"""Width and height in inches, and the function that draws it."""
Style = dict[str, Any]
"""A method's colour, marker and line style."""


def save_chart(name: str, chart: Chart, folder: Path) -> str:
    """Writes a chart as NAME-THEME.png for each theme; returns it as SVG in the colours of the page's CSS."""
    for theme, colours in THEMES.items():
        _draw(chart, colours, folder / f"{name}-{theme}.png", format="png", dpi=110)
    vector = io.StringIO()
    _draw(chart, THEMES["light"], vector, format="svg", metadata={"Date": None})
    text = vector.getvalue()
    for colour, variable in zip(THEMES["light"], CSS_COLOURS, strict=True):
        text = text.replace(colour, f"var({variable})")
    # Ids must be unique within a page.
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text[text.index("<svg") :])


def _draw(chart: Chart, colours: tuple[str, str], to: Any, **options: Any) -> None:
    text, line = colours
    names = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
    style: Any = dict.fromkeys((*names, "legend.labelcolor"), text)
    style |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), line)
    style |= {"grid.alpha": 0.35, "axes.facecolor": "none", "svg.hashsalt": "bertjax"}
    size, draw = chart
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(to, transparent=True, **options)


def group_title(group: tuple[str, str, float]) -> str:
    """A group's title: "sst5, 10% of train" or "sst5 of sst5+sts, 10% of train"."""
    tasks, task, share = group
    return f"{task if tasks == task else f'{task} of {tasks}'}, {100 * share:g}% of train"


def by_group(rows: Sequence[SummaryRow]) -> dict[tuple[str, str, float], list[SummaryRow]]:
    """Rows by their group."""
    groups: dict[tuple[str, str, float], list[SummaryRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def difference_chart(rows: Sequence[SummaryRow]) -> Chart | None:
    """Every tested method's difference from BASE in points, with its 95% interval."""
    entries = [(row, comparison) for row in rows if (comparison := row.tested()) is not None]
    if not entries:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        labels, groups = [], list(by_group([row for row, _ in entries]))
        for y, (row, comparison) in enumerate(reversed(entries)):
            difference, colour = comparison.difference, f"C{groups.index(row.group) % 10}"
            fill = colour if comparison.is_significant else "none"
            axes.plot([100 * difference.low, 100 * difference.high], [y] * 2, color=colour, linewidth=2)
            axes.plot(100 * difference.mean, y, "o", color=colour, markerfacecolor=fill)
            labels.append(f"{row.method} — {group_title(row.group)} ({difference.seeds} seeds)")
        axes.axvline(0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=1)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel=f"minus {BASE}, points; 95% interval, uncorrected; filled: corrected p < 0.05")
        axes.grid(axis="x")

    return (9.5, 1.1 + 0.27 * len(entries)), draw


def headline_rows(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """The rows of methods tested against BASE on several tasks or sizes, and those with a significant difference."""
    tested = [(row, comparison) for row in rows if (comparison := row.tested()) is not None]
    methods = [row.method for row, _ in tested]
    return [row for row, comparison in tested if methods.count(row.method) > 1 or comparison.is_significant]


def cost_chart(rows: Sequence[SummaryRow]) -> Chart | None:
    """Differences from BASE against the time of a run; a panel for each task and size with at least three methods.

    Paired differences, not scores: methods may have different seeds.
    """
    panels = {
        group: timed
        for group, members in by_group(rows).items()
        if len(timed := [row for row in members if row.run_ratio and (row.method == BASE or BASE in row.minus)]) >= 3
    }
    return _panels(panels, _draw_cost)


def _draw_cost(axes: Any, members: Sequence[SummaryRow], styles: Mapping[str, Style]) -> None:
    for row in members:
        comparison, tested = row.minus.get(BASE), row.tested()
        y = 0 if comparison is None else 100 * comparison.difference.mean
        reach = None if tested is None else 100 * (tested.difference.high - tested.difference.mean)
        style = styles[row.method] | {"linestyle": "none"}
        axes.errorbar(row.run_ratio, y, yerr=reach, capsize=2, label=row.method, **style)
    axes.set_xscale("log", base=2)  # further pre-training takes many times longer than anything else
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(x=0.15)
    axes.set(xlabel=f"time of a run, {BASE} = 1", ylabel=f"{members[0].metric}, points minus {BASE}")


def size_chart(rows: Sequence[SummaryRow]) -> Chart | None:
    """Mean score against the training-set size; a panel for each task, with methods run at several sizes."""
    panels: dict[tuple[str, str, float], list[SummaryRow]] = {}
    for row in rows:
        panels.setdefault((row.tasks, row.task, 1.0), []).append(row)
    for group, members in panels.items():
        methods = [row.method for row in members]
        panels[group] = [row for row in members if methods.count(row.method) > 1]
    return _panels({group: members for group, members in panels.items() if members}, _draw_sizes, show_share=False)


def _draw_sizes(axes: Any, members: Sequence[SummaryRow], styles: Mapping[str, Style]) -> None:
    for name in dict.fromkeys(row.method for row in members):
        rows = sorted((row for row in members if row.method == name), key=lambda row: row.share)
        shares, scores, deviations = zip(*((row.share, row.mean, row.deviation or 0) for row in rows), strict=True)
        x, y, errors = ([100 * value for value in values] for values in (shares, scores, deviations))
        axes.errorbar(x, y, yerr=errors, capsize=2, label=name, **styles[name])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="share of the training examples, %", ylabel=f"{members[0].metric} on dev, %")


def calibration_chart(rows: Sequence[SummaryRow]) -> Chart | None:
    """Calibration error against local smoothness; a panel for each classification group with at least three methods."""
    panels = {
        group: members
        for group, members in by_group(rows).items()
        if sum("calibration_error" in row.metrics for row in members) >= 3
    }
    return _panels(panels, _draw_calibration)


def _draw_calibration(axes: Any, members: Sequence[SummaryRow], styles: Mapping[str, Style]) -> None:
    for row in members:
        style = styles[row.method] | {"linestyle": "none"}
        axes.plot(row.metrics["smoothness"], 100 * row.metrics["calibration_error"], label=row.method, **style)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set(xlabel="divergence near the worst 2% perturbation", ylabel="expected calibration error, %")


def loss_chart(lines: Sequence[TrialLine]) -> Chart | None:
    """Training loss over epochs, mean and range over at least three seeds; a panel for each task and size."""
    logs_of: dict[tuple[str, str, float], dict[str, list[Any]]] = {}
    for line in lines:
        if line["log"]:
            group = logs_of.setdefault((line["tasks"], line["tasks"], line["share"]), {})
            group.setdefault(line["method"], []).append(_thinned(line["log"]))
    panels = {
        group: {name: logs for name, logs in methods.items() if len(logs) >= 3} for group, methods in logs_of.items()
    }
    return _panels({group: methods for group, methods in panels.items() if methods}, _draw_curves)


def _thinned(log: Sequence[tuple[float, float]], max_points: int = 60) -> list[tuple[float, float]]:
    """Averages neighbouring points of a long log, for a readable line."""
    size = -(-len(log) // max_points)
    parts = [log[begin : begin + size] for begin in range(0, len(log), size)]
    return [(part[-1][0], statistics.mean(loss for _, loss in part)) for part in parts]


def _draw_curves(
    axes: Any, methods: Mapping[str, Sequence[Sequence[tuple[float, float]]]], styles: Mapping[str, Style]
) -> None:
    for name, logs in methods.items():
        length = min(map(len, logs))
        epochs = [point[0] for point in logs[0][:length]]
        losses = list(zip(*([point[1] for point in log[:length]] for log in logs), strict=True))
        style = styles[name] | {"marker": "none"}
        axes.plot(epochs, list(map(statistics.mean, losses)), label=name, linewidth=1.2, **style)
        axes.fill_between(epochs, list(map(min, losses)), list(map(max, losses)), color=style["color"], alpha=0.15)
    axes.set(xlabel="epoch", ylabel="training loss")


def _panels(panels: Mapping[Any, Any], draw_one: Callable[..., None], *, show_share: bool = True) -> Chart | None:
    """One panel for each group, up to three in a row, with one legend; a method has the same style in all panels."""
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    names = [x if isinstance(x, str) else x.method for members in panels.values() for x in members]
    styles = {name: _style(index) for index, name in enumerate(dict.fromkeys(names))}

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(lines, columns, squeeze=False).ravel()
        handles: dict[str, Any] = {}
        for axes, (group, members) in zip(all_axes, panels.items(), strict=False):
            draw_one(axes, members, styles)
            axes.set_title(group_title(group) if show_share else group[1], fontsize=10)
            axes.grid()
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(name, handle)
        for axes in all_axes[len(panels) :]:
            axes.set_axis_off()
        figure.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False, fontsize=8)

    return (2.2 + 3.9 * columns, 3.4 * lines), draw


def _style(index: int) -> Style:
    """Thirty styles: ten colours, each with three markers and line styles."""
    turn = index // 10 % 3
    return {"color": f"C{index % 10}", "marker": "os^"[turn], "linestyle": ("-", "--", ":")[turn]}
