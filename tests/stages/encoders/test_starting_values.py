"""What training begins with: attention to what is alike, positions as waves, prompts that look at where they are."""

from __future__ import annotations

import pytest
import torch

from samkit.heads.base import seeded
from samkit.stages.encoders.nano import NANO
from samkit.stages.encoders.starting_values import start_encoder, start_mask_decoder, waves


@pytest.fixture(scope="module")
def parts():
    with seeded(1):
        made = NANO.parts(256)
        start_encoder(made["image_encoder"])
        start_mask_decoder(made["mask_decoder"], made["prompt_encoder"].pe_layer)
    return made


def share_of_identity(product):
    """How far above the other entries the diagonal is, as a share of its norm: about 0 for noise."""
    return float(product.detach().diagonal().mean() / product.detach().norm() * len(product) ** 0.5)


def products(block):
    """What a block's heads compare by, (heads, width, width), and what its values become."""
    queries, keys, values = block.attn.qkv.weight.split(NANO.width)
    heads = [chunk for weight in (queries, keys) for chunk in [weight.chunk(NANO.attention_heads)]]
    compared = [query.T @ key for query, key in zip(*heads, strict=True)]
    return compared, block.attn.proj.weight @ values


def test_attention_begins_by_comparing_like_with_like(parts):
    for block in parts["image_encoder"].blocks:
        compared, _ = products(block)
        assert all(share_of_identity(product) > 0.3 for product in compared)


def test_what_attention_adds_begins_as_the_opposite_of_what_is_there(parts):
    for block in parts["image_encoder"].blocks:
        assert share_of_identity(products(block)[1]) < -0.3


def test_random_numbers_do_neither():
    compared, added = products(NANO.parts(256)["image_encoder"].blocks[0])
    assert abs(share_of_identity(added)) < 0.1
    assert all(abs(share_of_identity(product)) < 0.1 for product in compared)


def test_positions_near_each_other_are_alike_along_rows_and_columns():
    position = torch.nn.functional.normalize(waves(192, 16), dim=2)
    here = position[4, 4]
    for step in ((1, 0), (0, 1)):
        row, column = 4 + step[0], 4 + step[1]
        assert here @ position[row, column] > here @ position[4 + 5 * step[0], 4 + 5 * step[1]]
    assert len({tuple(one.tolist()) for one in position.flatten(0, 1)}) == 16 * 16


def attention_of_a_point(decoder, prompt_encoder, row, column):
    """Where in the picture a point's token looks first, (16, 16), from its position alone."""
    attention = decoder.transformer.layers[0].cross_attn_token_to_image
    points = torch.tensor([[[column * 16.0 + 8, row * 16.0 + 8]]])
    token = prompt_encoder.pe_layer.forward_with_coords(points, (256, 256))
    picture = prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
    query, key = (
        attention._separate_heads(projection(given), attention.num_heads)
        for projection, given in ((attention.q_proj, token), (attention.k_proj, picture))
    )
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return scores.softmax(dim=-1).mean(dim=1)[0, 0].view(16, 16)


@pytest.mark.parametrize(("row", "column"), [(3, 12), (8, 8), (14, 1)])
def test_a_prompt_begins_by_looking_at_where_it_is(parts, row, column):
    seen = attention_of_a_point(parts["mask_decoder"], parts["prompt_encoder"], row, column)
    assert divmod(int(seen.argmax()), 16) == (row, column)
    assert (
        seen[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].sum() > 0.3
    )  # a tenth if it looked everywhere


def logits_of_a_point(decoder, prompt_encoder, row, column):
    """What cells compare a point by, (heads, 16, 16), from positions alone."""
    attention = decoder.transformer.layers[1].cross_attn_image_to_token
    point = prompt_encoder.pe_layer.forward_with_coords(torch.tensor([[[column * 16.0, row * 16.0]]]), (256, 256))
    picture = prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)
    query, key = (
        attention._separate_heads(projection(given), attention.num_heads)
        for projection, given in ((attention.q_proj, picture), (attention.k_proj, point))
    )
    return (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5)[0, :, :, 0].unflatten(1, (16, 16))


@pytest.mark.parametrize(("row", "column"), [(3, 12), (8, 8), (13, 2)])
def test_four_heads_begin_by_telling_cells_right_of_a_point_left_below_and_above_it(parts, row, column):
    right, left, below, above, *others = logits_of_a_point(parts["mask_decoder"], parts["prompt_encoder"], row, column)
    # A cell away from the point's own lines.
    assert (right[:, column + 1 :] > 1).all()
    assert (right[:, : column - 1] < -1).all()
    assert (left[:, : column - 1] > 1).all()
    assert (left[:, column + 1 :] < -1).all()
    assert (below[row + 1 :] > 1).all()
    assert (below[: row - 1] < -1).all()
    assert (above[: row - 1] > 1).all()
    assert (above[row + 1 :] < -1).all()
    assert len(others) == 4


def test_random_numbers_look_everywhere():
    made = NANO.parts(256)
    seen = attention_of_a_point(made["mask_decoder"], made["prompt_encoder"], 8, 8)
    assert seen.max() < 0.02


def test_equal_seeds_begin_alike(parts):
    with seeded(1):
        made = NANO.parts(256)
        start_encoder(made["image_encoder"])
        start_mask_decoder(made["mask_decoder"], made["prompt_encoder"].pe_layer)
    for name, part in made.items():
        assert all(torch.equal(value, parts[name].state_dict()[key]) for key, value in part.state_dict().items())
