"""SAM's up-scaling of an embedding, four times finer, computed cell by cell.

A transposed convolution of 2 x 2 with stride 2 makes each cell's four from that cell alone: a matrix. So channels stay
where they are, last, from one layer to the next, and only what a head answers is laid out as a picture. Equal to the
package's modules to rounding (test), without their copies between layouts.

Shapes: N = h w cells of the embedding, C channels; each cell has 2 x 2 cells of the first step, each of these 2 x 2.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

_CELLS = 4  # of one step


def upscaled(upscaling: nn.Sequential, cells: Tensor) -> Tensor:
    """Return the up-scaled embedding, (..., N, 4, 4, C / 8): the cells of the first step, then those of the second.

    Parameters
    ----------
    upscaling
        `sam_modules.output_upscaling`, trained or not.
    cells
        (..., N, C).
    """
    first, norm, first_activation, second, second_activation = upscaling
    finer = _one_step(cast(nn.ConvTranspose2d, first), cells)
    scale, shift, smallest = (getattr(norm, name) for name in ("weight", "bias", "eps"))
    finer = F.layer_norm(finer, finer.shape[-1:], scale, shift, smallest)
    finer = _one_step(cast(nn.ConvTranspose2d, second), first_activation(finer))
    finest: Tensor = second_activation(finer)
    return finest


def as_picture(values: Tensor, height: int, width: int) -> Tensor:
    """Lay out what was answered for each of the finest cells: (..., N, 4, 4) becomes (..., 4 h, 4 w)."""
    leading = values.shape[:-3]
    by_side = values.reshape(-1, height, width, 2, 2, 2, 2)  # rows and columns of the cells, of each step
    return by_side.permute(0, 1, 3, 5, 2, 4, 6).reshape(*leading, 4 * height, 4 * width)


def _one_step(convolution: nn.ConvTranspose2d, cells: Tensor) -> Tensor:
    """Return (..., 4, out): the 2 x 2 finer cells of each, row by row."""
    weight = convolution.weight.permute(2, 3, 1, 0)  # rows, columns, out, in
    bias = cast(Tensor, convolution.bias).repeat(_CELLS)
    return F.linear(cells, weight.flatten(0, 2), bias).view(*cells.shape[:-1], _CELLS, -1)
