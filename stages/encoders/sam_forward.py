"""The forward pass of SAM's image encoder, equal to the `segment-anything` package's and faster.

The modules and their weights are the package's; what differs is the order of the arithmetic, so results agree to
rounding (relative L2 error below 1e-5 in float32, and bfloat16 below 1.5e-2, against the package in float32). Three
things are not done:

- relative positions are not gathered anew for every image and block: the tables depend on the grid alone;
- the decomposed relative positions are not added to a matrix of all queries by all keys. Inside windows they are part
  of the product: with a_i the terms of query i for each key row and b_i those for each key column, attention with
  queries [s q, a, b] and keys [k, row code, column code] (one-hot) has the same logits. Where a block attends to the
  whole grid, logits are made for a few hundred queries at a time, in memory that stays in the processor's cache;
- padding that fills up windows goes through no layer: its tokens are zeros after the norm, so that their queries, keys
  and values are the bias of the projection.

Source: Kirillov et al., "Segment Anything" (arXiv 2304.02643); Li et al., "MViTv2" (arXiv 2112.01526), equation 4, for
decomposed relative positions.

Shapes: B images, S pixels of the square, n cells along an axis of the attended grid, N = n * n of its tokens, G groups
of tokens that attend to each other (images, or their windows), A heads, D channels of a head, C channels of a token.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from ...heads.sam_modules import Attention, Block, ImageEncoderViT

__all__ = ["SamForward"]

# Queries whose logits are made at once on a processor: with 4096 keys, 8 MB of float32. From 256 to 1024 it makes no
# difference that stands out of the noise.
_QUERIES_AT_ONCE = 512
# Kernels of fused attention want widths that are multiples of this.
_FUSED_WIDTH = 8


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
        self._positions = [_Positions(block.attn, block.window_size or grid) for block in self._model.blocks]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the embeddings, (B, C, h, w) float32, of prepared images (B, 3, S, S)."""
        model = self._model
        # In float32 also where the arithmetic is not: the sum over all blocks is what rounding would hurt most.
        tokens: Tensor = model.patch_embed(images.to(self._precision)).float()
        tokens = tokens + model.pos_embed
        for block, positions in zip(model.blocks, self._positions, strict=True):
            tokens += _attended(block, positions, self._normed(block.norm1, tokens))
            tokens += block.mlp(self._normed(block.norm2, tokens))
        embedding: Tensor = model.neck(tokens.permute(0, 3, 1, 2).to(self._precision))
        return embedding.float().contiguous()

    def _normed(self, norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
        width, weight, bias = norm.normalized_shape, norm.weight.float(), norm.bias.float()
        return F.layer_norm(tokens, width, weight, bias, norm.eps).to(self._precision)


class _Positions:
    """The relative positions of one block, gathered for its grid."""

    def __init__(self, attention: Attention, side: int) -> None:
        self.side = side
        cells = torch.arange(side, device=attention.rel_pos_h.device)
        distance = cells[:, None] - cells[None, :] + side - 1
        #: (n, D, n): by query row, what a query is multiplied with to give its terms for each key row.
        self.rows = attention.rel_pos_h[distance].transpose(1, 2).contiguous()
        #: (n, D, n): the same by columns.
        self.columns = attention.rel_pos_w[distance].transpose(1, 2).contiguous()
        places = torch.arange(side * side, device=cells.device)
        codes = torch.cat([F.one_hot(places // side, side), F.one_hot(places % side, side)], dim=1)
        #: (N, 2 n): which row and which column a key is in.
        self.codes = codes.to(self.rows.dtype)

    def terms(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return what queries (G, N, D) add to their logits, by key row and by key column: (G, N, n) each."""
        groups, tokens, width = queries.shape
        side = self.side
        by_row = queries.view(groups, side, side, width).transpose(0, 1).reshape(side, groups * side, width)
        rows = torch.bmm(by_row, self.rows).view(side, groups, side, side).transpose(0, 1)
        by_column = queries.view(groups, side, side, width).permute(2, 0, 1, 3).reshape(side, groups * side, width)
        columns = torch.bmm(by_column, self.columns).view(side, groups, side, side).permute(1, 2, 0, 3)
        return rows.reshape(groups, tokens, side), columns.reshape(groups, tokens, side)


def _attended(block: Block, positions: _Positions, tokens: Tensor) -> Tensor:
    """Return what attention adds to tokens (B, h, w, C)."""
    attention = block.attn
    images, height, width, channels = tokens.shape
    heads, side = attention.num_heads, positions.side
    projected = attention.qkv(tokens)
    down, across = -(-height // side), -(-width // side)
    if (down * side, across * side) != (height, width):
        filled = attention.qkv.bias.expand(images, down * side, across * side, 3 * channels).contiguous()
        filled[:, :height, :width] = projected
        projected = filled
    # (B, down, n, across, n, q k v, A, D) -> (q k v, G = B down across A, N, D)
    grouped = projected.view(images, down, side, across, side, 3, heads, channels // heads)
    queries, keys, values = grouped.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, side * side, channels // heads)
    mixed = _attention(queries, keys, values, positions, scale=attention.scale)
    mixed = mixed.view(images, down, across, heads, side, side, channels // heads).permute(0, 1, 4, 2, 5, 3, 6)
    mixed = mixed.reshape(images, down * side, across * side, channels)[:, :height, :width]
    # In one piece: of a view with gaps torch makes a product a row, each with a copy of the weights. In bfloat16 that
    # took 7 % of ViT-B's time at 1024 px.
    added: Tensor = attention.proj(mixed.contiguous())
    return added


def _attention(queries: Tensor, keys: Tensor, values: Tensor, positions: _Positions, *, scale: float) -> Tensor:
    """Attend within groups, (G, N, D) each, heads among the groups."""
    rows, columns = positions.terms(queries)
    queries = queries * scale
    if queries.device.type == "cpu" and queries.shape[1] > _QUERIES_AT_ONCE:
        return _attention_by_parts(queries, keys, values, rows, columns)
    queries = torch.cat([queries, rows, columns], dim=-1)
    keys = torch.cat([keys, positions.codes.expand(len(keys), -1, -1)], dim=-1)
    if queries.device.type == "cpu":
        return torch.bmm(torch.softmax(torch.bmm(queries, keys.transpose(1, 2)), dim=-1), values)
    return _fused_attention(queries, keys, values)


def _attention_by_parts(queries: Tensor, keys: Tensor, values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend for a few hundred queries at a time; queries are scaled, and the terms of their positions given."""
    groups, tokens, _ = queries.shape
    mixed = torch.empty_like(values)
    for group in range(groups):
        for first in range(0, tokens, _QUERIES_AT_ONCE):
            part = slice(first, first + _QUERIES_AT_ONCE)
            logits = (rows[group, part, :, None] + columns[group, part, None, :]).view(-1, tokens)
            logits.addmm_(queries[group, part], keys[group].T)
            torch.mm(torch.softmax(logits, dim=-1), values[group], out=mixed[group, part])
    return mixed


def _fused_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend by the device's fused kernel, which wants equal widths of queries, keys and values."""
    width = -(-queries.shape[-1] // _FUSED_WIDTH) * _FUSED_WIDTH
    queries, keys, padded = (F.pad(one, (0, width - one.shape[-1]))[None] for one in (queries, keys, values))
    mixed = F.scaled_dot_product_attention(queries, keys, padded, scale=1.0)
    return mixed[0, ..., : values.shape[-1]]
