"""Slices reach the encoder as SAM's weights were trained on them, against two independent computations."""

import numpy as np
import pytest
import torch
from examples.tiny_sam import package_sam
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide

from samkit.heads.frame import Frame
from samkit.stages.encoders.pixels import PIXEL_NORMALISATIONS, prepare
from samkit.store.errors import UsageError

SIDE = 64
MEAN = np.array([123.675, 116.28, 103.53])
DEVIATION = np.array([58.395, 57.12, 57.375])

SHAPES = [(64, 64), (40, 64), (64, 40), (100, 80), (33, 57), (20, 31), (200, 190)]


def images(rows, columns, channels=3, count=2):
    return torch.rand(count, channels, rows, columns, generator=torch.Generator().manual_seed(rows + columns))


def prepared(given, rule="sam", side=SIDE):
    return prepare(given, input_px=side, pixel_normalisation=rule)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_sam_is_what_pil_makes_of_each_channel_in_float(rows, columns):
    given = images(rows, columns)
    height, width = Frame(rows=rows, columns=columns, input_px=SIDE).inner_px
    expected = np.zeros((2, 3, SIDE, SIDE))
    for number, channel in np.ndindex(2, 3):
        # Mode F: PIL's antialiased bilinear filter without rounding to bytes.
        plane = Image.fromarray(given[number, channel].numpy() * np.float32(255), mode="F")
        resized = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
        expected[number, channel, :height, :width] = (resized - MEAN[channel]) / DEVIATION[channel]
    np.testing.assert_allclose(prepared(given).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_sam_exact_is_bitwise_the_packages_own_resizing_and_preprocessing(rows, columns):
    given = images(rows, columns)
    sam = package_sam()
    transform = ResizeLongestSide(SIDE)
    as_bytes = (given * 255).round().byte()
    expected = torch.stack(
        [
            sam.preprocess(torch.as_tensor(transform.apply_image(image.permute(1, 2, 0).numpy())).permute(2, 0, 1))
            for image in as_bytes
        ]
    )
    assert torch.equal(prepared(given, "sam-exact"), expected)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_two_rules_differ_by_rounding_only(rows, columns):
    difference = (prepared(images(rows, columns)) - prepared(images(rows, columns), "sam-exact")).abs()
    assert difference.max() * 57 < 2.0  # grey values of 255


@pytest.mark.parametrize("rule", PIXEL_NORMALISATIONS)
@pytest.mark.parametrize(("rows", "columns"), [(30, 64), (64, 30), (33, 57), (1, 64), (64, 1)])
def test_padding_at_the_bottom_and_the_right_is_exactly_zero(rule, rows, columns):
    height, width = Frame(rows=rows, columns=columns, input_px=SIDE).inner_px
    square = prepared(torch.ones(1, 3, rows, columns), rule)
    assert not square[..., height:, :].any()
    assert not square[..., :, width:].any()
    assert (square[..., :height, :width] > 1).all()


@pytest.mark.parametrize("rule", PIXEL_NORMALISATIONS)
def test_one_channel_is_repeated(rule):
    grey = images(40, 56, channels=1)
    assert torch.equal(prepared(grey, rule), prepared(grey.repeat(1, 3, 1, 1), rule))


@pytest.mark.parametrize("rule", PIXEL_NORMALISATIONS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 300), (300, 1)])
def test_the_thinnest_slices_keep_a_pixel(rule, rows, columns):
    assert prepared(torch.ones(1, 1, rows, columns), rule).count_nonzero() >= 3


def test_black_and_white_are_the_ends_of_sams_range():
    black, white = prepared(torch.zeros(1, 3, 8, 8)), prepared(torch.ones(1, 3, 8, 8))
    np.testing.assert_allclose(black[0, :, 0, 0].numpy(), -MEAN / DEVIATION, rtol=1e-5)
    np.testing.assert_allclose(white[0, :, 0, 0].numpy(), (255 - MEAN) / DEVIATION, rtol=1e-5)


@pytest.mark.parametrize("rule", PIXEL_NORMALISATIONS)
def test_float16_slices_as_they_are_stored_are_taken(rule):
    stored = images(40, 56, channels=1).half()
    assert torch.equal(prepared(stored, rule), prepared(stored.float(), rule))


def test_flipping_a_square_image_flips_its_square():
    given = images(100, 100)
    torch.testing.assert_close(prepared(given.flip(3)), prepared(given).flip(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (3, 8, 8), (8, 8)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(UsageError, match="1 or 3 channels"):
        prepared(torch.rand(shape))
