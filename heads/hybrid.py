"""A small U-Net of the slice whose bottom is joined by the embedding, for outlines finer than the embedding's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import FeatureHead
from .cnn import CHANNELS_DROPPED, convolution, twice_as_fine
from .recipes import FitOptions
from .seen import FeaturesAndSlices, Sees

# Channels of the slice at 2, 4, 8 and 16 pixels a cell, the last as many as the embedding is projected to.
WIDTHS = (16, 32, 64, 64)
_COLOURS = 3
# Of the slice's two coarse grids, whole channels that a step does without, lest few slices be learned by heart from
# them: 0.01 of Dice from five subjects, within the noise of two draws. The tries are in stages/encoders/nano.md.
_SLICE_CHANNELS_DROPPED = 0.3


class Hybrid(FeatureHead):
    """Features and convolutions of the slice, joined at the embedding's grid and refined upwards: 640,660 parameters.

    What is where is read from the features; where it ends, from the slice. Convolutions take the slice down to the
    embedding's grid; there both are joined, and two up-scalings with skips from the slice answer at four pixels of the
    encoder's frame a cell. Source: U-Net (arXiv 1505.04597) with its finest scale left out, and the tokens of a
    transformer in its bottom as in TransUNet (arXiv 2102.04306), where they are trained and see the CNN; here they are
    frozen and lie beside it. Where it differs from `ladder`, whose CNN is added to the embedding: outlines are drawn
    by skips, and it is a small part of its size.

    The count is for four classes and 256 channels. All parameters are trained.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    widths
        Channels of the slice at 2, 4, 8 and 16 pixels a cell, each a multiple of 8; the embedding is projected to as
        many as the last.
    """

    name: ClassVar[str] = "hybrid"
    revision = 2
    own_fit = FitOptions(steps=2400, learning_rate=1e-3, validate_every=None)
    sees = Sees.FEATURES_AND_SLICES

    def __init__(self, *, channels: int, class_count: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__(channels=channels, class_count=class_count)
        self.widths = tuple(widths)
        half, quarter, eighth, cell = self.widths
        self.halves = convolution(_COLOURS, half, stride=2)
        self.quarters = _pair(half, quarter, stride=2)
        self.eighths = _pair(quarter, eighth, stride=2)
        self.cells = _pair(eighth, cell, stride=2)
        self.projection = nn.Sequential(nn.Dropout2d(CHANNELS_DROPPED), nn.Conv2d(channels, cell, kernel_size=1))
        self.dropout = nn.Dropout2d(_SLICE_CHANNELS_DROPPED)
        self.bottom = _pair(2 * cell, 2 * cell)
        self.eighths_up = _pair(2 * cell + eighth, eighth)
        self.quarters_up = _pair(eighth + quarter, quarter)
        self.classifier = nn.Conv2d(quarter, class_count, kernel_size=1)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {**super().config, "widths": list(self.widths)}

    def forward(self, seen: FeaturesAndSlices) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        colours = (2 * seen.slices.float() - 1).expand(-1, _COLOURS, -1, -1)
        quarters = self.quarters(self.halves(colours))
        eighths = self.eighths(quarters)
        cells = self.cells(eighths)
        grid = self.bottom(torch.cat([self.projection(seen.features.float()), self.dropout(cells)], dim=1))
        grid = self.eighths_up(torch.cat([twice_as_fine(grid), self.dropout(eighths)], dim=1))
        grid = self.quarters_up(torch.cat([twice_as_fine(grid), quarters], dim=1))
        logits: Tensor = self.classifier(grid)
        return logits


def _pair(channels: int, width: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(convolution(channels, width, stride=stride), convolution(width, width))
