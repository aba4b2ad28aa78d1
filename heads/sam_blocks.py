"""The transformer blocks of SAM's image encoder, equal to the `segment-anything` package's and faster.

The modules and their weights are the package's; what differs is the order of the arithmetic, so results agree to
rounding. Frozen encoders run on it (`stages.encoders.sam_forward`), and so do the blocks that a head goes on to train.
Three things are not done:

- relative positions are not gathered anew for every image and block: the tables depend on the grid alone;
- the decomposed relative positions are not added to a matrix of all queries by all keys. Inside windows they are part
  of the product: with a_i the terms of query i for each key row and b_i those for each key column, attention with
  queries [s q, a, b] and keys [k, row code, column code] (one-hot) has the same logits. Where a block attends to the
  whole grid, logits are made for a few hundred queries at a time, in memory that stays in the processor's cache;
- padding that fills up windows goes through no layer: its tokens are zeros after the norm, so that their queries, keys
  and values are the bias of the projection.

Source: Kirillov et al., "Segment Anything" (arXiv 2304.02643); Li et al., "MViTv2" (arXiv 2112.01526), equation 4, for
decomposed relative positions.

Shapes: B images, n cells along an axis of the attended grid, N = n * n of its tokens, G groups of tokens that attend to
each other (images, or their windows), A heads, D channels of a head, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .sam_modules import Attention

__all__ = ["Positions", "depth_attention", "space_attention"]

# Queries whose logits are made at once on a processor: with 4096 keys, 8 MB of float32. From 256 to 1024 it makes no
# difference that stands out of the noise.
_QUERIES_AT_ONCE = 512
# Kernels of fused attention want widths that are multiples of this.
_FUSED_WIDTH = 8


class Positions:
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


def space_attention(attention: Attention, positions: Positions, projected: Tensor) -> Tensor:
    """Return what attention among the cells of each image adds to its tokens, (B, h, w, C).

    Parameters
    ----------
    attention
        A block's.
    positions
        Its relative positions, whose ``side`` is that of its windows, or of the grid.
    projected
        (B, h, w, 3 C): queries, keys and values of the normed tokens, ``attention.qkv`` of them.
    """
    images, height, width, triple = projected.shape
    channels, heads, side = triple // 3, attention.num_heads, positions.side
    down, across = -(-height // side), -(-width // side)
    if (down * side, across * side) != (height, width):
        bias = attention.qkv.bias.to(projected.dtype)
        filled = bias.expand(images, down * side, across * side, triple).contiguous()
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


def depth_attention(attention: Attention, projected: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return what attention through the slices of each chunk, at every cell by itself, adds to tokens: (B, h, w, C).

    The projections are those of the attention among cells, so that the two branches share one product. Relative
    positions are the plane's and mean nothing through slices: there are none.

    Source: SD-Trans of Medical SAM Adapter (arXiv 2304.12620): the same attention over the transposed tokens, D x N to
    N x D.

    Parameters
    ----------
    attention
        A block's.
    projected
        (B, h, w, 3 C): queries, keys and values of the normed tokens of consecutive slices, on the whole grid: before
        it is cut into windows.
    lengths
        How many slices each chunk has; they sum to B.
    """
    height, width, triple = projected.shape[1:]
    channels, heads = triple // 3, attention.num_heads
    mixed = []
    for chunk in projected.split(list(lengths)):
        # (slices, h w, q k v, A, D) -> (q k v, h w, A, slices, D)
        grouped = chunk.view(len(chunk), height * width, 3, heads, channels // heads).permute(2, 1, 3, 0, 4)
        queries, keys, values = grouped
        shares = torch.softmax(queries * attention.scale @ keys.transpose(-1, -2), dim=-1)
        mixed.append((shares @ values).permute(2, 0, 1, 3).reshape(len(chunk), height, width, channels))
    added: Tensor = attention.proj(torch.cat(mixed))
    return added


def _attention(queries: Tensor, keys: Tensor, values: Tensor, positions: Positions, *, scale: float) -> Tensor:
    """Attend within groups, (G, N, D) each, heads among the groups."""
    rows, columns = positions.terms(queries)
    on_processor, many = queries.device.type == "cpu", queries.shape[1] > _QUERIES_AT_ONCE
    # Parts are written in place, which neither gradients nor autocast go along with.
    learning = (torch.is_grad_enabled() and rows.requires_grad) or torch.is_autocast_enabled(queries.device.type)
    queries = queries * scale
    if on_processor and many and not learning:
        return _attention_by_parts(queries, keys, values, rows, columns)
    queries = torch.cat([queries, rows, columns], dim=-1)
    keys = torch.cat([keys, positions.codes.to(keys.dtype).expand(len(keys), -1, -1)], dim=-1)
    if on_processor and not many:
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
