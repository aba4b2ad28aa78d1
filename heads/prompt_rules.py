"""Prompts as a user would give them, made from labels: clicks, corrections, boxes that are good or not so good.

Source: Medical SAM Adapter (arXiv 2304.12620): one or three random clicks, boxes that overlap the object by 75 % or
50 %, clicks on what is still wrong. The paper does not say which overlap it means; here it is the IoU of the box and
the tight one.

Shapes: N masks, H W pixels, P points of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ..store.errors import InputError, UsageError
from .prompting import PointKind, Prompts, boxes_around, jittered

PROMPTS = ("none", "point:1", "point:3", "clicks:3", "box:tight", "box:jittered", "box:0.75", "box:0.5")
"""What heads are asked with, as it is typed."""

_OVERLAPS = {"tight": 1.0, "jittered": None, "0.75": 0.75, "0.5": 0.5}
# Kirillov et al. (arXiv 2304.02643), appendix A: a tenth of the box's side, at most 20 pixels of 1024.
_JITTER_SHARE, _MOST_JITTER = 0.1, 20 / 1024
# Halvings of how far a box is moved: a millionth of its side, far below a pixel.
_HALVINGS = 20


class Asked(StrEnum):
    """The kinds of prompts."""

    NONE = "none"
    """No prompt: all classes are answered at once."""
    POINTS = "point"
    """Random clicks on the object, given together."""
    CLICKS = "clicks"
    """A random click on the object, then clicks on what the answer before had wrong."""
    BOX = "box"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRule:
    """How an object is asked for."""

    kind: Asked
    #: Points or clicks.
    count: int = 1
    #: Of a box with the tight one, their IoU; None for one whose sides are moved at random, as in SAM's training.
    overlap: float | None = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one of `PROMPTS`.

        >>> PromptRule.parse("box:0.75").overlap
        0.75

        Raises
        ------
        UsageError
            For another text.
        """
        if text not in PROMPTS:
            message = f"--prompt {text}: give one of {', '.join(PROMPTS)}."
            raise UsageError(message)
        name, _, amount = text.partition(":")
        kind = Asked(name)
        if kind is Asked.BOX:
            return cls(kind=kind, overlap=_OVERLAPS[amount])
        return cls(kind=kind, count=int(amount or 0))

    @property
    def points(self) -> int:
        """How many a first prompt has, the corners of a box among them."""
        return {Asked.NONE: 0, Asked.POINTS: self.count, Asked.CLICKS: 1, Asked.BOX: 2}[self.kind]

    @property
    def corrections(self) -> int:
        """How many clicks follow the first answer, each on what the one before had wrong."""
        return self.count - 1 if self.kind is Asked.CLICKS else 0

    def ask(self, masks_NHW: Tensor, random: torch.Generator, within_N4: Tensor | None = None) -> Prompts:
        """Return the first prompt for each mask, in its pixels.

        Parameters
        ----------
        masks_NHW
            Boolean.
        random
            Where clicks and the sides of boxes come from.
        within_N4
            What no box reaches beyond, as boxes are told; None for the plane.

        Raises
        ------
        InputError
            For an empty mask: there is nothing to click on.
        """
        if not masks_NHW.flatten(1).any(dim=1).all():
            message = (
                "a mask to be prompted is empty: a click on it, or a box around it, would say that something is there. "
                "Ask for the slices that show it."
            )
            raise InputError(message)
        if self.kind is Asked.BOX:
            if within_N4 is None:
                height, width = masks_NHW.shape[1:]
                within_N4 = torch.tensor([0.0, 0.0, width - 1, height - 1]).expand(len(masks_NHW), 4)
            return Prompts.of_boxes(self._boxes(masks_NHW, within_N4, random))
        points = _pixels_of(masks_NHW, self.points, random)
        return Prompts(points=points, kinds=torch.full(points.shape[:2], PointKind.INSIDE))

    def _boxes(self, masks: Tensor, within: Tensor, random: torch.Generator) -> Tensor:
        tight = boxes_around(masks)
        if self.overlap is None:
            most = _MOST_JITTER * max(masks.shape[1:])
            return _kept_within(jittered(tight, _JITTER_SHARE, most, random), within)
        return tight if self.overlap == 1 else boxes_with_overlap(tight, self.overlap, within, random)


def boxes_with_overlap(tight_N4: Tensor, overlap: float, within_N4: Tensor, random: torch.Generator) -> Tensor:
    """Move the sides of boxes, each by its own random share, until their IoU with the tight ones is ``overlap``.

    Parameters
    ----------
    tight_N4
        First column, first row, last column, last row, in pixels: a box of one pixel has an area of 1.
    overlap
        Above 0.
    within_N4
        What no side is moved beyond.
    random
        Where the shares come from.
    """
    sides = (tight_N4[:, 2:] - tight_N4[:, :2] + 1).repeat(1, 2)
    outward = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    shares = 2 * torch.rand(tight_N4.shape, generator=random) - 1
    # The side that moves most moves inwards, so that any overlap is reached, also where the plane ends at the box.
    most = shares.abs().argmax(dim=1, keepdim=True)
    shares = shares.scatter(1, most, -shares.abs().gather(1, most))

    def moved(by: Tensor) -> Tensor:
        return _kept_within(tight_N4 + by[:, None] * shares * outward * sides, within_N4)

    least, reach = torch.zeros(len(tight_N4)), 1 / shares.abs().amax(dim=1).clamp(min=1e-6)
    for _ in range(_HALVINGS):
        middle = (least + reach) / 2
        enough = box_overlap(moved(middle), tight_N4) > overlap
        least, reach = torch.where(enough, middle, least), torch.where(enough, reach, middle)
    return moved(least)


def _kept_within(boxes: Tensor, within: Tensor) -> Tensor:
    """Keep sides from being moved out of the plane; what moves inwards may go as far as it likes."""
    return torch.cat([torch.maximum(boxes[:, :2], within[:, :2]), torch.minimum(boxes[:, 2:], within[:, 2:])], dim=1)


def box_overlap(boxes_N4: Tensor, others_N4: Tensor) -> Tensor:
    """Return the IoU of boxes, (N,): pixels both have, of pixels either has."""
    first, last = torch.maximum(boxes_N4[:, :2], others_N4[:, :2]), torch.minimum(boxes_N4[:, 2:], others_N4[:, 2:])
    both = (last - first + 1).clamp(min=0).prod(dim=1)
    areas = [(one[:, 2:] - one[:, :2] + 1).clamp(min=0).prod(dim=1) for one in (boxes_N4, others_N4)]
    return both / (areas[0] + areas[1] - both)


def click_on_error(
    answers_NHW: Tensor, masks_NHW: Tensor, known_NHW: Tensor, random: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return a click on what each answer has wrong, (N, 2) as (column, row), and whether it is on the object, (N,).

    Parameters
    ----------
    answers_NHW, masks_NHW
        Boolean.
    known_NHW
        Where the plane shows something: nothing is clicked on beside it.
    random
        Where the click falls among the wrong pixels; None for the one that lies deepest in the wrong region, which is
        the same every time. Where nothing is wrong it falls anywhere, and says what is true there.
    """
    wrong = (answers_NHW != masks_NHW) & known_NHW
    wrong = torch.where(wrong.flatten(1).any(dim=1)[:, None, None], wrong, known_NHW)
    points = torch.stack([_deepest(one) for one in wrong]) if random is None else _pixels_of(wrong, 1, random)[:, 0]
    columns, rows = points.long().unbind(dim=1)
    return points, masks_NHW[torch.arange(len(masks_NHW)), rows, columns]


def check_inside(prompts: Prompts, height: int, width: int) -> None:
    """Refuse points that do not lie on a plane.

    Raises
    ------
    UsageError
        With the first of them.
    """
    columns, rows = prompts.points.unbind(dim=-1)
    outside = (columns < -0.5) | (columns > width - 0.5) | (rows < -0.5) | (rows > height - 0.5)
    outside &= prompts.kinds != PointKind.NOTHING
    if outside.any():
        number, point = outside.nonzero()[0].tolist()
        column, row = prompts.points[number, point].tolist()
        message = (
            f"the prompt {number} has a point at column {column:g}, row {row:g}, and the slice has {width} columns and "
            f"{height} rows, counted from 0. Points are (column, row), not (row, column)."
        )
        raise UsageError(message)


def _pixels_of(masks: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Draw pixels of each mask, each with the same chance: (N, count, 2) as (column, row)."""
    drawn = []
    for mask in masks:
        there = mask.nonzero()
        drawn.append(there[torch.randint(len(there), (count,), generator=random)].flip(1).float())
    return torch.stack(drawn)


def _deepest(wrong: Tensor) -> Tensor:
    """Return the pixel farthest from what is right, beyond the plane included, as (column, row)."""
    depth = distance_transform_edt(np.pad(wrong.cpu().numpy(), 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return torch.tensor([float(column), float(row)])
