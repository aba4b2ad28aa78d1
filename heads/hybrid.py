"""The lean convolutional decoder with the slice beside it, for outlines that are finer than the embedding's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from .base import Head, HeadContext, seeded
from .cnn import WIDTHS, LeanDecoder, convolution
from .recipes import FitOptions
from .seen import FeaturesAndSlices, Sees

# Channels of the slice half as fine, and a quarter: the stem is shallow, so that a few slices are enough to train it.
_STEM_WIDTHS = (16, 32)
_COLOURS = 3


class Hybrid(Head):
    """`cnn`, whose finest grid is joined by three convolutions of the slice: 160,532 parameters for four classes.

    What is where is read from the features; where it ends, from the slice, at four pixels of the encoder's frame a
    cell. Source: the skips from the input of UNETR (arXiv 2103.10504) and from early layers of HQ-SAM
    (arXiv 2306.01567), at a size that a few slices can train. Where it differs from `ladder`, whose CNN is deep and
    added to the embedding four times as coarse: it is shallow, and joins where outlines are drawn.

    All parameters are trained.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    widths
        Of `cnn.LeanDecoder`.
    """

    name: ClassVar[str] = "hybrid"
    own_fit = FitOptions(steps=1200, learning_rate=1e-3, validate_every=None)
    sees = Sees.FEATURES_AND_SLICES

    def __init__(self, *, channels: int, class_count: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.channels, self.class_count, self.widths = channels, class_count, tuple(widths)
        half, quarter = _STEM_WIDTHS
        finest = self.widths[-1]
        self.decoder = LeanDecoder(channels=channels, widths=widths)
        self.stem = nn.Sequential(
            convolution(_COLOURS, half, stride=2), convolution(half, quarter, stride=2), convolution(quarter, quarter)
        )
        self.fusion = nn.Sequential(convolution(finest + quarter, finest), convolution(finest, finest))
        self.classifier = nn.Conv2d(finest, class_count, kernel_size=1)

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build a fresh head; of the context only the embedding's channels, the classes and the seed count."""
        with seeded(context.seed):
            return cls(channels=context.input_shape[0], class_count=context.class_count)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {"channels": self.channels, "class_count": self.class_count, "widths": list(self.widths)}

    def forward(self, seen: FeaturesAndSlices) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        of_slices = self.stem(2 * seen.slices.float().expand(-1, _COLOURS, -1, -1) - 1)
        logits: Tensor = self.classifier(self.fusion(torch.cat([self.decoder(seen.features), of_slices], dim=1)))
        return logits
