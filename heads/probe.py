"""The plainest question to features: what one weighted sum a class knows of them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from .base import LOGIT_CELLS_PER_FEATURE_CELL, FeatureHead
from .recipes import FitOptions


class Probe(FeatureHead):
    """A 1x1 convolution on the features, brought to the logit grid bilinearly: 257 numbers a class for SAM.

    Source: the linear probe of Alain and Bengio (arXiv 1610.01644), a class at every cell. What it finds is in the
    features, not in the head; and it cannot be finer than a cell of them. (AutoSAM's "linear" is `linear.Linear`.)

    All parameters are trained.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    """

    name: ClassVar[str] = "probe"
    own_fit = FitOptions(steps=300, learning_rate=1e-2, validate_every=None)

    def __init__(self, *, channels: int, class_count: int) -> None:
        super().__init__(channels=channels, class_count=class_count)
        self.classifier = nn.Conv2d(channels, class_count, kernel_size=1)

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        logits = self.classifier(features_BChw.float())
        return F.interpolate(logits, scale_factor=LOGIT_CELLS_PER_FEATURE_CELL, mode="bilinear", align_corners=False)
