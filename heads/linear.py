"""The light up-convolution head that AutoSAM's paper calls "Encoder + linear layer"."""

from __future__ import annotations

from typing import ClassVar, Self, cast

from torch import Tensor, nn
from torch.nn import functional as F

from .base import FeatureHead, HeadContext
from .recipes import FitOptions
from .sam_modules import output_upscaling
from .upscaling import as_picture, upscaled


class Linear(FeatureHead):
    """SAM's up-scaling, then two 1x1 convolutions: 75,140 parameters for four classes.

    Source: AutoSAM (arXiv 2306.13731), models/SamFeatSeg.py. It is not literally linear.
    Where it differs from the published code: no ReLU on the logits (there it can silence a
    class for good). As there, the up-scaling starts from SAM's mask decoder, if the encoder has one.

    All parameters are trained.

    Parameters
    ----------
    channels
        Of the embedding, 256 for SAM.
    class_count
        Classes with background.
    """

    name: ClassVar[str] = "linear"
    own_fit = FitOptions(steps=300, learning_rate=3e-3, validate_every=None)

    def __init__(self, *, channels: int, class_count: int) -> None:
        super().__init__(channels=channels, class_count=class_count)
        self.upscaling = output_upscaling(channels)
        self.classifier = nn.Sequential(
            nn.Conv2d(channels // 8, channels // 8, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(channels // 8, class_count, kernel_size=1),
        )

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build a fresh head."""
        head = super().build(context)
        if context.mask_decoder is not None:
            prefix = "output_upscaling."
            decoder = context.mask_decoder.decoder
            head.upscaling.load_state_dict(
                {key.removeprefix(prefix): decoder[key] for key in decoder if key.startswith(prefix)}
            )
        return head

    def forward(self, features_BChw: Tensor) -> Tensor:
        """Return the logits, (B, K, 4 h, 4 w)."""
        height, width = features_BChw.shape[-2:]
        finest = upscaled(self.upscaling, features_BChw.float().flatten(2).transpose(1, 2))  # B, h w, 4, 4, C / 8
        first, activation, second = self.classifier
        hidden = activation(_at_each_cell(cast(nn.Conv2d, first), finest))
        logits = _at_each_cell(cast(nn.Conv2d, second), hidden)
        return as_picture(logits.movedim(-1, 1), height, width)


def _at_each_cell(convolution: nn.Conv2d, cells: Tensor) -> Tensor:
    """Return a 1x1 convolution of cells whose channels come last."""
    return F.linear(cells, convolution.weight.flatten(1), convolution.bias)
