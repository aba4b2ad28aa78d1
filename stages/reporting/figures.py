"""Plots of the runs' numbers, as SVG that takes its ink from the page: legible in light and dark, and in print.

A plot's own area has one size, however many experiments there are and however long their names: the figure grows by
what is written beside it. Names are whole, on several lines where they are long.
"""

from __future__ import annotations

import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from ...heads.averages import mean_over_classes
from ...heads.metrics import ScoredVolume
from ...store.runs import Run
from .table import ALL_CLASSES, Row, several_recipes, told_heads

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Okabe and Ito's palette, which colour-blind readers tell apart, without its black and its yellow.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
# As many experiments as there are pairs of both have each their own.
_MARKERS = ("o", "s", "^", "D", "v", "*", "<", "P", ">", "X")
_LINES = ("-", "--", "-.", ":")
# On a narrow screen it is shown at three quarters of this, and its words can still be read.
_WIDTH_INCHES = 4.8
# Of a plot with the words of its axes, without its legend.
_HEIGHT_INCHES = 2.9
# Of an axis of Dice at least, so that a difference that is nothing does not look like one.
_LEAST_SPAN_PERCENT = 20
_MOST_LEGEND_COLUMNS = 3
# Letters of a line of a name: in a legend, above a plot, beside rows.
_LEGEND_LETTERS, _TITLE_LETTERS, _ROW_LETTERS = 68, 52, 28
_NO_BREAK = "\N{NO-BREAK SPACE}"
_POINTS = 8
_LINE_INCHES = 0.14  # of text of that size
_POINTS_AN_INCH = 72
# Of one number of subjects of a head, and between heads.
_ROW_INCHES, _BETWEEN_NAMES_INCHES = 0.18, 0.12
# Of points and the bar of their median, up and down from the middle of their row.
_SPREAD_INCHES, _BAR_INCHES = 0.05, 0.08
# Of an axis of numbers, with its title, below rows; and of what is drawn beside their names, at least.
_AXIS_INCHES, _LEAST_DRAWN_INCHES = 0.6, 2.4
# Of the room of one number of subjects, how much its lines take side by side, and how much is between two at most.
_TAKEN, _MOST_APART = 0.6, 0.12
# Of numbers of subjects side by side: more of them are written upwards.
_MOST_AMOUNTS_INCHES = 3.6
_MARKS_A_CURVE = 5
# A colour that nothing else has: the page's own ink takes its place.
_INK = "#010203"
# Points of a training curve: each the mean of as many steps.
_CURVE_POINTS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """One plot, and what it says in words."""

    title: str
    #: What is drawn, for the legend below it and for who does not see it.
    caption: str
    svg: str


class _Ink(TypedDict):
    """The look of an experiment, by the names that matplotlib has for it."""

    color: str
    marker: str
    linestyle: str


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
    beside = {amount: [name for name, line in lines.items() if amount in line] for amount in amounts}

    def place(name: str, amount: str) -> float:
        """Return where a line is at a number of subjects: beside the others there, so that no spread covers another."""
        names = beside[amount]
        apart = min(_TAKEN / len(names), _MOST_APART)
        return places[amount] + apart * (names.index(name) - (len(names) - 1) / 2)

    inks, reached = _inks(rows), []
    for name, line in lines.items():
        there = [amount for amount in amounts if amount in line]
        means = [100 * (line[amount].dice.mean or 0) for amount in there]
        deviations = [line[amount].dice.standard_deviation for amount in there]
        spreads = [math.nan if one is None else 100 * one for one in deviations]  # of a single draw there is no bar
        axes.errorbar(
            [place(name, amount) for amount in there],
            means,
            yerr=spreads,
            label=name,
            capsize=2.5,
            linewidth=1.2,
            elinewidth=0.9,
            markersize=6.5,
            markeredgewidth=0.6,
            clip_on=False,  # a Dice of 0 is seen whole
            **inks[name],
        )
        reached += [mean + sign * spread for mean, spread in zip(means, spreads, strict=True) for sign in (-1, 1)]
        reached += means
    axes.set_xticks(range(len(amounts)), amounts)
    if sum(_size(figure, label)[0] for label in axes.get_xticklabels()) > _MOST_AMOUNTS_INCHES:
        axes.tick_params(axis="x", labelrotation=90)
    counted = {row.counted for row in rows}
    axes.set_xlabel("labelled " + (counted.pop() if len(counted) == 1 else "subjects or frames"))
    axes.set_ylabel("mean Dice %")
    axes.set_ylim(*_dice_axis(reached))
    axes.set_xlim(-0.5, len(amounts) - 0.5)
    _legend(figure, axes)
    caption = "Mean Dice over all classes and test subjects; bars are one standard deviation over draws."
    return Plot(title="What more labels bring", caption=caption, svg=_svg(figure))


def distributions(runs: Sequence[Run], rows: Sequence[Row]) -> Plot | None:
    """Draw the Dice of every test volume in every draw, a line a head and number of subjects."""
    by_id = {run.id: run for run in runs}
    heads: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for row in rows:
        if row.class_name != ALL_CLASSES:
            continue
        scored = [ScoredVolume.from_json(one) for run_id in row.run_ids for one in by_id[run_id].scores]
        found = [mean_over_classes([volume]).dice for volume in scored]
        if percents := [100 * dice for dice in found if dice is not None]:
            heads[_line_of(row, rows)][row.amount] = percents
    if not heads:
        return None
    figure, axes = _drawn(numbers="x")
    middles = _named_rows(figure, axes, {name: list(of_head) for name, of_head in heads.items()})
    random = np.random.default_rng(0)
    inks = _inks(rows)
    for name, of_head in heads.items():
        for amount, percents in of_head.items():
            middle = middles[name, amount]
            axes.plot(
                percents,
                middle + random.uniform(-_SPREAD_INCHES, _SPREAD_INCHES, len(percents)),
                linestyle="",
                color=inks[name]["color"],
                marker=inks[name]["marker"],
                markersize=4,
                markeredgewidth=0,
                alpha=0.55,
                clip_on=False,  # a Dice of 0 is seen whole
            )
            axes.vlines(np.median(percents), middle - _BAR_INCHES, middle + _BAR_INCHES, colors=_INK, linewidth=1.6)
    axes.set_xlabel("Dice % of a volume")
    axes.set_xlim(*_dice_axis([one for of_head in heads.values() for percents in of_head.values() for one in percents]))
    caption = (
        "Each point is a test volume in a draw, the mean of its classes; the bar is the median. "
        "Behind a name: how many subjects, or frames, were labelled."
    )
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
    for number, (name, curve) in enumerate(curves.items()):
        at, losses = _smoothed([step["number"] + 1 for step in curve], [step["loss"] for step in curve])
        _curve(axes, name, (at, losses), number, inks[name])
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
        _curve(axes, name, (at, values), number, _ink(number))
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


def _inks(rows: Sequence[Row]) -> dict[str, _Ink]:
    """Return the colour, the marker and the stroke of each head, by its name in a legend: the same in every plot."""
    names = dict.fromkeys(_line_of(row, rows) for row in rows)
    return {name: _ink(number) for number, name in enumerate(names)}


def _ink(number: int) -> _Ink:
    """Return the look of an experiment: with each round of the colours the markers move on by one."""
    rounds, colour = divmod(number, len(_COLOURS))
    return _Ink(
        color=_COLOURS[colour],
        marker=_MARKERS[(colour + rounds) % len(_MARKERS)],
        linestyle=_LINES[rounds % len(_LINES)],
    )


def _curve(axes: Axes, name: str, points: tuple[Sequence[float], Sequence[float]], number: int, ink: _Ink) -> None:
    """Draw a curve with a few markers, elsewhere than those of the curves before and after it."""
    between = max(1, len(points[0]) // _MARKS_A_CURVE)
    at = (number % between, between)
    axes.plot(*points, label=name, linewidth=1.2, markersize=4.5, markevery=at, **ink)


def _dice_axis(percents: Sequence[float]) -> tuple[float, float]:
    """Return where an axis of Dice begins and ends, so that all of these are on it."""
    low, high = max(0.0, np.nanmin(percents) - 2), min(102.0, np.nanmax(percents) + 2)
    missing = max(0.0, _LEAST_SPAN_PERCENT - (high - low))
    high = min(102.0, high + missing / 2)
    return max(-2.0, min(low, high - _LEAST_SPAN_PERCENT)), high


def _smoothed(at: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    parts = min(len(values), _CURVE_POINTS)

    def means(numbers: Sequence[float]) -> list[float]:
        return [float(part.mean()) for part in np.array_split(np.asarray(numbers, float), parts)]

    return means(at), means(values)


def _drawn(numbers: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """Return an empty plot in the page's ink; ``numbers`` is the axis of what was measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.grid(axis=numbers, color=_INK, alpha=0.15, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    axes.tick_params(which="both", colors=_INK, labelsize=_POINTS)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
        label.set_fontsize(9)
    return figure, axes


def _named_rows(figure: Figure, axes: Axes, amounts: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], float]:
    """Write names below each other, and behind each name its numbers of subjects, each with a row of its own.

    Returns
    -------
    dict
        The middle of each row, by name and number, on an axis in inches.
    """
    names = {name: _on_lines(name, _ROW_LETTERS) for name in amounts}
    middles: dict[tuple[str, str], float] = {}
    middles_of_names, end = [], 0.0
    for name, of_name in amounts.items():
        lines = 1 + names[name].count("\n")
        height = max(_LINE_INCHES * lines, _ROW_INCHES * len(of_name)) + _BETWEEN_NAMES_INCHES
        middle = end + height / 2
        for number, amount in enumerate(of_name):
            middles[name, amount] = middle + _ROW_INCHES * (number - (len(of_name) - 1) / 2)
        middles_of_names.append(middle)
        end += height
        axes.axhline(end, color=_INK, alpha=0.15, linewidth=0.6)
    axes.set_ylim(end, 0)  # downwards
    axes.set_yticks(list(middles.values()), [amount for _, amount in middles], minor=True)
    axes.yaxis.remove_overlapping_locs = False  # a name stands beside its number, in one line
    # From the left: a browser's letters are of another width, and lines that were set to end alike would not.
    axes.set_yticks(middles_of_names, list(names.values()), horizontalalignment="left", multialignment="left")
    axes.tick_params(axis="y", which="both", length=0)
    widths = [max(_size(figure, label)[0] for label in axes.get_yticklabels(minor=minor)) for minor in (False, True)]
    beside = sum(widths) + _BETWEEN_NAMES_INCHES
    axes.tick_params(axis="y", which="major", pad=_POINTS_AN_INCH * beside)
    figure.set_size_inches(max(_WIDTH_INCHES, beside + _LEAST_DRAWN_INCHES), end + _AXIS_INCHES)
    return middles


def _legend(figure: Figure, axes: Axes) -> None:
    """Name what is drawn: below the plot, in as many columns as have room there, or above it what is alone."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) == 1:
        title = axes.set_title(_on_lines(names[0], _TITLE_LETTERS), fontsize=9, color=_INK)
        figure.set_figheight(_HEIGHT_INCHES + _size(figure, title)[1])
        return
    texts = [_on_lines(name, _LEGEND_LETTERS) for name in names]

    def below(columns: int) -> Legend:
        return figure.legend(
            handles,
            texts,
            loc="outside lower left",
            ncols=columns,
            frameon=False,
            fontsize=_POINTS,
            labelcolor=_INK,
            handlelength=2.4,
        )

    columns = _MOST_LEGEND_COLUMNS
    while _size(figure, legend := below(columns))[0] > _WIDTH_INCHES and columns > 1:
        legend.remove()
        columns -= 1
    width, height = _size(figure, legend)
    figure.set_size_inches(max(_WIDTH_INCHES, width), _HEIGHT_INCHES + height)


def _on_lines(name: str, letters: int) -> str:
    r"""Return a name on lines of so many letters at most, a word and the number behind it on one.

    >>> _on_lines("linear (learning rate 0.003, steps 60)", 30)
    'linear (learning rate 0.003,\nsteps 60)'
    >>> _on_lines("ladder:gate=fixed:faithful=yes", 28)
    'ladder:gate=fixed:\nfaithful=yes'
    """
    together = re.sub(r" (?=\S+(,|\)|$))", _NO_BREAK, name)
    lines = wrap(together.replace(":", ": "), letters, break_on_hyphens=False)
    return "\n".join(lines).replace(": ", ":").replace(_NO_BREAK, " ")


def _size(figure: Figure, artist: Artist) -> tuple[float, float]:
    """Return how wide and how high something is drawn, in inches."""
    box = artist.get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi


def _svg(figure: Figure) -> str:
    """Return a figure as an SVG element whose ink is the page's; equal figures give equal texts."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "samkit", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")
