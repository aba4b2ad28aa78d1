"""The baseline that features have to beat: a U-Net trained from nothing on the same labelled slices.

Shapes: B slices, K classes, H W pixels of a slice or a patch of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Head, HeadContext, seeded
from .recipes import FitOptions
from .seen import Sees

# 1.9 million parameters; doubled, 7.8 million.
WIDTHS = (16, 32, 64, 128, 256)
# A normalisation needs more than one pixel at the bottom.
_SMALLEST_BOTTOM = 2


class UNet(Head):
    """Five levels of two 3x3 convolutions, instance-normalised, with skip connections: 1.94 million parameters.

    Source: Ronneberger et al. (arXiv 1505.04597) with what nnU-Net (Isensee et al., Nature Methods 18:203, 2021)
    found to matter: instance normalisation, leaky ReLU, strided convolutions instead of pooling, augmentation
    (`patches`, where it differs from nnU-Net's). It sees slices at their own resolution, needs no encoder and no
    embeddings, and answers at the slice's own pixels. AutoSAM's U-Net (scripts/main_baseline.py) has 31 million
    parameters and no normalisation in its decoder.

    Its norms take their statistics over a plane, so that a plane is answered within a square of the patches' side, as
    slices that are no square lie in patches while it is trained; dark around it, which in patches whose brightness was
    changed is a little brighter.

    All parameters are trained.

    Parameters
    ----------
    channels
        Of a slice, 1 or 3.
    class_count
        Classes with background.
    widths
        Channels of each level, from the slice's resolution downwards, each level half as fine as the one before.
    """

    name: ClassVar[str] = "unet"
    revision = 2
    # Up to half an hour on one core, with patches of 256 px: from one subject of ACDC, half the steps are 20 points of
    # Dice less (nano's card).
    own_fit = FitOptions(steps=4800, batch_size=4, learning_rate=1e-3, validate_every=None)
    sees = Sees.SLICES

    def __init__(self, *, channels: int, class_count: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.channels, self.class_count, self.widths = channels, class_count, tuple(widths)
        # Beside the weights and not in the config: patches of other draws may be of another size, in one experiment.
        self.patch_px: Tensor
        self.register_buffer("patch_px", torch.tensor(0))
        self.down = nn.ModuleList([_level(channels, self.widths[0])])
        self.down.extend(_level(finer, coarser, stride=2) for finer, coarser in pairwise(self.widths))
        upwards = list(pairwise(reversed(self.widths)))
        self.upscaling = nn.ModuleList(
            nn.ConvTranspose2d(coarser, finer, kernel_size=2, stride=2) for coarser, finer in upwards
        )
        self.up = nn.ModuleList(_level(2 * finer, finer) for _, finer in upwards)
        self.classifier = nn.Conv2d(self.widths[0], class_count, kernel_size=1)

    @classmethod
    def build(cls, context: HeadContext) -> Self:
        """Build a fresh network; of the context only the channels of a slice, the classes and the seed count."""
        with seeded(context.seed):
            head = cls(channels=context.input_shape[0], class_count=context.class_count)
        head.see_patches_of(context.input_shape[1])
        return head

    def see_patches_of(self, side_px: int) -> None:
        """Answer planes within a square of that side, as of the patches it is trained on."""
        self.patch_px.fill_(side_px)

    @property
    def window_px(self) -> int | None:
        """Side of the patches that it was trained on; None for one that was trained before that was kept."""
        return int(self.patch_px) or None

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {"channels": self.channels, "class_count": self.class_count, "widths": list(self.widths)}

    def forward(self, slices_BCHW: Tensor) -> Tensor:
        """Return the logits, (B, K, H, W), of slices or patches (B, channels, H, W) in [0, 1], of any size."""
        grid, top, left = self._padded(slices_BCHW.float())
        finer: list[Tensor] = []
        for level in self.down:
            grid = level(grid)
            finer.append(grid)
        finer.pop()
        for upscale, level in zip(self.upscaling, self.up, strict=True):
            grid = level(torch.cat([upscale(grid), finer.pop()], dim=1))
        logits: Tensor = self.classifier(grid)
        rows, columns = slices_BCHW.shape[-2:]
        return logits[..., top : top + rows, left : left + columns]

    def _padded(self, slices: Tensor) -> tuple[Tensor, int, int]:
        """Pad with the darkest value on all sides: to that of a patch, and to what can be halved at every level.

        Returns
        -------
        tuple
            The padded slices, the rows above and the columns to the left of what was given.
        """
        step = 2 ** (len(self.widths) - 1)
        least = max(_SMALLEST_BOTTOM * step, self.window_px or 0)
        rows, columns = (-(-max(side, least) // step) * step - side for side in slices.shape[-2:])
        top, left = rows // 2, columns // 2
        return F.pad(slices, (left, columns - left, top, rows - top)), top, left

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ANN401
        # Of runs before the first of `revision` 2.
        state_dict.setdefault(f"{prefix}patch_px", torch.tensor(0))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class PlaneNorm(nn.InstanceNorm2d):
    """Instance normalisation, on a CPU channels last and plane by plane.

    torch's own brings every grid to channels first, and what a convolution in bfloat16 gives and takes is channels
    last on a CPU: the copies between them are a third of a step.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=True)

    def forward(self, grid_BCHW: Tensor) -> Tensor:
        """Return the same shape, each plane of mean 0 and variance 1 before scale and offset."""
        if grid_BCHW.device.type != "cpu":
            return super().forward(grid_BCHW)
        planes = grid_BCHW.contiguous(memory_format=torch.channels_last).split(1)
        # Statistics of a batch of one slice are those of its planes.
        return torch.cat(
            [F.batch_norm(plane, None, None, self.weight, self.bias, training=True, eps=self.eps) for plane in planes]
        )


def _level(channels: int, width: int, *, stride: int = 1) -> nn.Sequential:
    """Return two convolutions with their norms; the first one takes the step down."""
    layers: list[nn.Module] = []
    for number in range(2):
        layers += [
            nn.Conv2d(width if number else channels, width, 3, stride=1 if number else stride, padding=1, bias=False),
            PlaneNorm(width),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)
