"""SAM's two-way transformer, asked for several classes of the same slice at once.

The package's module is given every class's own copy of the embedding and projects all of it, in every layer. A class
has few tokens, so the projections of the embedding are moved to the tokens' side: for a head with projections W_q and
W_k, (W_q t) . (W_k x) is (W_k' W_q t) . x, and what is mixed from values W_v x is W_v of what is mixed from x. Two
tokens of eight attention heads are 16 columns where the projection has 128; and until the embedding has met the first
tokens it is one for all classes. Equal to the package to rounding (test), with the package's modules and weights.

A prompt is a class of its own slice: K = 1, and tokens for each of B.

Shapes: B slices, K classes, T tokens a class, N cells, C channels, H attention heads, D channels of one of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from .adapters import MLP_SCALE, DecoderAdapters
from .sam_modules import TwoWayTransformer


class _Attention(Protocol):
    """What the package's attention has, which is not typed."""

    num_heads: int
    internal_dim: int
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, /) -> Tensor: ...


class _Layer(Protocol):
    """What the package's block has."""

    skip_first_layer_pe: bool
    self_attn: _Attention
    cross_attn_token_to_image: _Attention
    cross_attn_image_to_token: _Attention
    mlp: Callable[[Tensor], Tensor]
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    norm3: nn.LayerNorm
    norm4: nn.LayerNorm


def two_way(
    transformer: TwoWayTransformer,
    cells_BNC: Tensor,
    position_NC: Tensor,
    tokens_BKTC: Tensor,
    adapters: DecoderAdapters | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the answered tokens, (B, K, T, C), and the embedding that each class made of its own, (B, K, N, C).

    Parameters
    ----------
    transformer
        The package's, whose ``forward`` this equals for ``K`` copies of each slice's cells.
    cells_BNC
        The embedding.
    position_NC
        The position encoding of its cells.
    tokens_BKTC
        Of each class, for each slice or, (1, K, T, C), the same for every one.
    adapters
        Of its layers, where there are any.
    """
    tokens = tokens_BKTC  # 1 or B, K, T, C
    cells = cells_BNC[:, None]  # B, 1 or K, N, C
    queries = tokens
    layers = list(cast(Iterable[_Layer], transformer.layers))
    for number, layer in enumerate(layers):
        adapted = None if adapters is None else adapters.layers[number]
        placed = queries if layer.skip_first_layer_pe else queries + tokens
        attended = _among_tokens(layer.self_attn, placed, queries)
        queries = layer.norm1(attended if layer.skip_first_layer_pe else queries + attended)
        seen = _tokens_to_cells(layer.cross_attn_token_to_image, queries + tokens, cells, position_NC)
        if adapters is not None and adapted is not None:
            seen = seen + adapted.prompt(seen, adapters.prompt)
        queries = layer.norm2(queries + seen)
        grown = layer.mlp(queries)
        if adapted is not None:
            grown = grown + MLP_SCALE * adapted.mlp(queries)
        queries = layer.norm3(queries + grown)
        answer = _cells_to_tokens(layer.cross_attn_image_to_token, cells, position_NC, queries + tokens, queries)
        cells = cells + answer
        if adapted is not None:
            cells = cells + adapted.embedding(cells)
        cells = layer.norm4(cells)
    last = cast(_Attention, transformer.final_attn_token_to_image)
    answered: Tensor = transformer.norm_final_attn(
        queries + _tokens_to_cells(last, queries + tokens, cells, position_NC)
    )
    return answered, cells


def _among_tokens(attention: _Attention, placed: Tensor, values: Tensor) -> Tensor:
    """Let the tokens of each class look at each other; (1 or B, K, T, C)."""
    together = placed.flatten(0, 1)
    return attention(together, together, values.flatten(0, 1)).view(values.shape)


def _tokens_to_cells(attention: _Attention, asking: Tensor, cells: Tensor, position: Tensor) -> Tensor:
    """Let tokens (1 or B, K, T, C) look at cells (B, 1 or K, N, C), and return what they saw, (B, K, T, C)."""
    heads = attention.num_heads
    asked = attention.q_proj(asking).unflatten(-1, (heads, -1))  # ..., K, T, H, D
    # A bias of the keys adds the same to all cells: softmax does not see it.
    columns = torch.einsum("bkthd,hdc->bkthc", asked, _by_head(attention.k_proj, heads)) / math.sqrt(asked.shape[-1])
    shares = _compared(columns.flatten(2, 3), cells + position).softmax(dim=-1)  # B, K, T H, N
    if cells.shape[1] == 1:
        seen = (shares.flatten(1, 2) @ cells[:, 0]).unflatten(1, shares.shape[1:3])
    else:
        seen = shares @ cells
    seen = seen.unflatten(2, (-1, heads))  # B, K, T, H, C
    values = torch.einsum("bkthc,hdc->bkthd", seen, _by_head(attention.v_proj, heads)).flatten(3)
    answered: Tensor = attention.out_proj(values + attention.v_proj.bias)
    return answered


def _cells_to_tokens(attention: _Attention, cells: Tensor, position: Tensor, placed: Tensor, values: Tensor) -> Tensor:
    """Let cells (B, 1 or K, N, C) look at the tokens of each class (B, K, T, C); return what they saw, (B, K, N, C)."""
    heads = attention.num_heads
    keys = attention.k_proj(placed).unflatten(-1, (heads, -1)) / math.sqrt(attention.internal_dim // heads)
    columns = torch.einsum("bkthd,hdc->bkhtc", keys, _by_head(attention.q_proj, heads))
    bias = torch.einsum("bkthd,hd->bkht", keys, attention.q_proj.bias.view(heads, -1))
    scores = _compared(columns.flatten(2, 3), cells + position).unflatten(2, bias.shape[2:]) + bias[..., None]
    shares = scores.softmax(dim=3).flatten(2, 3)  # B, K, H T, N
    told = attention.v_proj(values).unflatten(-1, (heads, -1))
    told = torch.einsum("bkthd,hdc->bkhtc", told, attention.out_proj.weight.t().unflatten(0, (heads, -1)))
    return torch.matmul(shares.transpose(2, 3), told.flatten(2, 3)) + attention.out_proj.bias


def _compared(columns_BKMC: Tensor, cells: Tensor) -> Tensor:
    """Return the products of each class's columns with the cells, those of all or its own: (B, K, M, N)."""
    if cells.shape[1] > 1:
        return torch.matmul(columns_BKMC, cells.transpose(2, 3))
    products = torch.matmul(columns_BKMC.flatten(1, 2), cells[:, 0].transpose(1, 2))
    return products.view(*products.shape[:1], *columns_BKMC.shape[1:3], -1)


def _by_head(projection: nn.Linear, heads: int) -> Tensor:
    """Return the projection's weights, (H, D, C)."""
    return projection.weight.view(heads, -1, projection.in_features)
