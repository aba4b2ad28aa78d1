"""The forward pass of SAM's frozen image encoder, equal to the `segment-anything` package's and faster.

The modules and their weights are the package's; blocks run as `heads.sam_blocks` says. Results agree to rounding:
relative L2 error below 1e-5 in float32, and bfloat16 below 1.5e-2, against the package in float32.

Shapes: B images, S pixels of the square, C channels of a token or of the embedding, h w cells of the grid.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...heads.sam_blocks import Positions, space_attention

if TYPE_CHECKING:
    from ...heads.sam_modules import ImageEncoderViT

__all__ = ["SamForward"]


class SamForward:
    """An image encoder's forward pass, for one precision and the grid that its positions were made for."""

    def __init__(self, model: ImageEncoderViT, precision: torch.dtype) -> None:
        """Take over a model's weights.

        Parameters
        ----------
        model
            On its device, in float32.
        precision
            Of all arithmetic; another one than float32 makes a copy of the weights.
        """
        self._precision = precision
        self._model = model if precision == torch.float32 else copy.deepcopy(model).to(precision)
        grid = self._model.pos_embed.shape[1]
        self._positions = [Positions(block.attn, block.window_size or grid) for block in self._model.blocks]

    @torch.no_grad()
    def __call__(self, images: Tensor, *, until: int | None = None) -> Tensor:
        """Return the embeddings, (B, C, h, w) float32, of prepared images (B, 3, S, S).

        Parameters
        ----------
        images
            As the weights expect them.
        until
            The block whose input is returned, instead of what the neck answers.
        """
        model = self._model
        # In float32 also where the arithmetic is not: the sum over all blocks is what rounding would hurt most.
        tokens: Tensor = model.patch_embed(images.to(self._precision)).float()
        tokens = tokens + model.pos_embed
        for block, positions in list(zip(model.blocks, self._positions, strict=True))[:until]:
            projected = block.attn.qkv(self._normed(block.norm1, tokens))
            tokens += space_attention(block.attn, positions, projected)
            tokens += block.mlp(self._normed(block.norm2, tokens))
        features = tokens.permute(0, 3, 1, 2)
        if until is None:
            features = model.neck(features.to(self._precision))
        return features.float().contiguous()

    def _normed(self, norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
        width, weight, bias = norm.normalized_shape, norm.weight.float(), norm.bias.float()
        return F.layer_norm(tokens, width, weight, bias, norm.eps).to(self._precision)
