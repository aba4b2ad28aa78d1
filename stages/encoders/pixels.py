"""From slices in [0, 1] to the normalised square that SAM's weights were trained on.

Shapes: B slices, H W pixels of the slice, S pixels of the square.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...heads.frame import Frame
from ...store.errors import UsageError

# SAM's own numbers, on a 0-255 scale, red green blue (segment_anything/build_sam.py).
_MEAN = (123.675, 116.28, 103.53)
_STANDARD_DEVIATION = (58.395, 57.12, 57.375)

PIXEL_NORMALISATIONS = ("sam", "sam-exact")


def prepare(images: Tensor, *, input_px: int, pixel_normalisation: str) -> Tensor:
    """Bring slices to the encoder's square.

    ``sam``: 0-255 in float32, antialiased bilinear to the longest side, minus SAM's mean, over its
    standard deviation, zeros at the bottom and the right. ``sam-exact``: the same, but rounded to
    uint8 and resized as the `segment-anything` package's predictor does, through PIL.

    Parameters
    ----------
    images
        (B, 1 or 3, H, W) in [0, 1], any float kind; one channel is repeated.
    input_px
        Side of the square.
    pixel_normalisation
        One of `PIXEL_NORMALISATIONS`.

    Returns
    -------
    Tensor
        (B, 3, S, S) float32 on the images' device.

    Raises
    ------
    UsageError
        For images of another shape.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        message = (
            f"images have the shape {tuple(images.shape)}; give (slices, 1 or 3 channels, rows, columns) in [0, 1]."
        )
        raise UsageError(message)
    frame = Frame(rows=images.shape[2], columns=images.shape[3], input_px=input_px)
    grey_255 = images.float().expand(-1, 3, -1, -1) * 255
    if pixel_normalisation == "sam":
        resized = F.interpolate(grey_255, frame.inner_px, mode="bilinear", align_corners=False, antialias=True)
    else:
        resized = _resized_by_pil(grey_255, frame.inner_px)
    mean = torch.tensor(_MEAN, device=images.device)[:, None, None]
    deviation = torch.tensor(_STANDARD_DEVIATION, device=images.device)[:, None, None]
    normalised = (resized - mean) / deviation
    return F.pad(normalised, (0, input_px - frame.inner_px[1], 0, input_px - frame.inner_px[0]))


def _resized_by_pil(images_255: Tensor, size: tuple[int, int]) -> Tensor:
    # What the package's ResizeLongestSide does, but for a slice so thin that it would be left with no pixel.
    rows, columns = size
    bytes_BHWC = images_255.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    resized = np.stack(
        [np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)) for image in bytes_BHWC]
    )
    # Contiguous, as the package's predictor makes it: the order of memory decides how a convolution sums.
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().float().to(images_255.device)
