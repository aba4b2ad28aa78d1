"""The ellipses that box prompts are compared with, and the boxes themselves."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def box_prompts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("box_prompts")


def test_an_ellipse_touches_the_sides_of_its_box_and_leaves_the_corners(box_prompts):
    (ellipse,) = box_prompts._ellipses(torch.tensor([[2.0, 3.0, 12.0, 9.0]]), (20, 20))
    rows, columns = np.nonzero(ellipse.numpy())
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (2, 3, 12, 9)
    assert not ellipse[3, 2]
    assert int(ellipse.sum()) == pytest.approx(np.pi / 4 * 11 * 7, rel=0.05)


def test_a_box_of_one_pixel_has_an_ellipse_of_one_pixel(box_prompts):
    (ellipse,) = box_prompts._ellipses(torch.tensor([[4.0, 5.0, 4.0, 5.0]]), (10, 10))
    assert ellipse.nonzero().tolist() == [[5, 4]]


def test_moved_sides_stay_within_five_pixels_and_on_the_slice_in_order(box_prompts):
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 29.0, 39.0]]).repeat(200, 1)
    moved = box_prompts._moved(boxes, (40, 30), np.random.default_rng(0))
    assert (moved[:, :2] <= moved[:, 2:]).all()
    assert (moved >= 0).all()
    assert (moved <= torch.tensor([29.0, 39.0, 29.0, 39.0])).all()
    assert (moved[1::2] - boxes[1::2]).abs().max() == 5


def test_the_pixels_of_a_cell_are_its_channels_row_by_row(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    raw = importlib.import_module("raw_pixels").RawPixels()
    ramp = torch.arange(256 * 256).float().view(1, 1, 256, 256)
    cell = raw.encode(ramp)[0, :, 2, 3]
    assert torch.equal(cell.view(16, 16), ramp[0, 0, 32:48, 48:64])
