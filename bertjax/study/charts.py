"""The charts of a study, each for a light and a dark page."""

import io
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bertjax.study.summary import BASE, Row

THEMES = {"light": ("#1f2328", "#8c959f"), "dark": ("#e6edf3", "#6e7681")}
"""Of each the colours of text and of lines; the page's own colour is behind."""


PAGE = ("--text", "--line")
"""The CSS variables of a page that the charts take these colours from, as SVG."""


Chart = tuple[tuple[float, float], Callable[[Figure], None]]
"""Width and height in inches, and what draws it."""


Style = dict[str, Any]
"""A method's colour, mark and line."""


def save_chart(name: str, chart: Chart, folder: Path) -> str:
    """Draws a chart on nothing, as NAME-THEME.png in each theme's colours; returns it as SVG in the page's."""
    for theme, colours in THEMES.items():
        _draw(chart, colours, folder / f"{name}-{theme}.png", format="png", dpi=110)
    vector = io.StringIO()
    _draw(chart, THEMES["light"], vector, format="svg", metadata={"Date": None})
    text = vector.getvalue()
    for colour, variable in zip(THEMES["light"], PAGE, strict=True):
        text = text.replace(colour, f"var({variable})")
    # The names of an SVG's parts are to differ within a page.
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text[text.index("<svg") :])


def _draw(chart: Chart, colours: tuple[str, str], to: Any, **options: Any) -> None:
    text, line = colours
    names = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
    style: Any = dict.fromkeys((*names, "legend.labelcolor"), text)
    style |= dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), line)
    style |= {"grid.alpha": 0.35, "axes.facecolor": "none", "svg.hashsalt": "bertjax"}
    size, draw = chart
    with matplotlib.rc_context(style):
        drawn = Figure(figsize=size, layout="constrained", facecolor="none")
        FigureCanvasAgg(drawn)
        draw(drawn)
        drawn.savefig(to, transparent=True, **options)


def title_of(group: tuple[str, str, float]) -> str:
    """ "sst5, 10%", or "sst5 of sst5+sts, 10%"."""
    tasks, task, share = group
    return f"{task if tasks == task else f'{task} of {tasks}'}, {100 * share:g}% of train"


def groups_of(rows: Sequence[Row]) -> dict[tuple[str, str, float], list[Row]]:
    """Rows by what they are compared within."""
    found: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def difference_chart(rows: Sequence[Row]) -> Chart | None:
    """Every method's difference to BASE with its interval, in points."""
    entries = [(row, found) for row in rows if (found := row.tested()) is not None]
    if not entries:
        return None

    def draw(drawn: Figure) -> None:
        axes = drawn.subplots()
        labels, groups = [], list(groups_of([row for row, _ in entries]))
        for place, (row, compared) in enumerate(reversed(entries)):
            found, colour = compared.difference, f"C{groups.index(row.group) % 10}"
            filled = colour if compared.is_beyond_noise else "none"
            axes.plot([100 * found.low, 100 * found.high], [place] * 2, color=colour, linewidth=2)
            axes.plot(100 * found.mean, place, "o", color=colour, markerfacecolor=filled)
            labels.append(f"{row.method} — {title_of(row.group)} (n = {found.seeds})")
        axes.axvline(0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=1)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel=f"points better than {BASE}, with 95% interval; filled: significant after correction")
        axes.grid(axis="x")

    return (9.5, 1.1 + 0.27 * len(entries)), draw


def headline_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of methods that were tested against BASE more than once, and those that differ beyond noise."""
    tested = [(row, found) for row in rows if (found := row.tested()) is not None]
    methods = [row.method for row, _ in tested]
    return [row for row, found in tested if methods.count(row.method) > 1 or found.is_beyond_noise]


def cost_chart(rows: Sequence[Row]) -> Chart | None:
    """Points better than BASE against a run's time, one panel a task and size that has at least three methods.

    Not the scores: seeds differ, and methods have not all the same ones.
    """
    panels = {
        group: timed
        for group, members in groups_of(rows).items()
        if len(timed := [row for row in members if row.run_ratio and (row.method == BASE or BASE in row.minus)]) >= 3
    }
    return _panels(panels, _draw_cost)


def _draw_cost(axes: Any, members: Sequence[Row], styles: Mapping[str, Style]) -> None:
    for row in members:
        compared, tested = row.minus.get(BASE), row.tested()
        at = row.run_ratio, 0 if compared is None else 100 * compared.difference.mean
        reach = None if tested is None else 100 * (tested.difference.high - tested.difference.mean)
        axes.errorbar(*at, yerr=reach, capsize=2, label=row.method, **styles[row.method] | {"linestyle": "none"})
    # Further pre-training takes many times what anything else does.
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(x=0.15)
    axes.set(
        xlabel=f"time of a run, {BASE} = 1",
        ylabel=f"{members[0].metric}, points better than {BASE}",
    )


def size_chart(rows: Sequence[Row]) -> Chart | None:
    """Mean score against the training-set size, one panel a task, of methods with two sizes or more."""
    panels: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.tasks, row.task, 1.0), []).append(row)
    for group, members in panels.items():
        counts = [row.method for row in members]
        panels[group] = [row for row in members if counts.count(row.method) > 1]
    return _panels({group: members for group, members in panels.items() if members}, _draw_sizes, share=False)


def _draw_sizes(axes: Any, members: Sequence[Row], styles: Mapping[str, Style]) -> None:
    for name in dict.fromkeys(row.method for row in members):
        line = sorted((row for row in members if row.method == name), key=lambda row: row.share)
        errors = [100 * (row.deviation or 0) for row in line]
        axes.errorbar(
            [100 * row.share for row in line],
            [100 * row.mean for row in line],
            yerr=errors,
            capsize=2,
            label=name,
            **styles[name],
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="share of the training examples, %", ylabel=f"{members[0].metric} on dev, %")


def calibration_chart(rows: Sequence[Row]) -> Chart | None:
    """Calibration error, and local smoothness, of the methods of each classification with at least three."""
    panels = {
        group: members
        for group, members in groups_of(rows).items()
        if sum("calibration_error" in row.metrics for row in members) >= 3
    }
    return _panels(panels, _draw_calibration)


def _draw_calibration(axes: Any, members: Sequence[Row], styles: Mapping[str, Style]) -> None:
    for row in members:
        at = row.metrics["smoothness"], 100 * row.metrics["calibration_error"]
        axes.plot(*at, label=row.method, **styles[row.method] | {"linestyle": "none"})
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set(xlabel="divergence at the worst 2% perturbation", ylabel="expected calibration error, %")


def loss_chart(lines: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Training loss over epochs, mean and range of three seeds or more, one panel a task and size."""
    found: dict[tuple[str, str, float], dict[str, list[Any]]] = {}
    for line in lines:
        if line["log"]:
            group = found.setdefault((line["tasks"], line["tasks"], line["share"]), {})
            group.setdefault(line["method"], []).append(_thinned(line["log"]))
    panels = {
        group: {name: logs for name, logs in methods.items() if len(logs) >= 3} for group, methods in found.items()
    }
    return _panels({group: methods for group, methods in panels.items() if methods}, _draw_curves)


def _thinned(log: Sequence[tuple[float, float]], most: int = 60) -> list[tuple[float, float]]:
    """Means of neighbouring readings, so that a long run's line is no noise."""
    size = -(-len(log) // most)
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
        axes.plot(epochs, [statistics.mean(at) for at in losses], label=name, linewidth=1.2, **style)
        lows, highs = ([pick(at) for at in losses] for pick in (min, max))
        axes.fill_between(epochs, lows, highs, color=style["color"], alpha=0.15)
    axes.set(xlabel="epoch", ylabel="training loss")


def _panels(panels: Mapping[Any, Any], draw_one: Callable[..., None], *, share: bool = True) -> Chart | None:
    """Panels in which a method looks the same, and one legend of all methods, where they come first."""
    if not panels:
        return None

    across = min(3, len(panels))
    down = -(-len(panels) // across)
    names = [x if isinstance(x, str) else x.method for members in panels.values() for x in members]
    styles = {name: _style(place) for place, name in enumerate(dict.fromkeys(names))}

    def draw(drawn: Figure) -> None:
        every = drawn.subplots(down, across, squeeze=False).ravel()
        handles: dict[str, Any] = {}
        for axes, (group, members) in zip(every, panels.items(), strict=False):
            draw_one(axes, members, styles)
            axes.set_title(title_of(group) if share else group[1], fontsize=10)
            axes.grid()
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(name, handle)
        for axes in every[len(panels) :]:
            axes.set_axis_off()
        drawn.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False, fontsize=8)

    return (2.2 + 3.9 * across, 3.4 * down), draw


def _style(place: int) -> Style:
    """Ten colours, then the same with other marks and lines."""
    turn = place // 10 % 3
    return {"color": f"C{place % 10}", "marker": "os^"[turn], "linestyle": ("-", "--", ":")[turn]}
