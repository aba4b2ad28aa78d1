"""The ladder keeps the contract, has the published size, and trains exactly what its options say."""

import pytest
import torch
from contracts.head import PairHeadContract
from hypothesis import given, settings
from hypothesis import strategies as st

from samkit.heads.base import CnnWeights, HeadContext, MaskDecoderWeights
from samkit.heads.ladder import Gate, Ladder
from samkit.heads.sam_modules import MaskDecoder, TwoWayTransformer
from samkit.heads.seen import FeaturesAndSlices
from samkit.store.errors import UsageError


class TestLadder(PairHeadContract):
    head_class = Ladder
    trained_parts = frozenset({"alpha", "cnn", "projection", "tokens", "upscaling", "hypernetworks"})


def built(*, channels=32, classes=3, weights=None, cnn=None, seed=0, **options):
    return Ladder.build(
        HeadContext(
            input_shape=(channels, 4, 4),
            class_count=classes,
            mask_decoder=weights,
            cnn_weights=cnn,
            options=options,
            seed=seed,
        )
    ).eval()


def seen(channels=32, count=2):
    random = torch.Generator().manual_seed(0)
    return FeaturesAndSlices(
        torch.randn(count, channels, 4, 4, generator=random), torch.rand(count, 1, 64, 64, generator=random)
    )


def trained(head):
    return {name.partition(".")[0] for name, parameter in head.named_parameters() if parameter.requires_grad}


def decoder_weights(channels=32):
    torch.manual_seed(3)
    transformer = TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=16, num_heads=8)
    decoder = MaskDecoder(transformer_dim=channels, transformer=transformer)
    return MaskDecoderWeights(
        decoder=decoder.state_dict(),
        position_matrix=torch.randn(2, channels // 2),
        no_mask=torch.randn(channels),
        trained=True,
    )


# Size ------------------------------------------------------------------------------------------------------------


def test_the_cnn_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in built().cnn.parameters()) == 2_782_784


def test_faithful_trains_as_many_numbers_as_the_published_code():
    head = built(channels=256, classes=9, faithful="yes")
    assert head.parameter_count() == 2_856_737


def test_a_cell_of_the_cnn_is_one_of_the_embedding():
    assert built().cnn(torch.rand(1, 3, 64, 48)).shape == (1, 256, 4, 3)


# The gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "parts"),
    [
        (Gate.LEARNED, {"alpha", "cnn", "projection"}),
        (Gate.FIXED, {"cnn", "projection"}),
        (Gate.CNN_ONLY, {"cnn", "projection"}),
        (Gate.SAM_ONLY, set()),
    ],
)
def test_each_gate_trains_what_it_uses(gate, parts):
    assert trained(built(gate=gate)) == parts | {"tokens", "upscaling", "hypernetworks"}


@settings(deadline=None, max_examples=20)
@given(st.floats(-6, 6))
def test_the_gate_weighs_both_as_in_the_paper(alpha):
    head, pair = built(channels=256), seen(channels=256)
    with torch.no_grad():
        head.alpha.fill_(alpha)
        gate = 1 / (1 + torch.exp(torch.tensor(-alpha)))
        cnn = head._by_cnn(pair.slices, (4, 4))
        mixed = FeaturesAndSlices(gate * pair.features + (1 - gate) * cnn, pair.slices)
        only_sam = built(channels=256, gate="sam-only")
        only_sam.load_state_dict(head.state_dict())
        torch.testing.assert_close(head(pair), only_sam(mixed), rtol=1e-3, atol=1e-4)


def test_of_the_cnn_alone_the_features_change_nothing():
    head, pair = built(gate="cnn-only"), seen()
    assert torch.equal(head(pair), head(pair._replace(features=pair.features + 1)))


def test_of_sam_alone_the_slices_change_nothing():
    head, pair = built(gate="sam-only"), seen()
    assert torch.equal(head(pair), head(pair._replace(slices=pair.slices + 1)))


def test_the_gate_begins_even_and_is_told():
    assert built().told == {"gate": 0.5}
    assert built(gate="sam-only").told == {"gate": 1.0}


# Where it begins -------------------------------------------------------------------------------------------------


def test_the_decoder_is_that_of_the_encoder():
    weights = decoder_weights()
    head = built(weights=weights)
    for name, tensor in head.transformer.state_dict().items():
        assert torch.equal(tensor, weights.decoder[f"transformer.{name}"])
    torch.testing.assert_close(head.tokens[0], weights.decoder["iou_token.weight"][0])
    apart = head.tokens[1:] - weights.decoder["mask_tokens.weight"][0]
    assert 0.1 < float(apart.detach().std()) < 0.3


def test_faithful_leaves_tokens_and_hypernetworks_random():
    weights = decoder_weights()
    first, second = (built(weights=weights, faithful="yes", seed=seed) for seed in (0, 1))
    assert not torch.equal(first.tokens[1:], second.tokens[1:])
    assert trained(first) == {"alpha", "cnn", "projection", "upscaling"}


def test_the_cnn_begins_with_what_it_is_given_and_says_so():
    given_weights = {name: torch.full_like(tensor, 0.5) for name, tensor in built().cnn.state_dict().items()}
    head = built(cnn=CnnWeights(name="imagenet 1234", tensors=given_weights | {"fc.weight": torch.zeros(2)}))
    assert all(torch.equal(tensor, given_weights[name]) for name, tensor in head.cnn.state_dict().items())
    assert head.config["cnn_start"] == "imagenet 1234"
    assert built().config["cnn_start"] == "seed"


@pytest.mark.parametrize(
    ("options", "told"), [({"gate": "open"}, "learned, fixed"), ({"door": "open"}, "it has gate, faithful")]
)
def test_options_that_there_are_not_are_refused(options, told):
    with pytest.raises(UsageError, match=told):
        built(**options)
