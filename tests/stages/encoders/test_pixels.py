"""Slices reach the encoder as SAM's weights were trained on them or as papers did, against independent computations."""

import numpy as np
import pytest
import torch
from examples.tiny_sam import TINY, package_sam
from PIL import Image
from scipy import ndimage
from segment_anything.utils.transforms import ResizeLongestSide

from samkit.heads.frame import Frame
from samkit.stages.encoders.pixels import NAMED_RULES, PixelRule, check_size, pixel_rule, prepare
from samkit.store.errors import UsageError

SIDE = 64
MEAN = np.array([123.675, 116.28, 103.53])
DEVIATION = np.array([58.395, 57.12, 57.375])

EVERY_RULE = pytest.mark.parametrize("rule", NAMED_RULES)
SAMS_OWN = pytest.mark.parametrize("rule", ["sam", "sam-exact"])
SHAPES = [(64, 64), (40, 64), (64, 40), (100, 80), (33, 57), (20, 31), (200, 190)]


def images(rows, columns, channels=3, count=2):
    return torch.rand(count, channels, rows, columns, generator=torch.Generator().manual_seed(rows + columns))


def prepared(given, rule="sam", side=SIDE):
    return prepare(given, input_px=side, pixel_normalisation=rule)


# SAM's own -------------------------------------------------------------------------------------------------------


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


@SAMS_OWN
@pytest.mark.parametrize(("rows", "columns"), [(30, 64), (64, 30), (33, 57), (1, 64), (64, 1)])
def test_padding_at_the_bottom_and_the_right_is_exactly_zero(rule, rows, columns):
    height, width = Frame(rows=rows, columns=columns, input_px=SIDE).inner_px
    square = prepared(torch.ones(1, 3, rows, columns), rule)
    assert not square[..., height:, :].any()
    assert not square[..., :, width:].any()
    assert (square[..., :height, :width] > 1).all()


@SAMS_OWN
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 300), (300, 1)])
def test_the_thinnest_slices_keep_a_pixel(rule, rows, columns):
    assert prepared(torch.ones(1, 1, rows, columns), rule).count_nonzero() >= 3


def test_black_and_white_are_the_ends_of_sams_range():
    black, white = prepared(torch.zeros(1, 3, 8, 8)), prepared(torch.ones(1, 3, 8, 8))
    np.testing.assert_allclose(black[0, :, 0, 0].numpy(), -MEAN / DEVIATION, rtol=1e-5)
    np.testing.assert_allclose(white[0, :, 0, 0].numpy(), (255 - MEAN) / DEVIATION, rtol=1e-5)


def on_the_scale(square, rule):
    """Put back what SAM's mean and deviation took off."""
    mean, deviation = pixel_rule(rule).mean, pixel_rule(rule).deviation
    return square * torch.tensor(deviation)[:, None, None] + torch.tensor(mean)[:, None, None]


# Every rule ------------------------------------------------------------------------------------------------------


@EVERY_RULE
def test_one_channel_is_repeated(rule):
    grey = images(40, 56, channels=1)
    assert torch.equal(prepared(grey, rule), prepared(grey.repeat(1, 3, 1, 1), rule))


@EVERY_RULE
def test_three_windows_stay_three(rule):
    given = images(40, 56, count=1)
    values = on_the_scale(prepared(given, rule), rule)
    turned = on_the_scale(prepared(given.roll(1, dims=1), rule), rule)
    inside = (..., slice(0, 45), slice(0, 64))
    torch.testing.assert_close(turned[inside], values.roll(1, dims=1)[inside], atol=1e-3, rtol=0)
    assert (values[:, 0] - values[:, 1]).abs().max() > 0.1


@EVERY_RULE
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_the_thinnest_slices_give_a_square_of_numbers(rule, rows, columns):
    square = prepared(images(rows, columns), rule)
    assert square.shape == (2, 3, SIDE, SIDE)
    assert torch.isfinite(square).all()


@EVERY_RULE
def test_float16_slices_as_they_are_stored_are_taken(rule):
    stored = images(40, 56, channels=1).half()
    assert torch.equal(prepared(stored, rule), prepared(stored.float(), rule))


@EVERY_RULE
@pytest.mark.parametrize("channels", [1, 3])
def test_a_slice_does_not_depend_on_its_batch_mates(rule, channels):
    given = images(40, 56, channels, count=3) * torch.tensor([0.2, 1.0, 0.0])[:, None, None, None]
    alone = torch.cat([prepared(given[number : number + 1], rule) for number in range(3)])
    assert torch.equal(prepared(given, rule), alone)


@EVERY_RULE
@pytest.mark.parametrize("side", [64, 100, 300])
def test_flipping_a_square_image_flips_its_square(rule, side):
    given = images(side, side)
    for axis in (2, 3):
        torch.testing.assert_close(
            prepared(given.flip(axis), rule), prepared(given, rule).flip(axis), atol=1e-4, rtol=0
        )


@EVERY_RULE
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (100, 80), (50, 90), (300, 260)])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_square_is_where_the_frame_says(rule, rows, columns, axis):
    # A ramp stays a ramp under every interpolation here, so a shift of any part of a pixel would show. Black and white
    # beside it are what the rules that stretch the values hold on to.
    length = (rows, columns)[axis]
    ramp = (2 * torch.linspace(0, 1, length) - 0.5).clamp(0, 1)
    given = (ramp[:, None] if axis == 0 else ramp).expand(1, 1, rows, columns)
    values = on_the_scale(prepared(given, rule), rule) / pixel_rule(rule).scale
    frame = Frame(rows=rows, columns=columns, input_px=SIDE, resize=pixel_rule(rule).resize)
    back = frame.logits_to_slice(values)[0, 0]
    seen = back[:, columns // 2] if axis == 0 else back[rows // 2]
    slope = slice(length * 5 // 16, length * 11 // 16)
    in_pixels = (seen - ramp)[slope] * (length - 1) / 2
    rounding = length / 255 if rule == "sam-exact" else 0  # a byte, twice
    assert in_pixels.abs().max() < 0.05 + rounding
    assert in_pixels.mean().abs() < 0.02 + rounding / 8
    # Half a pixel would be seen.
    assert (seen.roll(1) - ramp)[slope].mean().abs() * (length - 1) / 2 > 0.9


@EVERY_RULE
@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (3, 8, 8), (8, 8)])
def test_images_of_another_shape_are_refused(rule, shape):
    with pytest.raises(UsageError, match="1 or 3 channels"):
        prepared(torch.rand(shape), rule)


@pytest.mark.parametrize("word", ["imagenet", "", "SAM", "sam lst", "bicubic;square;scale=1;mean=0,0;deviation=1,1,1"])
def test_a_rule_that_there_is_not_is_refused_with_those_there_are(word):
    with pytest.raises(UsageError, match="there are sam, sam-exact, sam-lst, autosam, medsam"):
        prepared(images(8, 8), word)


# The papers' -----------------------------------------------------------------------------------------------------


def by_plane(given, function):
    """Apply a function to every channel of every slice in float64, and return float32."""
    planes = [[function(plane) for plane in image] for image in given.double().numpy()]
    return torch.from_numpy(np.array(planes)).float()


def stretched(plane, low, high):
    return (plane - low) / (high - low)


@pytest.mark.parametrize(("rows", "columns"), [(216, 256), (224, 224), (300, 180), (512, 512)])
def test_sam_lst_is_two_calls_of_zoom_without_more_ado(rows, columns):
    given = images(rows, columns, count=1)
    # Of 512 pixels, scipy's own border writes zeros into the last row and column: they are zeros in this picture too.
    given[..., -1, :] = given[..., -1] = 0

    def published(plane):
        reduced = ndimage.zoom(plane, (224 / rows, 224 / columns), order=3)
        return ndimage.zoom(reduced, (SIDE / 224, SIDE / 224), order=3)

    torch.testing.assert_close(prepared(given, "sam-lst"), by_plane(given, published), atol=2e-6, rtol=0)


def test_sam_lst_keeps_the_last_row_and_column_where_scipy_would_lose_them():
    white = torch.ones(1, 1, 512, 512)
    assert not ndimage.zoom(white[0, 0].numpy(), 224 / 512, order=3)[-1].any()  # else the rule need not care
    torch.testing.assert_close(prepared(white, "sam-lst"), torch.ones(1, 3, SIDE, SIDE))


def test_sam_lst_loses_what_224_pixels_cannot_hold():
    lines = torch.zeros(1, 1, 512, 512)
    lines[..., ::2] = 1
    assert prepared(lines, "sam-lst", side=512).std() < 0.7 * prepared(lines, "medsam", side=512).std()


def test_sam_lst_does_not_clip_what_the_spline_overshoots():
    step = torch.zeros(1, 1, 224, 224)
    step[..., 112:] = 1
    square = prepared(step, "sam-lst", side=512)
    assert square.min() == pytest.approx(-0.087, abs=2e-3)
    assert square.max() == pytest.approx(1.087, abs=2e-3)


@pytest.mark.parametrize(
    "view",
    [lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.mT, lambda x: x.flip(2, 3), lambda x: x.rot90(1, (2, 3))],
)
def test_a_view_of_224_pixels_may_be_made_before_sam_lsts_enlargement_or_after(view):
    given = images(224, 224, count=1)
    assert torch.equal(prepared(view(given), "sam-lst", side=512), view(prepared(given, "sam-lst", side=512)))


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (300, 240), (224, 224), (216, 256), (100, 60)])
def test_autosam_is_bilinear_to_224_and_bilinear_on(rows, columns):
    given = 0.1 + 0.7 * images(rows, columns)

    def to_224(plane):
        # Half-pixel centres, no blur, black beyond the border (which only a slice of fewer pixels reaches).
        y, x = (((np.arange(224) + 0.5) * length / 224 - 0.5 + 1) for length in plane.shape)
        return ndimage.map_coordinates(np.pad(plane, 1), np.meshgrid(y, x, indexing="ij"), order=1)

    alike = torch.cat([stretched(image, image.min(), image.max())[None] for image in given])
    expected = torch.nn.functional.interpolate(
        by_plane(alike, to_224), (SIDE, SIDE), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(prepared(given, "autosam"), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (40, 64), (33, 57), (20, 31), (200, 190), (130, 50)])
def test_medsam_is_a_cubic_spline_on_half_pixel_centres_stretched_to_its_ends(rows, columns):
    given = 0.1 + 0.7 * images(rows, columns)

    def to_square(plane):
        # skimage's blur before it reduces: (factor - 1) / 2 pixels.
        blurred = ndimage.gaussian_filter(
            plane, [max(0, (length / SIDE - 1) / 2) for length in plane.shape], mode="mirror"
        )
        y, x = ((np.arange(SIDE) + 0.5) * length / SIDE - 0.5 for length in plane.shape)
        return ndimage.map_coordinates(blurred, np.meshgrid(y, x, indexing="ij"), order=3, mode="mirror")

    expected = by_plane(given, to_square)
    for image, resized in zip(given, expected, strict=True):
        resized.clamp_(image.min(), image.max())
        resized.copy_(stretched(resized, resized.min(), resized.max()))
    torch.testing.assert_close(prepared(given, "medsam"), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("rule", ["autosam", "medsam"])
def test_values_are_stretched_over_a_slice_with_all_its_channels(rule):
    given = images(300, 300, count=1)
    torch.testing.assert_close(prepared(0.2 + 0.5 * given, rule), prepared(given, rule), atol=1e-5, rtol=0)
    one_dark = given * torch.tensor([1.0, 1.0, 0.1])[:, None, None]
    assert prepared(one_dark, rule)[0, 2].max() < 0.2  # its window is not stretched by itself


@pytest.mark.parametrize("rule", ["autosam", "medsam"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_flat_slice_becomes_black_and_no_division_by_zero(rule, value):
    assert not prepared(torch.full((1, 1, 250, 230), value), rule).any()


@pytest.mark.parametrize("rule", ["sam-lst", "autosam", "medsam"])
def test_a_papers_rule_takes_nothing_off_and_pads_nothing(rule):
    square = prepared(images(300, 240), rule)
    assert square.mean() == pytest.approx(0.5, abs=0.05)
    assert (square[..., -1, :] != 0).any()
    assert (square[..., -1] != 0).any()


# Recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "resize", "size"),
    [
        ("sam", "longest-side", 64),
        ("sam-exact", "longest-side", 64),
        ("sam-lst", "corners-via-224", 512),
        ("autosam", "square-via-224", 64),
        ("medsam", "square", 64),
    ],
)
def test_each_rule_makes_a_recipe_of_its_own(rule, resize, size):
    recipe = TINY.load(None, pixel_normalisation=rule).recipe
    assert (recipe.pixel_normalisation, recipe.resize, recipe.input_px) == (rule, resize, size)


def test_what_sams_weights_were_trained_with_is_the_default():
    assert TINY.load(None).recipe == TINY.load(None, pixel_normalisation="sam").recipe


def test_the_size_that_is_asked_for_goes_before_the_papers():
    assert TINY.load(None, pixel_normalisation="sam-lst", size=96).recipe.input_px == 96


def test_a_size_that_is_no_multiple_of_the_patch_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"--size 500: x takes multiples of 14 pixels\. Try --size 504\."):
        check_size("x", 500, 14)


def test_a_size_that_no_memory_holds_is_refused_with_what_is_for_large_planes():
    with pytest.raises(UsageError, match=r"--size 100000: at most 8192 pixels.* --tiles"):
        check_size("x", 100_000, 16)


# Rules that are spelled out --------------------------------------------------------------------------------------


def spelled(**changed):
    given = {
        "interpolation": "bilinear",
        "resize": "longest-side",
        "scale": 1.0,
        "mean": (0.0,) * 3,
        "deviation": (1.0,) * 3,
    }
    return PixelRule.spelled(**{**given, **changed})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bilinear;square;scale=1..2;mean=0,0,0;deviation=1,1,1", "there are sam"),
        ("bilinear;square;scale=1;mean=0,0,0;deviation=0,1,1", "which is not 0"),
    ],
)
def test_numbers_that_are_none_are_refused(text, told):
    with pytest.raises(UsageError, match=told):
        pixel_rule(text)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["longest-side", "square"])
def test_a_rule_that_is_spelled_out_is_read_back(interpolation, resize):
    rule = spelled(
        interpolation=interpolation,
        resize=resize,
        scale=255.0,
        mean=(123.675, 0.0, 1e-7),
        deviation=(58.395, 1.0, 0.2245),
    )
    again = pixel_rule(rule.name)
    assert (again.name, again.resize, again.scale, again.mean, again.deviation) == (
        rule.name,
        rule.resize,
        rule.scale,
        rule.mean,
        rule.deviation,
    )
    assert torch.equal(prepared(images(40, 56), rule.name), prepared(images(40, 56), again.name))


def test_sams_rule_spelled_out_is_sams_rule():
    rule = spelled(scale=255.0, mean=tuple(MEAN), deviation=tuple(DEVIATION))
    assert rule.name == "bilinear;longest-side;scale=255;mean=123.675,116.28,103.53;deviation=58.395,57.12,57.375"
    assert torch.equal(prepared(images(40, 56), rule.name), prepared(images(40, 56)))


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_bicubic_is_pils_within_black_and_white(rows, columns):
    given = images(rows, columns)
    expected = np.zeros((2, 3, SIDE, SIDE))
    for number, channel in np.ndindex(2, 3):
        plane = Image.fromarray(given[number, channel].numpy(), mode="F")
        # Columns, then rows, as PIL does by itself, but what overshoots in between is cut as bytes would cut it.
        for size in ((SIDE, rows), (SIDE, SIDE)):
            plane = Image.fromarray(np.asarray(plane.resize(size, Image.Resampling.BICUBIC)).clip(0, 1), mode="F")
        expected[number, channel] = np.asarray(plane)
    rule = spelled(interpolation="bicubic", resize="square")
    np.testing.assert_allclose(prepared(given, rule.name).numpy(), expected, atol=1e-5)
