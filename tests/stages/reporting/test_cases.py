"""Cases show each volume's picture once, the outlines where the labels are, and the slice with most wrong pixels."""

from __future__ import annotations

import re

import numpy as np
import pytest

from samkit.stages.reporting.cases import outlines, positions_of


def area_of(path: str) -> float:
    """Of the polygons of an outline, by the shoelace formula; holes count against."""
    total = 0.0
    for polygon in re.findall(r"M(.*?)Z", path):
        points = np.array([list(map(float, point.split())) for point in polygon.split("L")])
        x, y = points.T
        total += (np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return abs(total)


def test_an_outline_lies_around_its_pixels():
    label = np.zeros((8, 8), np.uint8)
    label[2:5, 3:7] = 4
    (path,) = outlines(label, {4: "organ"}).values()
    points = np.array([list(map(float, point)) for point in re.findall(r"(\d+\.\d) (\d+\.\d)", path)])
    assert points.min(axis=0).tolist() == [3, 2]
    assert points.max(axis=0).tolist() == [7, 5]


def test_an_outline_encloses_as_much_as_the_pixels_but_for_its_corners():
    label = np.zeros((30, 30), np.uint8)
    label[5:25, 4:20] = 1
    assert area_of(outlines(label, {1: "organ"})["organ"]) == pytest.approx(20 * 16, abs=1)


def test_what_touches_the_edge_is_closed():
    label = np.ones((4, 4), np.uint8)
    assert area_of(outlines(label, {1: "organ"})["organ"]) == pytest.approx(16, abs=1)


def test_a_hole_is_outlined_too():
    label = np.ones((20, 20), np.uint8)
    label[8:12, 8:12] = 0
    assert outlines(label, {1: "organ"})["organ"].count("M") == 2


def test_a_class_that_a_slice_does_not_show_has_no_outline():
    assert outlines(np.zeros((4, 4), np.uint8), {1: "organ"}) == {}


def test_of_many_slices_some_are_shown_and_the_worst_among_them():
    shown = np.ones(500, bool)
    positions = positions_of(shown, {137})
    assert 137 in positions
    assert len(positions) <= 24
    assert (positions[0], positions[-1]) == (0, 499)


def test_slices_with_nothing_on_them_are_left_out():
    shown = np.zeros(30, bool)
    shown[10:14] = True
    assert positions_of(shown, {11}) == (10, 11, 12, 13)


def test_where_nothing_is_on_any_slice_the_one_that_is_needed_is_shown():
    assert positions_of(np.zeros(5, bool), {2}) == (2,)
