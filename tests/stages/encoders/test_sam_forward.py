"""samkit's own forward pass is the `segment-anything` package's, to rounding, at every grid and for every size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from examples.tiny_sam import TINY

from samkit.stages.encoders.nano import NANO
from samkit.stages.encoders.sam import SAM_VIT_B, SAM_VIT_H, SAM_VIT_L
from samkit.stages.encoders.sam_forward import SamForward
from samkit.store.errors import UsageError

# Two blocks of each kind tell what all would; the whole of a vit_h takes minutes.
SHORT = [
    replace(model, depth=4, global_blocks=(1, 3), default_px=256) for model in (SAM_VIT_B, SAM_VIT_L, SAM_VIT_H, NANO)
]
OWN, PACKAGE = "samkit-1", "package"


def images(px: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(px))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def with_strong_positions(encoder):
    """Make relative positions decide where to look: what a seed gives them would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in encoder.model.named_parameters():
        if "rel_pos" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return encoder


@pytest.mark.parametrize("model", SHORT, ids=lambda model: model.name)
# 224: one window; 256: padded to two; 448: two windows that fit; 512: parts of global attention.
@pytest.mark.parametrize("px", [224, 256, 448, 512])
def test_it_is_the_packages_in_float32(model, px):
    encoder = with_strong_positions(model.load(None, size=px))
    prepared = images(px)
    assert relative_error(encoder.encode(prepared, OWN), encoder.encode(prepared, PACKAGE)) < 1e-5


@pytest.mark.parametrize("model", [SAM_VIT_B, NANO], ids=lambda model: model.name)
def test_it_is_near_the_packages_float32_in_bfloat16(model):
    encoder = model.load(None, size=256)
    half = SamForward(encoder.model, torch.bfloat16)
    assert relative_error(half(images(256)), encoder.encode(images(256), PACKAGE)) < 1.5e-2


def test_attention_to_the_whole_grid_is_the_same_in_parts_of_any_size(monkeypatch):
    encoder = with_strong_positions(TINY.load(None, size=320))
    expected = encoder.encode(images(320), PACKAGE)
    for queries in (7, 64, 399):
        monkeypatch.setattr("samkit.heads.sam_blocks._QUERIES_AT_ONCE", queries)
        assert relative_error(encoder.encode(images(320), OWN), expected) < 1e-5


def test_the_kernel_of_other_devices_is_the_packages_too(monkeypatch):
    # Fused attention runs on a processor as well, more slowly.
    from samkit.heads import sam_blocks

    def fused(queries, keys, values, positions, *, scale):
        rows, columns = positions.terms(queries)
        extended = torch.cat([queries * scale, rows, columns], dim=-1)
        codes = positions.codes.expand(len(keys), -1, -1)
        return sam_blocks._fused_attention(extended, torch.cat([keys, codes], dim=-1), values)

    encoder = with_strong_positions(TINY.load(None, size=256))
    monkeypatch.setattr(sam_blocks, "_attention", fused)
    assert relative_error(encoder.encode(images(256), OWN), encoder.encode(images(256), PACKAGE)) < 1e-5


@pytest.mark.parametrize("px", [256, 512])
def test_a_slice_has_the_same_row_whatever_it_is_encoded_with(px):
    encoder = NANO.load(None, size=px)
    several = images(px, 3)
    together = encoder.encode(several, OWN)
    assert relative_error(encoder.encode(several[1:2], OWN), together[1:2]) < 1e-6


def test_equal_batches_give_bitwise_equal_rows():
    encoder = NANO.load(None)
    assert torch.equal(encoder.encode(images(256, 2), OWN), encoder.encode(images(256, 2), OWN))


def test_it_is_what_an_encoder_computes_by():
    encoder = NANO.load(None)
    assert encoder.kernel_paths[0] == OWN
    assert torch.equal(encoder.encode(images(256)), encoder.encode(images(256), OWN))


def test_a_kernel_path_of_another_version_is_refused_by_name():
    with pytest.raises(UsageError, match=r"'samkit-99'.*samkit-1 and package"):
        NANO.load(None).encode(images(256), "samkit-99")
