"""The encoder's frame: where a slice's pixels lie in the square that the encoder sees.

SAM's rule: the longest side becomes the square's side, the aspect is kept, zeros fill the
bottom and the right. Others stretch both sides to the square. Heads answer on a grid four times finer than the
embedding's; labels are brought there by nearest neighbour and logits are brought back bilinearly.

Pixel centres are at half-integers everywhere (torch's ``align_corners=False``), so
nothing shifts on the way.

Shapes: B slices, K classes, H W pixels of the slice, G cells of the (square) logit grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..store.errors import UsageError
from .losses import IGNORED

RESIZES = ("longest-side", "square", "square-via-224", "corners-via-224")
"""How a slice is brought to the square, as a recipe's ``resize`` says it.

``longest-side`` keeps the aspect and pads. ``square`` stretches rows and columns each to the square's side.
``square-via-224`` does it by way of 224 x 224 pixels, which costs detail and moves nothing. ``corners-via-224`` too,
but as scipy's ``zoom`` does: the centres of the first and the last pixel come to lie on those of the square's, so that
n pixels become (S - 1) / (n - 1) times as large in a square of S, not S / n.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """How a slice of (rows, columns) lies in a square of ``input_px``.

    Raises
    ------
    UsageError
        For a resize that is not one of `RESIZES`.
    """

    rows: int
    columns: int
    input_px: int
    resize: str = RESIZES[0]

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            message = (
                f"the resize {self.resize!r} is none that this samkit knows ({', '.join(RESIZES)}), so it cannot say "
                f"where a slice's pixels are. Update it: pip install --upgrade samkit"
            )
            raise UsageError(message)

    @property
    def inner_px(self) -> tuple[int, int]:
        """(rows, columns) of the resized slice inside the square; SAM's rounding where the aspect is kept."""
        if self.resize != "longest-side":
            return self.input_px, self.input_px
        scale = self.input_px / max(self.rows, self.columns)
        return max(1, int(self.rows * scale + 0.5)), max(1, int(self.columns * scale + 0.5))

    def label_to_grid(self, label_BHW: NDArray[np.unsignedinteger], grid: int) -> NDArray[np.uint8]:
        """Bring labels to the logit grid by nearest neighbour.

        Parameters
        ----------
        label_BHW
            (B, rows, columns), values below 255.
        grid
            Cells along each side of the logit grid.

        Returns
        -------
        ndarray
            (B, G, G) uint8; cells whose centre lies outside the slice are `losses.IGNORED`. Where a centre lies on
            the border of two pixels, even cells take the one before and odd cells the one after.
        """
        row_of, inside_rows = self._nearest(grid, self.inner_px[0], self.rows)
        column_of, inside_columns = self._nearest(grid, self.inner_px[1], self.columns)
        gathered = label_BHW[:, row_of[:, None], column_of[None, :]].astype(np.uint8)
        return np.where(inside_rows[:, None] & inside_columns[None, :], gathered, np.uint8(IGNORED))

    def slices_to_square(self, slices_BCHW: torch.Tensor, padding: float = 0.0) -> torch.Tensor:
        """Bring slices to the square, antialiased bilinear, padded: (B, C, S, S) float32.

        For heads that see slices beside the embedding, or run an encoder of their own. Every resize stretches alike
        here, so that what an encoder was given by way of 224 pixels lies in the same place, and is sharper; by way of
        224 with corners aligned, within half a pixel of the slice of it.
        """
        rows, columns = self.inner_px
        inner = F.interpolate(slices_BCHW.float(), self.inner_px, mode="bilinear", align_corners=False, antialias=True)
        return F.pad(inner, (0, self.input_px - columns, 0, self.input_px - rows), value=padding)

    def logits_to_slice(self, logits_BKGG: torch.Tensor) -> torch.Tensor:
        """Bring logits from the encoder's frame to the slice's own pixels, bilinearly.

        Parameters
        ----------
        logits_BKGG
            (B, K, G, G), any float kind.

        Returns
        -------
        Tensor
            (B, K, rows, columns), float32.
        """
        grid = logits_BKGG.shape[-1]
        y = self._grid_coordinates(self.rows, self.inner_px[0], grid)
        x = self._grid_coordinates(self.columns, self.inner_px[1], grid)
        points = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).to(logits_BKGG.device)
        return F.grid_sample(
            logits_BKGG.float(),
            points.expand(logits_BKGG.shape[0], -1, -1, -1),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )

    # -- one side at a time ----------------------------------------------------------------------------

    @property
    def _on_corners(self) -> bool:
        return self.resize == "corners-via-224"

    def _nearest(self, grid: int, inner_px: int, length: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return for each grid cell the nearest of ``length`` pixels, and whether its centre lies on the slice."""
        cell = np.arange(grid)
        # Where the centre of a cell lies on the slice, in its pixels. In whole numbers, because a slice twice as fine
        # as the grid has every centre on the border of two pixels, and rounding must not decide. Always the upper of
        # the two would shift all labels by half a pixel: even cells take the lower one.
        centre, whole = (2 * cell + 1) * self.input_px, 2 * grid  # in the square's pixels: centre / whole
        if self._on_corners:
            # The pixel j of the square is the pixel j (length - 1) / (input_px - 1); both centres are half further on.
            steps = max(1, self.input_px - 1)
            numerator, denominator = (centre - grid) * (length - 1) + grid * steps, whole * steps
        else:
            numerator, denominator = centre * length, whole * inner_px
        index = numerator // denominator - ((numerator % denominator == 0) & (cell % 2 == 0))
        return np.clip(index, 0, length - 1), cell < _cells_inside(grid, self.input_px, inner_px)

    def _grid_coordinates(self, length: int, inner_px: int, grid: int) -> torch.Tensor:
        """Return where ``length`` pixels' centres lie on the logit grid, in [-1, 1], not past the last cell inside."""
        pixel = torch.arange(length, dtype=torch.float64)
        if not self._on_corners:
            centre_px = (pixel + 0.5) * (inner_px / length)
        elif length > 1:
            centre_px = pixel * ((self.input_px - 1) / (length - 1)) + 0.5
        else:
            centre_px = torch.full_like(pixel, self.input_px / 2)  # the one pixel fills the square
        # A pixel at the slice's edge must not be blended with the padding beside it: stop at the last cell
        # whose centre lies on the slice.
        last_inside = _cells_inside(grid, self.input_px, inner_px) - 0.5
        cell = torch.clamp(centre_px * (grid / self.input_px), max=last_inside)
        return (cell / grid * 2 - 1).float()


def _cells_inside(grid: int, input_px: int, inner_px: int) -> int:
    """Return how many cells of the grid have their centre on the slice; a slice thinner than half a cell has one."""
    return max(1, int(np.count_nonzero((2 * np.arange(grid) + 1) * input_px < 2 * grid * inner_px)))
