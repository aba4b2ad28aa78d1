"""AutoSAM with a live encoder: it begins where the cached one stands, and gradients reach the encoder."""

from __future__ import annotations

import pytest
import torch
from contracts.head import SquareHeadContract
from examples.tiny_sam import TINY, checkpoint, tensors

from samkit.heads.autosam import AutoSam
from samkit.heads.base import HeadContext
from samkit.heads.feeding import square_of
from samkit.heads.finetuned import FinetunedAutoSam
from samkit.heads.live_encoder import LiveEncoder
from samkit.store.errors import UsageError


class TestFinetunedAutoSam(SquareHeadContract):
    head_class = FinetunedAutoSam
    trained_parts = frozenset({"encoder", "decoder"})
    live = TINY.load(None).live


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return TINY.load(checkpoint(tmp_path_factory.mktemp("weights"), tensors()))


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (40, 50), (90, 30)])
@pytest.mark.parametrize("channels", [1, 3])
def test_before_it_is_trained_the_encoder_answers_as_the_one_whose_rows_are_kept(encoder, rows, columns, channels):
    slices = torch.rand(2, channels, rows, columns)
    live = LiveEncoder.begun_from(encoder.live).eval()
    with torch.no_grad():
        answered = live(square_of(slices, 64, encoder.recipe.resize))
    torch.testing.assert_close(answered, encoder(slices), rtol=1e-4, atol=1e-4)


def test_before_it_is_trained_the_head_answers_as_autosam_on_kept_rows(encoder):
    context = HeadContext(
        input_shape=(256, 4, 4), class_count=3, mask_decoder=encoder.mask_decoder, live_encoder=encoder.live
    )
    slices = torch.rand(2, 1, 48, 64)
    frozen, live = AutoSam.build(context).eval(), FinetunedAutoSam.build(context).eval()
    with torch.no_grad():
        expected = frozen(encoder(slices))
        answered = live(square_of(slices, 64, encoder.recipe.resize))
    torch.testing.assert_close(answered, expected, rtol=1e-3, atol=1e-3)


def test_training_it_leaves_the_encoder_that_it_began_from_as_it_was(encoder):
    before = {name: tensor.clone() for name, tensor in encoder.live.tensors.items()}
    head = FinetunedAutoSam.build(HeadContext(input_shape=(1, 64, 64), class_count=2, live_encoder=encoder.live))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.live.tensors.items())


def test_without_an_encoder_there_is_nothing_to_begin_from():
    with pytest.raises(UsageError, match="begins from an encoder"):
        FinetunedAutoSam.build(HeadContext(input_shape=(1, 64, 64), class_count=2))


def test_an_encoder_whose_slices_go_a_detour_cannot_be_trained():
    live = TINY.load(None, pixel_normalisation="autosam").live
    with pytest.raises(UsageError, match="samkit embed --pixels sam"):
        FinetunedAutoSam.build(HeadContext(input_shape=(1, 64, 64), class_count=2, live_encoder=live))
