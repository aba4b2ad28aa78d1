"""SAM's image encoder as a part of a head: it runs in every step, and gradients reach it.

Shapes: B slices, S pixels of the encoder's square, C channels, h w cells of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from .base import Head, LiveEncoderWeights, Sees
from .sam_modules import ImageEncoderViT

_MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class SamShape:
    """The architecture of a SAM image encoder at one size of its input."""

    input_px: int
    patch_px: int
    #: Channels of a token.
    width: int
    depth: int
    attention_heads: int
    #: Blocks that attend to the whole grid; the others attend inside windows.
    global_blocks: tuple[int, ...]
    window: int
    #: Of the embedding.
    channels: int

    @property
    def grid(self) -> int:
        """Cells of the embedding along a side."""
        return self.input_px // self.patch_px

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a shape."""
        return cls(**{**value, "global_blocks": tuple(value["global_blocks"])})

    def to_json(self) -> dict[str, Any]:
        """Return the shape as it is kept."""
        return {**asdict(self), "global_blocks": list(self.global_blocks)}

    def build(self) -> nn.Module:
        """Return the package's module, its numbers from torch's generator."""
        encoder: nn.Module = ImageEncoderViT(
            img_size=self.input_px,
            patch_size=self.patch_px,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.attention_heads,
            mlp_ratio=_MLP_RATIO,
            out_chans=self.channels,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=self.window,
            global_attn_indexes=self.global_blocks,
        )
        return encoder


class LiveEncoder(nn.Module):
    """Slices in the encoder's square in, embeddings out, with gradients.

    Parameters
    ----------
    shape
        Of the encoder, as `SamShape` keeps it.
    scale, mean, deviation
        What pixels in [0, 1] are multiplied by, less, and divided by: red, green, blue.
    resize
        Where a slice lies in the square, one of `frame.RESIZES`.
    """

    def __init__(
        self,
        *,
        shape: Mapping[str, Any],
        scale: float,
        mean: Sequence[float],
        deviation: Sequence[float],
        resize: str,
    ) -> None:
        super().__init__()
        self.shape = SamShape.from_json(shape)
        self.scale, self.mean, self.deviation, self.resize = scale, tuple(mean), tuple(deviation), resize
        self.model = self.shape.build()

    @classmethod
    def begun_from(cls, source: LiveEncoderWeights) -> Self:
        """Build it with an encoder's own weights."""
        encoder = cls(**source.config)
        encoder.model.load_state_dict(source.tensors, strict=True)
        return encoder

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild the module."""
        return {
            "shape": self.shape.to_json(),
            "scale": self.scale,
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "resize": self.resize,
        }

    def forward(self, squares_BCSS: Tensor) -> Tensor:
        """Return the embeddings, (B, C, h, w), of squares (B, 1 or 3, S, S); see `base.Sees.SQUARES`."""
        pixels = squares_BCSS.float().expand(-1, 3, -1, -1) * self.scale
        mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.deviation))
        # SAM pads what is normalised with 0.
        embedding: Tensor = self.model(torch.nan_to_num((pixels - mean) / deviation, nan=0.0))
        return embedding


class LiveHead(Head):
    """A head that runs an encoder of its own, on slices in its square."""

    sees = Sees.SQUARES
    #: Which says where slices lie in the square.
    encoder: LiveEncoder
