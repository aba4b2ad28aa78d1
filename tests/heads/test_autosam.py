"""AutoSAM's head keeps the contract, computes what SAM's own modules compute a class at a time, and starts from SAM."""

import pytest
import torch
from contracts.head import HeadContract, ZeroShotHeadContract

from samkit.heads.autosam import AutoSam, SamAuto
from samkit.heads.base import HeadContext, MaskDecoderWeights
from samkit.heads.sam_modules import MaskDecoder, TwoWayTransformer

CHANNELS = 32


def sam_decoder(seed=0, mlp_width=16):
    torch.manual_seed(seed)
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=mlp_width, num_heads=8)
    return MaskDecoder(transformer_dim=CHANNELS, transformer=transformer)


def weights_of(decoder):
    return MaskDecoderWeights(
        decoder=decoder.state_dict(),
        position_matrix=torch.randn(2, CHANNELS // 2),
        no_mask=torch.randn(CHANNELS),
        trained=True,
    )


def built_from(weights, class_count=3, seed=0):
    context = HeadContext(input_shape=(CHANNELS, 4, 4), class_count=class_count, mask_decoder=weights, seed=seed)
    return AutoSam.build(context).eval()


class TestAutoSam(HeadContract):
    head_class = AutoSam
    trained_parts = frozenset({"class_tokens", "transformer", "output_upscaling", "hypernetwork", "no_mask"})


class TestSamAuto(ZeroShotHeadContract):
    head_class = SamAuto


class TestAutoSamFromAMaskDecoder(TestAutoSam):
    def context(self, *, seed: int = 0) -> HeadContext:
        weights = weights_of(sam_decoder())
        fixed = MaskDecoderWeights(
            decoder=weights.decoder,
            position_matrix=torch.ones(2, CHANNELS // 2),
            no_mask=torch.ones(CHANNELS),
            trained=True,
        )
        return HeadContext(input_shape=self.input_shape, class_count=self.class_count, mask_decoder=fixed, seed=seed)

    def test_building_leaves_the_random_numbers_of_the_caller_alone(self):
        context = self.context()
        before = torch.random.get_rng_state()
        AutoSam.build(context)
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5)])
def test_it_equals_sams_own_modules_asked_for_one_class_at_a_time(height, width):
    decoder = sam_decoder()
    head = built_from(weights_of(decoder))
    features = torch.randn(2, CHANNELS, height, width)
    with torch.no_grad():
        expected = torch.stack([one_class(decoder, head, features, number) for number in range(3)], dim=1)
        torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-5)


def one_class(decoder, head, features, number):
    """The logits of one class, slice by slice, through the package's decoder and position encoding written out."""
    height, width = features.shape[-2:]
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    matrix = head.position.positional_encoding_gaussian_matrix
    angles = 2 * torch.pi * ((2 * torch.stack([x, y], dim=-1) - 1) @ matrix)
    position = torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)[None]
    answers = []
    for one_slice in features:
        source = one_slice[None] + head.no_mask.view(1, -1, 1, 1)
        tokens, keys = decoder.transformer(source, position, head.class_tokens[number][None])
        upscaled = decoder.output_upscaling(keys.transpose(1, 2).view(1, CHANNELS, height, width))
        weights = decoder.output_hypernetworks_mlps[0](tokens[:, 1])
        answers.append((weights[0][:, None, None] * upscaled[0]).sum(0))
    return torch.stack(answers)


def test_shared_parts_start_from_sam_unchanged():
    weights = weights_of(sam_decoder())
    state = built_from(weights).state_dict()
    for part, source in (
        ("transformer.", "transformer."),
        ("output_upscaling.", "output_upscaling."),
        ("hypernetwork.", "output_hypernetworks_mlps.0."),
    ):
        names = [name for name in state if name.startswith(part)]
        assert names
        for name in names:
            assert torch.equal(state[name], weights.decoder[source + name.removeprefix(part)])
    assert torch.equal(state["no_mask"], weights.no_mask)
    assert torch.equal(state["position.positional_encoding_gaussian_matrix"], weights.position_matrix)


def test_class_tokens_start_near_those_of_sam_and_differ_between_classes():
    decoder = sam_decoder()
    tokens = built_from(weights_of(decoder), class_count=40).class_tokens.detach()
    source = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight[:1]])
    moved = tokens - source
    assert moved.std().item() == pytest.approx(0.2, rel=0.1)
    assert abs(moved.mean().item()) < 0.02
    assert not torch.equal(tokens[0], tokens[1])


def test_decoder_tensors_that_samkit_does_not_know_are_ignored():
    weights = weights_of(sam_decoder())
    extra = MaskDecoderWeights(
        decoder={**weights.decoder, "hf_token.weight": torch.zeros(1, 3)},
        position_matrix=weights.position_matrix,
        no_mask=weights.no_mask,
        trained=True,
    )
    features = torch.randn(1, CHANNELS, 4, 4)
    assert torch.equal(built_from(extra)(features), built_from(weights)(features))


@pytest.mark.parametrize("class_count", [2, 4])
def test_with_sams_sizes_it_has_the_number_of_parameters_of_its_docstring(class_count):
    head = AutoSam.build(HeadContext(input_shape=(256, 64, 64), class_count=class_count))
    assert head.parameter_count() == 3_504_128 + 512 * class_count


def test_the_position_matrix_is_kept_with_the_head_and_not_trained():
    head = built_from(None)
    name = "position.positional_encoding_gaussian_matrix"
    assert name in head.state_dict()
    assert name not in dict(head.named_parameters())


def test_classes_do_not_attend_to_each_other():
    head = built_from(weights_of(sam_decoder()))
    features = torch.randn(1, CHANNELS, 4, 4)
    before = head(features)
    with torch.no_grad():
        head.class_tokens[2] += 1
    after = head(features)
    torch.testing.assert_close(after[:, :2], before[:, :2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_without_training_it_answers_as_autosam_begins():
    weights = weights_of(sam_decoder())
    context = HeadContext(input_shape=(CHANNELS, 4, 4), class_count=3, mask_decoder=weights)
    features = torch.randn(1, CHANNELS, 4, 4)
    assert torch.equal(SamAuto.build(context).eval()(features), AutoSam.build(context).eval()(features))
