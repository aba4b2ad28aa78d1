"""Attention through slices is plain attention at each cell by itself; that among cells is the same with gradients."""

import math

import pytest
import torch
from torch.nn import functional as F

from samkit.heads import sam_blocks
from samkit.heads.sam_blocks import Positions, depth_attention, space_attention
from samkit.heads.sam_modules import Attention

CHANNELS, HEADS, SIDE = 12, 3, 5


@pytest.fixture
def attention():
    torch.manual_seed(0)
    made = Attention(CHANNELS, num_heads=HEADS, use_rel_pos=True, input_size=(SIDE, SIDE))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.double()


def tokens(slices):
    return torch.randn(slices, SIDE, SIDE, CHANNELS, generator=torch.Generator().manual_seed(1)).double()


def through_slices(attention, chunk):
    """The same by loops: at each cell, and in each head, every slice looks at every slice."""
    queries, keys, values = attention.qkv(chunk).chunk(3, dim=-1)
    mixed = torch.zeros_like(queries)
    width = CHANNELS // HEADS
    for row in range(SIDE):
        for column in range(SIDE):
            for head in range(HEADS):
                part = slice(head * width, (head + 1) * width)
                q, k, v = (one[:, row, column, part] for one in (queries, keys, values))
                mixed[:, row, column, part] = torch.softmax(q @ k.T / math.sqrt(width), dim=-1) @ v
    return attention.proj(mixed)


@pytest.mark.parametrize("slices", [1, 2, 7])
def test_attention_through_slices_is_attention_at_each_cell(attention, slices):
    chunk = tokens(slices)
    found = depth_attention(attention, attention.qkv(chunk), [slices])
    torch.testing.assert_close(found, through_slices(attention, chunk))


def test_chunks_do_not_see_each_other(attention):
    several = tokens(6)
    together = depth_attention(attention, attention.qkv(several), [1, 3, 2])
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        torch.testing.assert_close(together[part], through_slices(attention, several[part]))


def test_what_a_slice_shows_at_a_cell_is_seen_at_that_cell_of_the_others_and_nowhere_else(attention):
    # As the published code cuts windows before it looks through slices, it looks along the windows of one slice.
    before, changed = tokens(4), tokens(4)
    changed[2, 1, 3] += 1
    moved = depth_attention(attention, attention.qkv(changed), [4]) - depth_attention(
        attention, attention.qkv(before), [4]
    )
    cells = moved.abs().amax(dim=-1) > 1e-9
    assert cells[:, 1, 3].all()
    cells[:, 1, 3] = False
    assert not cells.any()


def test_one_slice_sees_itself(attention):
    chunk = tokens(1)
    values = attention.qkv(chunk)[..., 2 * CHANNELS :]
    torch.testing.assert_close(depth_attention(attention, attention.qkv(chunk), [1]), attention.proj(values))


@pytest.mark.parametrize("window", [2, SIDE])
def test_with_gradients_attention_among_cells_is_what_it_is_without(attention, monkeypatch, window):
    monkeypatch.setattr(sam_blocks, "_QUERIES_AT_ONCE", 3)  # so that a processor does it in parts
    attention.rel_pos_h, attention.rel_pos_w = (
        torch.nn.Parameter(table[: 2 * window - 1]) for table in (attention.rel_pos_h, attention.rel_pos_w)
    )
    projected = attention.qkv(tokens(2))
    learning = space_attention(attention, Positions(attention, window), projected)
    with torch.no_grad():
        frozen = space_attention(attention, Positions(attention, window), projected)
    assert learning.requires_grad
    torch.testing.assert_close(learning, frozen)


def test_gradients_of_attention_among_cells_are_those_of_the_packages(attention):
    given = tokens(2).requires_grad_()
    space_attention(attention, Positions(attention, SIDE), attention.qkv(given)).square().sum().backward()
    mine, given.grad = given.grad.clone(), None
    attention(given).square().sum().backward()
    assert F.mse_loss(mine, given.grad) < 1e-12
