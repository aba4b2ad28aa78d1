"""Prompts of many images at once are answered as the package answers those of one."""

from __future__ import annotations

import pytest
import torch

from samkit.heads.prompting import PromptedDecoder, Prompts
from samkit.heads.sam_modules import MaskDecoder, PromptEncoder, TwoWayTransformer

CHANNELS, GRID, SIDE = 32, 4, 64
POINTS = torch.tensor([[[10.0, 20.0], [40.0, 5.0]], [[0.0, 63.0], [31.0, 32.0]], [[7.0, 7.0], [50.0, 50.0]]])
INSIDE = torch.tensor([[1, 0], [1, 1], [0, 1]])
BOXES = torch.tensor([[3.0, 4.0, 30.0, 50.0], [0.0, 0.0, 63.0, 63.0], [20.0, 10.0, 25.0, 40.0]])


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=16, num_heads=8)
    prompt_encoder = PromptEncoder(CHANNELS, (GRID, GRID), (SIDE, SIDE), 16)
    return PromptedDecoder(prompt_encoder, MaskDecoder(transformer_dim=CHANNELS, transformer=transformer)).eval()


def embeddings(count=3):
    return torch.randn(count, CHANNELS, GRID, GRID, generator=torch.Generator().manual_seed(1))


def previous(count=3):
    return torch.randn(count, 4 * GRID, 4 * GRID, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def by_the_package(decoder, images, *, points=None, boxes=None, masks=None):
    """Each prompt on its own, through the package's own forward passes."""
    answers = []
    for number in range(len(images)):
        one = slice(number, number + 1)
        sparse, dense = decoder.prompt_encoder(
            points=None if points is None else (points[0][one], points[1][one]),
            boxes=None if boxes is None else boxes[one],
            masks=None if masks is None else masks[one, None],
        )
        answers.append(
            decoder.mask_decoder.predict_masks(images[one], decoder.prompt_encoder.get_dense_pe(), sparse, dense)
        )
    logits, quality = zip(*answers, strict=True)
    return torch.cat(logits), torch.cat(quality)


def assert_alike(mine, theirs):
    for own, package in zip(mine, theirs, strict=True):
        torch.testing.assert_close(own, package, rtol=1e-4, atol=1e-5)


def test_clicks_are_answered_as_by_the_package(decoder):
    mine = decoder(embeddings(), Prompts.of_points(POINTS, INSIDE))
    assert_alike(mine, by_the_package(decoder, embeddings(), points=(POINTS, INSIDE)))


def test_boxes_are_answered_as_by_the_package(decoder):
    mine = decoder(embeddings(), Prompts.of_boxes(BOXES))
    assert_alike(mine, by_the_package(decoder, embeddings(), boxes=BOXES))


def test_an_earlier_mask_is_taken_as_by_the_package(decoder):
    mine = decoder(embeddings(), Prompts.of_boxes(BOXES), previous())
    assert_alike(mine, by_the_package(decoder, embeddings(), boxes=BOXES, masks=previous()))


def test_clicks_beside_a_box_are_answered_as_by_the_package(decoder):
    # The order of tokens does not matter to attention.
    mine = decoder(embeddings(), Prompts.of_boxes(BOXES).and_points(POINTS, INSIDE), previous())
    theirs = by_the_package(decoder, embeddings(), points=(POINTS, INSIDE), boxes=BOXES, masks=previous())
    assert_alike(mine, theirs)


def test_shapes_are_four_masks_on_a_grid_four_times_finer_and_their_qualities(decoder):
    logits, quality = decoder(embeddings(), Prompts.of_boxes(BOXES))
    assert logits.shape == (3, 4, 4 * GRID, 4 * GRID)
    assert quality.shape == (3, 4)


def test_a_prompt_does_not_see_its_neighbours(decoder):
    images, prompts = embeddings(), Prompts.of_boxes(BOXES)
    together, _ = decoder(images, prompts)
    alone, _ = decoder(images[1:2], Prompts.of_boxes(BOXES[1:2]))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_every_part_of_both_learns_from_a_click_a_box_and_a_correction(decoder):
    images = embeddings().requires_grad_()
    first, _ = decoder(images, Prompts.of_points(POINTS, INSIDE))
    second, quality = decoder(images, Prompts.of_boxes(BOXES).and_points(POINTS, INSIDE), previous())
    (first.square().sum() + second.square().sum() + quality.square().sum()).backward()
    silent = [name for name, parameter in decoder.named_parameters() if parameter.grad is None]
    # A bias of what all cells are asked with adds the same to each: no answer depends on it.
    assert all(name.endswith("token_to_image.k_proj.bias") for name in silent)
    assert images.grad.abs().sum() > 0
