"""The pixels themselves as features: what an encoder's features have to beat."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from samkit.heads.base import MaskDecoderWeights
from samkit.stages.encoders.nano import NANO
from samkit.stages.encoders.pixels import prepare
from samkit.store.keys import Recipe

_INPUT_PX, _CELL_PX = 256, 16


class RawPixels:
    """An `Encoder` whose channels are the 16 x 16 pixels of a cell, row by row.

    Heads that begin from a mask decoder are given one of `nano`'s shape with numbers from a seed.
    """

    recipe = Recipe(encoder="pixels", weights_sha256="none, decoder from a seed", input_px=_INPUT_PX)
    embedding_shape = (_CELL_PX**2, _INPUT_PX // _CELL_PX, _INPUT_PX // _CELL_PX)
    trained = True
    live = None
    kernel_paths = ("pixels",)

    @property
    def mask_decoder(self) -> MaskDecoderWeights | None:
        """A new one, which is the same each time."""
        return NANO.load(None).mask_decoder

    def __call__(self, images: Tensor) -> Tensor:
        """Return the embeddings, (B, 256, 16, 16), of (B, 1 or 3, H, W) images in [0, 1]."""
        return self.encode(self.prepare(images))

    def prepare(self, images: Tensor) -> Tensor:
        """Return (B, 3, 256, 256), as SAM's own rule has it."""
        return prepare(images, input_px=_INPUT_PX, pixel_normalisation="sam")

    def encode(self, prepared: Tensor, kernel_path: str | None = None) -> Tensor:
        """Return the first channel, cut into cells."""
        assert kernel_path in (None, *self.kernel_paths)
        return F.pixel_unshuffle(prepared[:, :1], _CELL_PX)
