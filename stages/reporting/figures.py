"""Plots of the runs' numbers, as SVG that takes its ink from the page: legible in light and dark, and in print."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...heads.averages import mean_over_classes
from ...heads.metrics import ScoredVolume
from ...store.runs import Run
from .table import ALL_CLASSES, Row, several_recipes, told_heads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers tell apart, without its black and its yellow.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# On a narrow screen it is shown at three quarters of this, and its words can still be read.
_WIDTH_INCHES, _HEIGHT_INCHES = 4.8, 3.4
# Of an axis of Dice at least, so that a difference that is nothing does not look like one.
_LEAST_SPAN_PERCENT = 20
_LEGEND_COLUMNS = 3
_LONG_NAME = 24  # letters, with which names do not stand side by side
# A colour that nothing else has: the page's own ink takes its place.
_INK = "#010203"
_SMALLEST_INCHES_A_GROUP = 0.5
# Points of a training curve: each the mean of as many steps.
_CURVE_POINTS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One plot, and what it says in words."""

    title: str
    #: What is drawn, for the legend below it and for who does not see it.
    caption: str
    svg: str


def label_efficiency(rows: Sequence[Row]) -> Plot | None:
    """Draw Dice against the number of labelled subjects, a line a head; None where nothing has a Dice."""
    lines: dict[str, dict[str, Row]] = defaultdict(dict)
    order: dict[str, tuple[str, int]] = {}  # subjects after frames, each from few to many
    for row in rows:
        if row.class_name == ALL_CLASSES and row.dice.mean is not None:
            lines[_line_of(row, rows)][row.amount] = row
            order[row.amount] = row.counted, row.subjects
    if not lines:
        return None
    figure, axes = _drawn()
    amounts = sorted(order, key=lambda amount: order[amount])
    places = {amount: place for place, amount in enumerate(amounts)}
    inks, reached = _inks(rows), []
    for number, (name, line) in enumerate(lines.items()):
        shift = (number - (len(lines) - 1) / 2) * 0.5 / max(1, len(lines))  # so that spreads do not cover each other
        there = [amount for amount in amounts if amount in line]
        means = [100 * (line[amount].dice.mean or 0) for amount in there]
        spreads = [100 * (line[amount].dice.standard_deviation or 0) for amount in there]
        axes.errorbar(
            [places[amount] + shift for amount in there],
            means,
            yerr=spreads,
            label=name,
            capsize=3,
            linewidth=1.4,
            marker=_MARKERS[number % len(_MARKERS)],
            **inks[name],
        )
        reached += [mean + sign * spread for mean, spread in zip(means, spreads, strict=True) for sign in (-1, 1)]
    axes.set_xticks(range(len(amounts)), amounts)
    counted = {row.counted for row in rows}
    axes.set_xlabel("labelled " + (counted.pop() if len(counted) == 1 else "subjects or frames"))
    axes.set_ylabel("mean Dice %")
    axes.set_ylim(*_dice_axis(reached))
    axes.set_xlim(-0.5, len(amounts) - 0.5)
    _legend(figure, axes)
    caption = "Mean Dice over all classes and test subjects; bars are one standard deviation over draws."
    return Plot(title="What more labels bring", caption=caption, svg=_svg(figure))


def distributions(runs: Sequence[Run], rows: Sequence[Row]) -> Plot | None:
    """Draw the Dice of every test volume in every draw, a column a head and number of subjects."""
    by_id = {run.id: run for run in runs}
    columns: dict[str, list[float]] = {}
    heads: dict[str, str] = {}
    for row in rows:
        if row.class_name != ALL_CLASSES:
            continue
        scored = [ScoredVolume.from_json(one) for run_id in row.run_ids for one in by_id[run_id].scores]
        found = [mean_over_classes([volume]).dice for volume in scored]
        name = f"{_line_of(row, rows)}\n{row.amount}"
        columns[name], heads[name] = [100 * dice for dice in found if dice is not None], _line_of(row, rows)
    columns = {name: values for name, values in columns.items() if values}
    if not columns:
        return None
    figure, axes = _drawn(groups=len(columns))
    random = np.random.default_rng(0)
    inks = _inks(rows)
    for number, (name, values) in enumerate(columns.items()):
        colour = inks[heads[name]]["color"]
        beside = number + random.uniform(-0.18, 0.18, len(values))
        axes.scatter(beside, values, s=12, alpha=0.55, color=colour, linewidths=0)
        axes.hlines(np.median(values), number - 0.3, number + 0.3, colors=_INK, linewidth=1.6)
    axes.set_xticks(range(len(columns)), list(columns), fontsize=8, rotation=0 if len(columns) < 8 else 90)
    axes.set_ylabel("Dice % of a volume")
    axes.set_ylim(*_dice_axis([value for values in columns.values() for value in values]))
    caption = "Each point is a test volume in a draw, the mean of its classes; the bar is the median."
    return Plot(title="Volume by volume", caption=caption, svg=_svg(figure))


def training_curves(runs: Sequence[Run], rows: Sequence[Row]) -> Plot | None:
    """Draw the loss of the first draw of every head, at its most subjects; None where nothing is fitted."""
    curves: dict[str, Sequence[Mapping[str, float]]] = {}
    by_id = {run.id: run for run in runs}
    for row in rows:  # in the order of subjects: the last one stands
        if row.class_name == ALL_CLASSES and (steps := by_id[row.run_ids[0]].steps):
            curves[_line_of(row, rows)] = steps
    if not curves:
        return None
    figure, axes = _drawn()
    inks = _inks(rows)
    for name, curve in curves.items():
        at, losses = _smoothed([step["number"] + 1 for step in curve], [step["loss"] for step in curve])
        axes.plot(at, losses, label=name, linewidth=1.4, **inks[name])
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    _legend(figure, axes)
    caption = "Cross-entropy and Dice loss in training, the means of neighbouring steps; the first draw of each head."
    return Plot(title="How they were fitted", caption=caption, svg=_svg(figure))


def gates(runs: Sequence[Run], rows: Sequence[Row]) -> Plot | None:
    """Draw the learned gate of `ladder` over its steps, a line a run; None where no run has one."""
    names = told_heads(rows)
    told = {
        f"{names[run.id]}, {run.settings.amount}#{run.settings.draw}": run.steps
        for run in runs
        if run.settings.head == "ladder"
    }
    lines = {name: steps for name, steps in told.items() if steps and "gate" in steps[0].get("told", {})}
    if not lines:
        return None
    figure, axes = _drawn()
    for number, (name, told_steps) in enumerate(lines.items()):
        at, values = [step["number"] + 1 for step in told_steps], [step["told"]["gate"] for step in told_steps]
        axes.plot(at, values, label=name, linewidth=1.4, color=_COLOURS[number % len(_COLOURS)])
    axes.set_xlabel("step")
    axes.set_ylabel("share of SAM's embedding")
    axes.set_ylim(0, 1)
    _legend(figure, axes)
    caption = "The gate of the ladder, sigmoid of alpha: 1 is SAM's embedding alone, 0 the CNN's."
    return Plot(title="The learned gate", caption=caption, svg=_svg(figure))


# -- parts -----------------------------------------------------------------------------------------


def _line_of(row: Row, rows: Sequence[Row]) -> str:
    """Return what a head is called in a legend: with its encoder where there are several."""
    told = several_recipes(rows) and row.on_recipe
    return f"{row.told_head}, {row.encoder} {row.recipe_id[:4]}" if told else row.told_head


def _inks(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return the colour and the stroke of each head, by its name in a legend: the same in every plot."""
    names = dict.fromkeys(_line_of(row, rows) for row in rows)
    return {
        name: {"color": _COLOURS[number % len(_COLOURS)], "linestyle": "-" if number < len(_COLOURS) else "--"}
        for number, name in enumerate(names)
    }


def _dice_axis(percents: Sequence[float]) -> tuple[float, float]:
    """Return where an axis of Dice begins and ends, so that all of these are on it."""
    low, high = max(0.0, min(percents) - 2), min(102.0, max(percents) + 2)
    missing = max(0.0, _LEAST_SPAN_PERCENT - (high - low))
    high = min(102.0, high + missing / 2)
    return max(-2.0, min(low, high - _LEAST_SPAN_PERCENT)), high


def _smoothed(at: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    parts = min(len(values), _CURVE_POINTS)

    def means(numbers: Sequence[float]) -> list[float]:
        return [float(part.mean()) for part in np.array_split(np.asarray(numbers, float), parts)]

    return means(at), means(values)


def _drawn(groups: int = 0) -> tuple[Figure, Axes]:
    """Return an empty plot in the page's ink; wider where it has many groups side by side."""
    from matplotlib.figure import Figure

    width = max(_WIDTH_INCHES, groups * _SMALLEST_INCHES_A_GROUP)
    figure = Figure(figsize=(width, _HEIGHT_INCHES), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.grid(axis="y", color=_INK, alpha=0.15, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    axes.tick_params(which="both", colors=_INK, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
        label.set_fontsize(9)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(
            handles,
            names,
            loc="outside lower left",
            ncols=_LEGEND_COLUMNS if max(map(len, names)) < _LONG_NAME else 1,
            frameon=False,
            fontsize=8,
            labelcolor=_INK,
            handlelength=1.6,
        )
    else:
        axes.set_title(names[0], fontsize=9, color=_INK)


def _svg(figure: Figure) -> str:
    """Return a figure as an SVG element whose ink is the page's; equal figures give equal texts."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "samkit", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
