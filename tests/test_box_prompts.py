"""The ellipses that box prompts are compared with, and the boxes themselves."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.workspaces import add_volume, embed
from torch.nn.functional import pixel_shuffle

from samkit.store.workspace import Workspace

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


class FillsBoxes:
    """Answers a prompt with its box, filled, where the prompted picture is bright in its middle; else with nothing.

    Only the first of the four masks, which is what a box means.
    """

    def prompted_decoder(self, weights, *, size):
        assert size == 256
        return self._answer

    @staticmethod
    def _answer(rows, prompts):
        left, top, right, bottom = prompts.points.flatten(1).T[..., None, None]
        middle = torch.arange(64) * 4 + 1.5  # of each of 64 logits along an axis, in pixels of the input
        inside = (middle >= left) & (middle <= right) & (middle[:, None] >= top) & (middle[:, None] <= bottom)
        pictures = pixel_shuffle(rows, 16)[:, 0]
        row, column = ((first + last).flatten().long() // 2 for first, last in ((top, bottom), (left, right)))
        bright = pictures[torch.arange(len(rows)), row, column] > 0.5
        answers = torch.full((len(rows), 4, 64, 64), -1.0)
        answers[:, 0][inside & bright[:, None, None]] = 1.0
        return answers, None


def two_rectangles():
    """Three slices of 64 pixels: class 3 on the first two, elsewhere on each, class 42 on the last two."""
    label = np.zeros((3, 64, 64), np.uint8)
    for position, value, rows, columns in (
        (0, 3, (2, 14), (40, 60)),
        (1, 3, (30, 38), (3, 21)),
        (1, 42, (5, 25), (30, 41)),
        (2, 42, (44, 60), (8, 30)),
    ):
        label[position, slice(*rows), slice(*columns)] = value
    return np.where(label[:, None] > 0, 0.9, 0.1).astype(np.float16), label


def test_boxes_around_the_reference_ask_the_row_of_their_slice_and_are_answered_where_they_lie(
    box_prompts, monkeypatch, tmp_path
):
    raw = importlib.import_module("raw_pixels").RawPixels()
    workspace = Workspace.create(tmp_path / "workspace", {3: "first", 42: "second"})
    add_volume(workspace, "subject0", *two_rectangles())
    monkeypatch.setattr(box_prompts, "NANO", FillsBoxes())
    monkeypatch.setattr(box_prompts, "_JITTER_PX", 0)
    boxes, ellipses = box_prompts.box_dice(workspace, embed(workspace, raw), Path(), ["subject0"])
    assert boxes == {"first": 1.0, "second": 1.0}
    # An ellipse has pi / 4 of its rectangle: Dice 2 a / (1 + a).
    filled = np.pi / 4
    assert ellipses == pytest.approx(dict.fromkeys(boxes, 2 * filled / (1 + filled)), abs=0.02)


def test_the_pixels_of_a_cell_are_its_channels_row_by_row(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    raw = importlib.import_module("raw_pixels").RawPixels()
    ramp = torch.arange(256 * 256).float().view(1, 1, 256, 256)
    cell = raw.encode(ramp)[0, :, 2, 3]
    assert torch.equal(cell.view(16, 16), ramp[0, 0, 32:48, 48:64])
