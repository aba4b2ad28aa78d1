"""Plots name every experiment whole, and stay large enough, however many there are and however long their names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from examples.scores import scored
from examples.table_rows import LINEAR, LINEAR_ON_ANOTHER, UNET
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from samkit.stages.reporting.figures import Plot, distributions, gates, label_efficiency, training_curves
from samkit.stages.reporting.table import Row

# A warning of the library's would reach the user of `samkit report`.
pytestmark = pytest.mark.filterwarnings("error")

LONG = "split digest 7acd72, test set 4673df, learning rate 0.003, validate every none, steps {}"
COUNTS = [1, 9, 25]


def experiments(count: int, *, settings: str = LONG, amounts: Sequence[int] = (1,)) -> list[Row]:
    """Return the rows of so many experiments with long names, each at some numbers of subjects."""
    return [
        replace(
            LINEAR,
            head="ladder:gate=fixed:faithful=yes",
            head_settings=settings.format(number),
            subjects=amount,
            run_ids=(f"{number}-{amount}",),
            dice=replace(LINEAR.dice, mean=number / count, standard_deviation=0.02, draws=2),
        )
        for number in range(count)
        for amount in amounts
    ]


def run_of(row: Row) -> SimpleNamespace:
    """Return what the plots look at in the one run of a row."""
    return SimpleNamespace(
        id=row.run_ids[0],
        settings=SimpleNamespace(head="ladder", amount=row.amount, draw=0),
        scores=[scored("s", row.dice.mean).to_json()],
        steps=[{"number": step, "loss": math.exp(-step / 20), "told": {"gate": 0.5}} for step in range(80)],
    )


@cache
def plots_of(count: int) -> list[Plot]:
    """Return every plot of so many experiments at two numbers of subjects."""
    rows = experiments(count, amounts=(1, 5))
    runs = [run_of(row) for row in rows]
    found = [label_efficiency(rows), distributions(runs, rows), training_curves(runs, rows), gates(runs, rows)]
    assert None not in found
    return found


def words(plot: Plot) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg)


def size(plot: Plot) -> tuple[float, float]:
    """Return the width and the height of a figure, in points."""
    width, height = re.search(r'viewBox="0 0 (\S+) (\S+)"', plot.svg).groups()
    return float(width), float(height)


def drawn_in(plot: Plot) -> tuple[float, float]:
    """Return the width and the height of what is between the axes, in points."""
    path = re.search(r'<g id="patch_2">\s*<path d="([^"]*)"', plot.svg).group(1)
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    across, down = numbers[::2], numbers[1::2]
    return max(across) - min(across), max(down) - min(down)


def legend(*rows: Row) -> set[str]:
    plot = label_efficiency(rows)
    assert plot is not None
    return {text for text in words(plot) if text.startswith(("linear", "unet"))}


def keys(plot: Plot) -> list[tuple[str, str]]:
    """Return colour and marker of every line of a legend."""
    below = plot.svg.partition('<g id="legend_1">')[2]
    shapes = dict(re.findall(r'<path id="(\w+)" d="([^"]*)"', plot.svg))
    # Next to a name come the caps of its bar, and then its marker.
    groups = re.findall(r'<g id="line2d_\d+">(.*?)</g>', below, re.DOTALL)
    marks = [re.findall(r'<use xlink:href="#(\w+)"[^>]*?fill: (#\w+)', group) for group in groups]
    return [(colour, shapes[shape]) for found in marks for shape, colour in found if shapes[shape].count("L") != 1]


def test_one_encoder_beside_a_head_without_one_is_not_named():
    assert legend(LINEAR, UNET) == {"linear", "unet"}


def test_of_several_encoders_a_head_without_one_names_none():
    assert legend(LINEAR, LINEAR_ON_ANOTHER, UNET) == {"linear, nano d744", "linear, sam_vit_b 0123", "unet"}


@pytest.mark.parametrize("count", COUNTS)
def test_every_experiment_is_named_whole_in_every_plot(count):
    names = [row.told_head for row in experiments(count)]
    for plot in plots_of(count):
        told = "".join(words(plot)).replace(" ", "")
        assert [name for name in names if name.replace(" ", "") not in told] == [], plot.title


@pytest.mark.parametrize("count", COUNTS)
def test_no_word_runs_over_the_edge_of_its_figure(count):
    font = FontProperties(family="DejaVu Sans", size=8)
    for plot in plots_of(count):
        width, height = size(plot)
        places = r'<text[^>]*(?:transform="translate\(|x=")([\d.-]+)(?: |" y=")([\d.-]+)[^>]*>([^<]*)</text>'
        lines = re.findall(places, plot.svg)
        assert lines
        for x, y, text in lines:
            assert 0 <= float(y) <= height, (plot.title, text)
            if "(" in text or ")" in text or "," in text:  # part of a name, which begins where it is placed
                shift = 0.5 if plot.svg.partition(f">{text}<")[0].rpartition("<text")[2].count("middle") else 0.0
                long = TextPath((0, 0), text, prop=font).get_extents().width
                assert float(x) - shift * long >= 0, (plot.title, text)
                assert float(x) + (1 - shift) * long <= width, (plot.title, text)


@pytest.mark.parametrize("number", range(4))
def test_what_is_drawn_is_as_large_beside_many_names_as_beside_few(number):
    few, many = (drawn_in(plots_of(count)[number]) for count in (1, 25))
    assert many[0] == pytest.approx(few[0], rel=0.15)
    assert many[1] > 0.9 * few[1]


def test_rows_of_volumes_have_the_same_room_however_many_there_are():
    of_nine, of_many = (drawn_in(plots_of(count)[1])[1] / count for count in (9, 25))
    assert of_many == pytest.approx(of_nine, rel=0.05)


def test_a_head_is_named_once_beside_all_its_numbers_of_subjects():
    rows = experiments(3, settings="steps {}", amounts=(1, 2, 5))
    told = words(distributions([run_of(row) for row in rows], rows))
    assert "".join(told).count("steps 2)") == 1
    assert [told.count(amount) for amount in ("1", "2", "5")] == [3, 3, 3]


def test_many_numbers_of_subjects_do_not_run_into_each_other():
    rows = [replace(row, counted="frames") for row in experiments(2, amounts=(1, 2, 3, 5, 8, 10, 15, 20, 30, 50))]
    assert "rotate(-90)" in label_efficiency(rows).svg.partition(">50 frames<")[0].rpartition("<text")[2]


def test_thirty_six_experiments_have_each_a_colour_and_a_marker_of_their_own():
    found = keys(label_efficiency(experiments(36)))
    assert (len(found), len(set(found))) == (36, 36)


def test_a_head_has_the_same_colour_and_marker_in_its_curve():
    efficiency, _, curves, _ = plots_of(9)
    colours = [colour for colour, _ in keys(efficiency)]
    assert [colour for colour, _ in keys(curves)] == colours
    assert [len({mark for each, mark in keys(plot) if each == colours[0]}) for plot in (efficiency, curves)] == [2, 2]


def test_a_single_draw_has_no_bar_of_a_spread():
    (row,) = experiments(1)
    alone = replace(row, dice=replace(row.dice, standard_deviation=None, draws=1))
    of_two, of_one = (re.findall(r"<use[^>]*fill: #", label_efficiency([one]).svg) for one in (row, alone))
    assert (len(of_two), len(of_one)) == (3, 1)  # the marker, and the two caps of the bar
