"""What enters a block of SAM's encoder can be kept, and gone on from, without the embedding changing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts.encoder import EncoderContract
from examples.tiny_sam import TINY, checkpoint, tensors
from examples.workspaces import workspace_of_boxes

from samkit.heads.live_encoder import EncoderTail
from samkit.pipeline.commands.embed import embed_all
from samkit.stages.encoders.base import load_recipe
from samkit.stages.encoders.nano import NANO
from samkit.stages.encoders.sam import SAM_VIT_B, SAM_VIT_H, SAM_VIT_L
from samkit.store.errors import UsageError

# Two blocks of each kind tell what all would; the whole of a vit_h takes minutes.
SHORT = [replace(model, depth=4, global_blocks=(1, 3), default_px=256) for model in (SAM_VIT_B, SAM_VIT_L, SAM_VIT_H)]
WHOLE = [NANO, TINY]


class TestATappedEncoder(EncoderContract):
    def load(self, **options):
        return TINY.load(None, tap="block:2", **options)


def images(px: int, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 1, px, px - 20, generator=torch.Generator().manual_seed(px))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
def gone_on(encoder, rows):
    """What the tail of the encoder makes of tapped rows."""
    return EncoderTail.begun_from(encoder.live, encoder.recipe.block).eval()(rows)


# 512: parts of global attention, and windows that are padded.
@pytest.mark.parametrize(("model", "px"), [*((model, 256) for model in [*SHORT, *WHOLE]), (NANO, 512), (SHORT[0], 512)])
def test_a_tapped_row_and_the_blocks_after_it_are_bitwise_the_embedding(model, px):
    embedding = model.load(None, size=px)(images(px))
    for block in (0, model.depth - 2):
        tapped = model.load(None, size=px, tap=f"block:{block}")
        assert torch.equal(gone_on(tapped, tapped(images(px))), embedding)


@pytest.mark.soak
@pytest.mark.parametrize("model", [SAM_VIT_B, SAM_VIT_L, SAM_VIT_H], ids=lambda model: model.name)
def test_the_whole_of_each_size_of_sam_is_gone_on_from_bitwise(model):
    px, block = 256, model.depth - 3
    tapped = model.load(None, size=px, tap=f"block:{block}")
    assert torch.equal(gone_on(tapped, tapped(images(px, 1))), model.load(None, size=px)(images(px, 1)))


@pytest.mark.parametrize("model", [*SHORT, *WHOLE], ids=lambda model: model.name)
def test_kept_in_float16_the_embedding_is_within_the_stated_tolerance(model):
    encoder = model.load(None, size=256, tap=f"block:{model.depth - 2}")
    kept = encoder(images(256)).half()
    assert relative_error(gone_on(encoder, kept), model.load(None, size=256)(images(256))) < encoder.recipe.tolerance


@pytest.mark.parametrize("path", ["samkit-1", "package"])
def test_a_row_is_what_enters_the_packages_block(tmp_path, path):
    file = checkpoint(tmp_path, tensors())
    whole, tapped = TINY.load(file), TINY.load(file, tap="block:2")
    entered = []
    whole.model.blocks[2].register_forward_pre_hook(lambda _module, inputs: entered.append(inputs[0]))
    prepared = whole.prepare(images(64))
    whole.encode(prepared, "package")
    assert relative_error(tapped.encode(prepared, path), entered[0].permute(0, 3, 1, 2)) < 1e-5


def test_the_first_block_is_entered_by_the_patches_with_their_positions():
    encoder = TINY.load(None, tap="block:0")
    prepared = encoder.prepare(images(64))
    expected = encoder.model.patch_embed(prepared) + encoder.model.pos_embed
    torch.testing.assert_close(encoder.encode(prepared), expected.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_a_row_has_the_channels_of_a_token():
    assert NANO.load(None, tap="block:3").embedding_shape == (192, 16, 16)


def test_a_tap_is_a_recipe_of_its_own_that_is_loaded_again(tmp_path):
    file = checkpoint(tmp_path, tensors())
    tapped, whole = TINY.load(file, tap="block:1"), TINY.load(file)
    assert tapped.recipe.differences(whole.recipe) == ["tap: block:1 -> neck"]
    assert TINY.load(file, tap="neck").recipe == whole.recipe


def test_a_recipe_at_a_tap_is_loaded_at_that_tap():
    tapped = NANO.load(NANO.own_weights, tap="block:4")
    assert load_recipe(tapped.recipe, NANO.own_weights, "cpu").embedding_shape == tapped.embedding_shape


@pytest.mark.parametrize("tap", ["block:6", "block:03", "block:-1", "block:", "block", "tokens", "neck:1"])
def test_a_tap_that_the_encoder_does_not_have_is_refused_with_those_it_has(tap):
    with pytest.raises(UsageError, match=f"--tap {tap}: nano has neck, .* and block:0 to block:5"):
        NANO.load(None, tap=tap)


def test_tokens_that_float16_cannot_hold_are_refused_and_nothing_is_stored(tmp_path):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=1)
    encoder = TINY.load(None, tap="block:2")
    encoder.model.pos_embed.data[0, 1, 2, 3] = 1e5
    done = embed_all(workspace, encoder, None)
    (failure,) = done.failures
    assert "features beyond 65504 do not fit float16" in failure.reason
    assert len(done.embeddings.journal) == 0


def test_a_tail_from_a_block_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="the encoder has the blocks 0 to 2"):
        EncoderTail.begun_from(TINY.load(None).live, 3)
