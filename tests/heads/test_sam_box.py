"""SAM prompted with boxes keeps the contract, is SAM, and lets the highest logit win."""

import pytest
import torch
from contracts.head import BoxHeadContract
from torch.nn import functional as F

from samkit.heads.base import HeadContext, MaskDecoderWeights
from samkit.heads.sam_box import SamBox
from samkit.heads.sam_modules import MaskDecoder, PromptEncoder, TwoWayTransformer
from samkit.heads.seen import FeaturesAndBoxes

CHANNELS, GRID, SIDE = 32, 4, 64


class TestSamBox(BoxHeadContract):
    head_class = SamBox


@pytest.fixture(scope="module")
def package():
    """The package's prompt encoder and mask decoder."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=16, num_heads=8)
    decoder = MaskDecoder(transformer_dim=CHANNELS, transformer=transformer)
    return PromptEncoder(CHANNELS, (GRID, GRID), (SIDE, SIDE), 16), decoder


@pytest.fixture
def head(package):
    prompt_encoder, decoder = package
    tensors = prompt_encoder.state_dict()
    weights = MaskDecoderWeights(
        decoder=decoder.state_dict(),
        position_matrix=tensors["pe_layer.positional_encoding_gaussian_matrix"],
        no_mask=tensors["no_mask_embed.weight"][0],
        prompt_encoder=tensors,
        trained=True,
    )
    kept = MaskDecoderWeights.from_bytes(weights.to_bytes())
    return SamBox.build(HeadContext(input_shape=(CHANNELS, GRID, GRID), class_count=3, mask_decoder=kept)).eval()


def seen(boxes):
    """One slice, with boxes in pixels of a frame of `SIDE`."""
    features = torch.randn(1, CHANNELS, GRID, GRID, generator=torch.Generator().manual_seed(1))
    return FeaturesAndBoxes(features, (torch.tensor([boxes]) + 0.5) / SIDE)


@torch.no_grad()
def test_a_box_is_answered_as_by_the_package(head, package):
    prompt_encoder, decoder = package
    box = [5.0, 8.0, 40.0, 50.0]
    asked = seen([box, [torch.nan] * 4])
    sparse, dense = prompt_encoder(points=None, boxes=torch.tensor([box]), masks=None)
    mask, _ = decoder(
        image_embeddings=asked.features,
        image_pe=prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    torch.testing.assert_close(head(asked)[:, 1:2], mask, rtol=1e-4, atol=1e-5)


def test_a_class_without_a_box_is_nowhere(head):
    logits = head(seen([[5.0, 8.0, 40.0, 50.0], [torch.nan] * 4]))
    finer = F.interpolate(logits, scale_factor=3, mode="bilinear")
    assert not (finer.argmax(dim=1) == 2).any()


def test_a_slice_without_any_box_is_background(head):
    assert not head(seen([[torch.nan] * 4] * 2)).argmax(dim=1).any()


def test_where_no_mask_is_positive_there_is_background_and_else_the_highest(head):
    logits = head(seen([[5.0, 8.0, 40.0, 50.0], [20.0, 20.0, 63.0, 63.0]]))
    answered = logits.argmax(dim=1)
    assert torch.equal(answered > 0, (logits[:, 1:] > 0).any(dim=1))
    assert torch.equal(answered == 2, (logits[:, 2] > 0) & (logits[:, 2] > logits[:, 1]))
