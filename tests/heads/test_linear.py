"""The linear head keeps the contract, has the published size, and starts from SAM's up-scaling."""

import torch
from contracts.head import HeadContract

from samkit.heads.base import HeadContext, MaskDecoderWeights
from samkit.heads.linear import Linear
from samkit.heads.sam_modules import MaskDecoder, TwoWayTransformer


class TestLinear(HeadContract):
    head_class = Linear
    trained_parts = frozenset({"upscaling", "classifier"})


def test_it_has_the_published_number_of_parameters():
    head = Linear.build(HeadContext(input_shape=(256, 64, 64), class_count=4))
    assert head.parameter_count() == 75_140


def test_its_upscaling_starts_from_that_of_sam():
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=16, num_heads=8)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer)
    weights = MaskDecoderWeights(
        decoder=decoder.state_dict(), position_matrix=torch.zeros(2, 16), no_mask=torch.zeros(32), trained=True
    )
    head = Linear.build(HeadContext(input_shape=(32, 4, 4), class_count=2, mask_decoder=weights))
    features = torch.randn(1, 32, 4, 4)
    assert torch.equal(head.upscaling(features), decoder.output_upscaling(features))


def test_logits_are_not_cut_off_at_zero():
    head = Linear.build(HeadContext(input_shape=(32, 4, 4), class_count=2))
    torch.nn.init.constant_(head.classifier[-1].bias, -100.0)
    assert (head(torch.randn(2, 32, 8, 8)) < -50).all()
