"""Where training of a small SAM begins, so that it learns in an hour on a processor.

SAM was trained on a million pictures from random numbers. What those take longest to find is put in at the start: that
attention looks at what is like itself, and that a prompt looks at where it is. Everything goes on to be trained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

# Of Trockman and Kolter's table 1: noise and identity in the products of queries and keys, and of values and outputs.
_LIKENESS = (0.7, 0.7)
_UNLIKENESS = (0.4, -0.4)
# Positions beside patches, whose projections begin with a standard deviation of about this.
_POSITION_SCALE = 0.3
# With it a prompt's attention begins with about half of its weight within two cells of it, of 16 a side: 0.20 to 0.62
# by place and seed, least in corners.
_PROMPT_GAIN = 1.5
# Heads that look to one side: how sure they begin to be (of logits), over what share of half a picture a side begins,
# and at how many places along an axis that is fitted, with what ridge.
_SIDE_GAIN, _SIDE_WIDTH, _PLACES, _SIDE_RIDGE = 3.0, 0.15, 24, 1e-2
# By axis, rows 0 and columns 1, and direction.
_SIDES = ((1, 1), (1, -1), (0, 1), (0, -1))
_LONGEST_WAVE = 10_000.0


@torch.no_grad()
def start_encoder(encoder: nn.Module) -> None:
    """Let attention begin by looking at what is like itself, and positions as waves.

    Source: mimetic initialisation, Trockman and Kolter (arXiv 2305.09828), equations 5 to 8: the products of a head's
    query and key weights begin near the identity, those of value and output weights near its negative; sinusoidal
    positions as there.

    Parameters
    ----------
    encoder
        SAM's image encoder, changed in place; noise comes from torch's global generator.
    """
    position = encoder.get_parameter("pos_embed")  # (1, grid, grid, width)
    position.copy_(_POSITION_SCALE * waves(position.shape[-1], position.shape[1])[None])
    for block in encoder.get_submodule("blocks").children():
        attention: Any = block.get_submodule("attn")
        weight, output = attention.qkv.weight, attention.proj.weight
        width = weight.shape[1]
        heads = attention.num_heads
        queries, keys, values = weight.split(width)
        for query, key in zip(queries.chunk(heads), keys.chunk(heads), strict=True):
            left, right = _factors(_near_identity(width, _LIKENESS), len(query))
            query.copy_(left)
            key.copy_(right)
        left, right = _factors(_near_identity(width, _UNLIKENESS), width)
        values.copy_(right)
        output.copy_(left.T)


@torch.no_grad()
def start_mask_decoder(decoder: nn.Module, positions: nn.Module) -> None:
    """Let a prompt begin by looking at where it is in the picture, and the picture at the prompts near by.

    Queries and keys of every attention between prompts and picture begin equal: both carry SAM's position encoding, so
    that their product is largest where they are at one place. From random numbers that took thousands of steps.

    Four of the heads by which the picture looks at prompts begin by looking at those to one side instead: what lies
    right of a box's first corner and left of its last one is in the box. With them 250 steps of boxes come as far as
    375 without.

    Parameters
    ----------
    decoder
        SAM's mask decoder, changed in place.
    positions
        The position encoding of the prompt encoder beside it.
    """
    transformer = decoder.get_submodule("transformer")
    between = [transformer.get_submodule("final_attn_token_to_image")]
    for layer in transformer.get_submodule("layers").children():
        between += [layer.get_submodule(f"cross_attn_{name}") for name in ("token_to_image", "image_to_token")]
    for attention in between:
        query, key = (attention.get_submodule(name) for name in ("q_proj", "k_proj"))
        nn.init.orthogonal_(query.get_parameter("weight"), _PROMPT_GAIN)
        key.get_parameter("weight").copy_(query.get_parameter("weight"))
        for projection in (query, key):
            nn.init.zeros_(projection.get_parameter("bias"))
    for layer in transformer.get_submodule("layers").children():
        _look_to_the_sides(layer.get_submodule("cross_attn_image_to_token"), positions)


def waves(width: int, grid: int) -> Tensor:
    """Return sinusoidal positions, (grid, grid, width): half of the channels for rows, half for columns.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.5, along each axis.
    """
    lengths = _LONGEST_WAVE ** (torch.arange(width // 4) / (width // 4))
    angles = torch.arange(grid)[:, None] / lengths
    along = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([along[:, None].expand(-1, grid, -1), along[None].expand(grid, -1, -1)], dim=2)


def _look_to_the_sides(attention: Any, positions: nn.Module) -> None:  # noqa: ANN401 - the package's is not typed
    """Let the first heads look at prompts to one side of each cell."""
    width = attention.internal_dim // attention.num_heads
    for head, (axis, direction) in enumerate(_SIDES):
        own = slice(head * width, (head + 1) * width)
        attention.q_proj.weight[own], attention.k_proj.weight[own] = _side(positions, axis, direction, width)


def _side(positions: nn.Module, axis: int, direction: int, rank: int) -> tuple[Tensor, Tensor]:
    """Return query and key weights, (rank, C) each, that tell cells on one side of a point from those on the other.

    The logit of a cell and a point, from their positions alone, is nearest to `_SIDE_GAIN` times a soft sign of the
    distance between them along the axis: by least squares over a grid, and by the best product of that rank.
    """
    encoded = positions((_PLACES, _PLACES)).flatten(1).double()  # C, places
    along = (torch.arange(_PLACES, dtype=torch.float64) + 0.5) / _PLACES * 2 - 1
    place = torch.meshgrid(along, along, indexing="ij")[axis].flatten()
    wanted = torch.tanh(direction * (place[:, None] - place) / _SIDE_WIDTH)
    penalty = _SIDE_RIDGE * encoded.shape[1] * torch.eye(len(encoded), dtype=torch.float64)
    solved = torch.linalg.solve(encoded @ encoded.T + penalty, encoded)
    query, key = _factors(solved @ wanted @ solved.T, rank)
    scale = math.sqrt(_SIDE_GAIN * math.sqrt(rank))  # logits are divided by the root of a head's width
    return (scale * query).float(), (scale * key).float()


def _near_identity(width: int, noise_and_identity: tuple[float, float]) -> Tensor:
    noise, identity = noise_and_identity
    return noise * torch.randn(width, width) / math.sqrt(width) + identity * torch.eye(width)


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return two matrices (rank, width) of which the first, transposed, times the second is nearest to ``product``."""
    left, sizes, right = torch.linalg.svd(product)
    root = sizes[:rank].sqrt()
    return (left[:, :rank] * root).T, root[:, None] * right[:rank]
