"""The convolutional decoder that AutoSAM's paper calls "Encoder + CNN": a lean one, and the published one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import FeatureHead
from .recipes import FitOptions

# Channels at the embedding's grid, twice as fine, and four times.
WIDTHS = (64, 32, 32)
_NORM_GROUPS = 8
# Whole channels of the embedding that a step does without: a head on few slices otherwise leans on some of them.
CHANNELS_DROPPED = 0.1


class LeanDecoder(nn.Module):
    """3x3 convolutions on the embedding, and one after each of two bilinear up-scalings.

    Parameters
    ----------
    channels
        Of the embedding.
    widths
        Channels at the embedding's grid, twice as fine, and four times as fine; each a multiple of 8.
    """

    def __init__(self, *, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        coarse, *finer = widths
        self.projection = nn.Sequential(nn.Dropout2d(CHANNELS_DROPPED), nn.Conv2d(channels, coarse, kernel_size=1))
        self.context = nn.Sequential(convolution(coarse, coarse), convolution(coarse, coarse))
        self.refinements = nn.ModuleList(convolution(wide, narrow) for wide, narrow in zip(widths, finer, strict=False))

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the finest grid, (B, last of the widths, 4 h, 4 w)."""
        grid: Tensor = self.projection(features_BChw.float())
        grid = grid + self.context(grid)
        for refinement in self.refinements:
            grid = refinement(twice_as_fine(grid))
        return grid


class Cnn(FeatureHead):
    """3x3 convolutions on the features, and two more between bilinear up-scalings: 118,340 parameters for four classes.

    Beside `linear` and `probe` it sees a cell's neighbours, with which a head of few examples finds whole organs.
    Source: AutoSAM (arXiv 2306.13731), models/SamFeatSeg.py, in which the decoder has 20.7 million
    parameters (`PublishedCnn`). Where it differs: a hundredth of the channels, a group normalisation after each
    convolution, a skip around the first two, and dropout of channels of the embedding.

    All parameters are trained.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    widths
        Of `LeanDecoder`.
    """

    name: ClassVar[str] = "cnn"
    own_fit = FitOptions(steps=300, learning_rate=3e-3, validate_every=None)

    def __init__(self, *, channels: int, class_count: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__(channels=channels, class_count=class_count)
        self.widths = tuple(widths)
        self.decoder = LeanDecoder(channels=channels, widths=widths)
        self.classifier = nn.Conv2d(self.widths[-1], class_count, kernel_size=1)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {**super().config, "widths": list(self.widths)}

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        logits: Tensor = self.classifier(self.decoder(features_BChw))
        return logits


class PublishedCnn(FeatureHead):
    """The same as it was published: ten 3x3 convolutions of up to 1024 channels, 20,686,340 parameters.

    Source: AutoSAM (arXiv 2306.13731), models/SamFeatSeg.py:85-131 with its settings: no normalisation, no skips,
    random initial values; two of the four stages up-scale. It differs in nothing.

    All parameters are trained.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    """

    name: ClassVar[str] = "cnn-published"

    def __init__(self, *, channels: int, class_count: int) -> None:
        super().__init__(channels=channels, class_count=class_count)
        widest = 4 * channels
        self.projection = nn.Sequential(
            nn.Conv2d(channels, widest, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(widest, widest, kernel_size=1),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(
            *_published_pair(widest, widest // 2),
            *_published_pair(widest // 2, widest // 4),
            *_published_pair(widest // 4, widest // 4),
            nn.ConvTranspose2d(widest // 4, widest // 8, kernel_size=2, stride=2),
            *_published_pair(widest // 8, widest // 8),
            nn.ConvTranspose2d(widest // 8, widest // 16, kernel_size=2, stride=2),
        )
        self.classifier = nn.Sequential(
            nn.Conv2d(widest // 16, widest // 16, kernel_size=3, padding=1),
            nn.Conv2d(widest // 16, class_count, kernel_size=1),
        )

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        logits: Tensor = self.classifier(self.stages(self.projection(features_BChw.float())))
        return logits


def convolution(channels: int, width: int, *, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with its norm and activation; ``width`` is a multiple of 8."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_NORM_GROUPS, width),
        nn.GELU(),
    )


def twice_as_fine(grid_BChw: Tensor) -> Tensor:
    """Return a grid up-scaled bilinearly, (B, C, 2 h, 2 w): as torch's own does, to rounding.

    On a CPU by one small matrix a side: torch's, and most of all its way back, takes 1.2 (128 cells a side, float32) to
    5 times as long (16 cells, bfloat16).
    """
    if grid_BChw.device.type != "cpu":
        return F.interpolate(grid_BChw, scale_factor=2, mode="bilinear", align_corners=False)
    down, across = (_doubling(side, grid_BChw.dtype) for side in grid_BChw.shape[-2:])
    return down @ (grid_BChw @ across.T)


def _doubling(side: int, dtype: torch.dtype) -> Tensor:
    """Return what makes twice as many values of a side's, (2 side, side); its quarters are exact in any dtype."""
    return F.interpolate(torch.eye(side)[None], scale_factor=2, mode="linear", align_corners=False)[0].T.to(dtype)


def _published_pair(channels: int, width: int) -> tuple[nn.Module, ...]:
    """Return two 3x3 convolutions, the second of which may have fewer channels."""
    return (
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, width, kernel_size=3, padding=1),
        nn.ReLU(),
    )
