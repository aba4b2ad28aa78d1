"""A view's text is its definition: one text for one thing, the same pixels for one text, labels moved as images are."""

import itertools
import re
from decimal import Decimal, getcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.workspaces import add_volume, boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import samkit
from samkit.heads.tiling import Tile
from samkit.heads.views import BANKS, TURNS, Bank, View, image_of
from samkit.store.errors import InputError, UsageError
from samkit.store.keys import RowKey, array_digest
from samkit.store.slices import SliceFinder
from samkit.store.workspace import Workspace

FORMAT = Path(samkit.__file__).parent / "store" / "FORMAT.md"

#: numpy's own words for the eight turns.
ORACLES = {
    "identity": lambda planes: planes,
    "flip-rows": lambda planes: np.flip(planes, -2),
    "flip-columns": lambda planes: np.flip(planes, -1),
    "transpose": lambda planes: np.swapaxes(planes, -1, -2),
    "anti-transpose": lambda planes: np.flip(np.swapaxes(planes, -1, -2), (-2, -1)),
    "rotate90": lambda planes: np.rot90(planes, 1, (-2, -1)),
    "rotate180": lambda planes: np.rot90(planes, 2, (-2, -1)),
    "rotate270": lambda planes: np.rot90(planes, 3, (-2, -1)),
}

turns = st.sampled_from(sorted(TURNS))
degrees = st.integers(-89, 89).filter(bool)
rotations = st.builds(lambda angle, how: f"rotate{angle:+d}-{how}", degrees, st.sampled_from(["nearest", "bilinear"]))
zooms = st.builds(
    lambda factor, how: f"zoom{factor / 100:.2f}-{how}", st.integers(25, 400), st.sampled_from(["nearest", "bilinear"])
)
hundredths = st.integers(10, 1000)
gammas = st.builds(lambda value: f"gamma{value / 100:.2f}", hundredths)
windows = st.builds(
    lambda factor, offset: f"window{factor / 100:.2f}{offset / 100:+.2f}", hundredths, st.integers(-100, 100)
)


@st.composite
def texts(draw):
    """Some text of a view: turns anywhere before what moves and among what changes values, most not canonical."""
    before = draw(st.lists(turns, max_size=3))
    moved = [*draw(st.lists(rotations, max_size=1)), *draw(st.lists(zooms, max_size=1))]
    after = [*draw(st.lists(windows, max_size=1)), *draw(st.lists(gammas, max_size=1))]
    if not moved:
        for turn in draw(st.lists(turns, max_size=2)):
            after.insert(draw(st.integers(0, len(after))), turn)
    return ":".join([*before, *moved, *after]) or "identity"


def image(rows=5, columns=8, channels=2, seed=0):
    return np.random.default_rng(seed).random((channels, rows, columns)).astype(np.float16)


def apply(text, planes):
    return View.parse(text).apply_to_image(planes)


# -- turns and mirrors -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TURNS)
def test_a_turn_is_numpys_of_that_name_bit_by_bit(name):
    turned = apply(name, image())
    np.testing.assert_array_equal(turned, ORACLES[name](image()))
    assert turned.dtype == np.float16
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("name", TURNS)
def test_a_label_is_turned_as_its_image_is(name):
    label = np.random.default_rng(0).integers(0, 9, (3, 5, 8)).astype(np.uint16)
    turned = View.parse(name).apply_to_label(label)
    np.testing.assert_array_equal(turned, ORACLES[name](label))
    assert (turned.dtype, turned.flags.c_contiguous) == (np.uint16, True)


@pytest.mark.parametrize("name", TURNS)
def test_the_shape_of_a_turned_plane_is_known_beforehand(name):
    assert View.parse(name).plane_shape(5, 8) == apply(name, image(5, 8)).shape[-2:]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(TURNS, TURNS)))
def test_two_turns_are_one_turn_with_one_name(first, second):
    joined = View.parse(f"{first}:{second}")
    assert str(joined) in TURNS
    np.testing.assert_array_equal(joined.apply_to_image(image()), ORACLES[second](ORACLES[first](image())))


def test_the_turns_are_what_the_format_says():
    said = dict(re.findall(r"`([a-z0-9-]+)`: `in\[([^`]*)\]`", FORMAT.read_text(encoding="utf-8")))
    assert set(said) == set(TURNS) - {"identity"}
    plane = image(3, 5)[0]
    for name, place in said.items():
        rows, columns = View.parse(name).plane_shape(3, 5)
        expected = [[plane[eval(place, {"R": 3, "C": 5, "r": r, "c": c})] for c in range(columns)] for r in range(rows)]
        np.testing.assert_array_equal(apply(name, plane[None])[0], expected, err_msg=name)


def test_the_eight_turns_are_eight_different_images():
    assert len({(planes.shape, planes.tobytes()) for planes in (apply(name, image()) for name in TURNS)}) == 8


def test_the_mirrors_are_the_reflections():
    assert [name for name, turn in TURNS.items() if turn.mirrors] == [
        "flip-rows",
        "flip-columns",
        "transpose",
        "anti-transpose",
    ]


def test_what_is_turned_can_be_given_to_torch():
    assert torch.from_numpy(apply("rotate90", image())).shape == (2, 8, 5)


# -- rotations -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(degrees, st.sampled_from([(0, "nearest"), (1, "bilinear")]), st.integers(1, 12), st.integers(1, 12))
def test_a_rotation_is_ndimages(angle, how, rows, columns):
    order, name = how
    planes = image(rows, columns)
    rotated = apply(f"rotate{angle:+d}-{name}", planes)
    for plane, found in zip(planes, rotated, strict=True):
        expected = ndimage.rotate(plane.astype(np.float64), angle, order=order, reshape=False)
        np.testing.assert_array_equal(found, expected.astype(np.float16))


@settings(deadline=None)
@given(degrees, st.integers(1, 12), st.integers(1, 12))
def test_a_rotation_by_nearest_is_what_the_format_says(angle, rows, columns):
    # The formula of FORMAT.md, away from where its result hangs on the last bit.
    plane = image(rows, columns, channels=1)[0]
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    row, column = np.mgrid[:rows, :columns] - np.array([rows - 1, columns - 1]).reshape(2, 1, 1) / 2
    from_row = (rows - 1) / 2 + cosine * row + sine * column
    from_column = (columns - 1) / 2 - sine * row + cosine * column
    expected = np.zeros_like(plane)
    sure = np.ones(plane.shape, bool)
    for at in np.ndindex(*plane.shape):
        r, c = from_row[at], from_column[at]
        for value in (r, c):
            sure[at] &= abs(value % 0.5) > 1e-9 and abs(value % 0.5 - 0.5) > 1e-9
        if 0 <= r <= rows - 1 and 0 <= c <= columns - 1:
            expected[at] = plane[int(np.floor(r + 0.5)), int(np.floor(c + 0.5))]
    found = apply(f"rotate{angle:+d}-nearest", plane[None])[0]
    np.testing.assert_array_equal(found[sure], expected[sure])


@pytest.mark.parametrize(
    ("view", "row", "column"), [("rotate90", 2, 4), ("rotate+45-nearest", 2, 6), ("rotate-45-nearest", 6, 6)]
)
def test_rotations_are_counter_clockwise_as_displayed(view, row, column):
    # A dot to the right of the centre goes up, where the rows begin.
    plane = np.zeros((1, 9, 9), np.float16)
    plane[0, 3:6, 6:] = 1
    rotated = apply(view, plane)[0]
    assert rotated[row, column] == 1
    assert rotated[8 - row, column] == 0


def test_a_rotation_keeps_the_shape_and_brings_in_zeros():
    rotated = apply("rotate+30-bilinear", np.ones((1, 20, 30), np.float16))
    assert rotated.shape == (1, 20, 30)
    assert rotated[0, 0, 0] == rotated[0, -1, -1] == 0
    assert rotated[0, 10, 15] == 1


# -- zooms -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(25, 400), st.sampled_from(["nearest", "bilinear"]), st.integers(1, 12), st.integers(1, 12))
def test_a_zoom_is_what_the_format_says(factor, how, rows, columns):
    planes = image(rows, columns)
    row, column = np.mgrid[:rows, :columns] - np.array([rows - 1, columns - 1]).reshape(2, 1, 1) / 2
    places = np.stack([(rows - 1) / 2 + row * 100 / factor, (columns - 1) / 2 + column * 100 / factor])
    # Of bilinear alone the last bit decides what is still inside.
    near = np.abs(places - np.round(places)) < 1e-9
    sure = np.ones((rows, columns), bool) if how == "nearest" or factor == 100 else ~near.any(axis=0)
    last = np.array([rows - 1, columns - 1]).reshape(2, 1, 1)
    inside = ((places >= -1e-9) & (places <= last + 1e-9)).all(axis=0)
    found = apply(f"zoom{factor / 100:.2f}-{how}", planes)
    for plane, zoomed in zip(planes.astype(np.float64), found, strict=True):
        if how == "nearest":
            middle = last / 2
            toward_middle = places - np.sign(places - middle) * 1e-9
            whole = np.clip(np.round(toward_middle).astype(int), 0, last)
            expected = plane[whole[0], whole[1]]
        else:
            low = np.clip(np.floor(places).astype(int), 0, last)
            high, part = np.minimum(low + 1, last), places - low
            upper = plane[low[0], low[1]] * (1 - part[1]) + plane[low[0], high[1]] * part[1]
            lower = plane[high[0], low[1]] * (1 - part[1]) + plane[high[0], high[1]] * part[1]
            expected = upper * (1 - part[0]) + lower * part[0]
        expected = np.where(inside, expected, 0)
        np.testing.assert_allclose(zoomed[sure], expected[sure], atol=1e-3)


@given(st.integers(25, 400), st.integers(1, 60))
def test_a_nearest_zoom_takes_no_side_of_the_plane(factor, length):
    plane = np.arange(1, length + 1, dtype=np.uint8)[:, None]
    found = View.parse(f"zoom{factor / 100:.2f}-nearest").apply_to_label(plane)[:, 0].astype(int)
    mirrored = np.where(found > 0, length + 1 - found, 0)[::-1]
    np.testing.assert_array_equal(found, mirrored)


def test_a_zoom_makes_things_larger_about_the_centre_and_keeps_the_shape():
    plane = np.zeros((1, 61, 71), np.float16)
    plane[0, 20:41, 25:46] = 1
    for factor in (0.5, 2):
        zoomed = apply(f"zoom{factor:.2f}-bilinear", plane)
        assert zoomed.shape == plane.shape
        assert zoomed[0, 30, 35] == 1
        assert zoomed.astype(float).sum() == pytest.approx(21**2 * factor**2, rel=0.15)
        np.testing.assert_array_equal(zoomed, zoomed[:, ::-1, ::-1])


def test_a_smaller_slice_has_zeros_around_it_and_a_label_background():
    assert apply("zoom0.50-bilinear", np.ones((1, 20, 30), np.float16))[0, :, [0, -1]].sum() == 0
    label = View.parse("zoom0.50-bilinear").apply_to_label(np.full((20, 30), 3, np.uint8))
    assert (label[0, 0], label[10, 15]) == (0, 3)
    np.testing.assert_array_equal(label, View.parse("zoom0.50-nearest").apply_to_label(np.full((20, 30), 3, np.uint8)))


# -- labels ----------------------------------------------------------------------------------------


def test_a_label_is_taken_from_the_nearest_pixel_whatever_the_image_is():
    label = np.random.default_rng(0).choice([0, 3, 42], (2, 20, 30)).astype(np.uint8)
    rotated = View.parse("rotate-17-bilinear").apply_to_label(label)
    np.testing.assert_array_equal(rotated, View.parse("rotate-17-nearest").apply_to_label(label))
    for plane, found in zip(label, rotated, strict=True):
        np.testing.assert_array_equal(found, ndimage.rotate(plane, -17, order=0, reshape=False))
    assert set(np.unique(rotated)) == {0, 3, 42}


def test_outside_the_plane_a_label_is_background():
    rotated = View.parse("rotate+30-nearest").apply_to_label(np.full((20, 30), 3, np.uint8))
    assert rotated[0, 0] == rotated[-1, -1] == 0


# -- values ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(hundredths.filter(lambda value: value != 100))
def test_gamma_is_the_power_rounded_once(exponent):
    values = np.arange(0, 0x3C01, 97, dtype=np.uint16).view(np.float16)  # of all float16 in [0, 1]
    found = apply(f"gamma{exponent / 100:.2f}", values[None, None])[0, 0]
    getcontext().prec = 40
    for value, result in zip(values.tolist(), found, strict=True):
        exact = Decimal(value) ** (Decimal(exponent) / 100)
        half_a_step = np.spacing(max(result, np.float16(6e-8))).astype(np.float64) / 2
        assert abs(Decimal(float(result)) - exact) <= Decimal(float(half_a_step))


@given(hundredths, st.integers(-100, 100))
def test_a_window_is_the_line_clipped_and_rounded_once(factor, offset):
    values = np.arange(0, 0x3C01, 97, dtype=np.uint16).view(np.float16)
    found = apply(f"window{factor / 100:.2f}{offset / 100:+.2f}", values[None, None])[0, 0]
    for value, result in zip(values.tolist(), found, strict=True):
        exact = min(Fraction(1), max(Fraction(0), Fraction(value) * factor / 100 + Fraction(offset, 100)))
        steps = [result, np.nextafter(result, np.float16(2)), np.nextafter(result, np.float16(-1))]
        # A double is between: two neighbours of which each is as near are both right.
        distance = [abs(Fraction(float(step)) - exact) for step in steps]
        assert distance[0] <= min(distance) + Fraction(1, 2**50)


@pytest.mark.parametrize("view", ["gamma0.80", "gamma2.50", "window1.30-0.20", "window0.50+1.00"])
def test_values_stay_in_zero_to_one_and_labels_stay_as_they_are(view):
    changed = apply(view, image())
    assert changed.dtype == np.float16
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not np.array_equal(changed, image())
    label = np.arange(40, dtype=np.uint8).reshape(5, 8)
    np.testing.assert_array_equal(View.parse(view).apply_to_label(label), label)


# -- texts -----------------------------------------------------------------------------------------


@given(texts())
def test_the_canonical_text_reads_back_as_itself(text):
    view = View.parse(text)
    assert View.parse(str(view)) == view
    assert str(View.parse(str(view))) == str(view)


@given(texts())
def test_a_canonical_text_fits_into_a_rows_key_and_a_list(text):
    key = RowKey(slice_digest="ab", view=str(View.parse(text)))
    assert RowKey.parse(str(key)) == key
    assert "," not in key.view


@settings(deadline=None)
@given(texts(), st.integers(2, 9), st.integers(2, 9))
def test_a_view_is_its_steps_one_after_the_other_bit_by_bit(text, rows, columns):
    expected = image(rows, columns)
    label = (expected * 9).astype(np.uint8)
    moved = label
    for step in text.split(":"):
        expected = apply(step, expected)
        moved = View.parse(step).apply_to_label(moved)
    np.testing.assert_array_equal(apply(text, image(rows, columns)), expected)
    np.testing.assert_array_equal(View.parse(text).apply_to_label(label), moved)
    assert View.parse(text).plane_shape(rows, columns) == expected.shape[-2:]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("flip-rows:flip-columns", "rotate180"),
        ("flip-rows:flip-rows", "identity"),
        ("flip-rows:transpose", "rotate270"),
        ("transpose:flip-rows", "rotate90"),
        ("rotate90:rotate270", "identity"),
        ("identity:gamma0.8", "gamma0.80"),
        ("gamma1", "identity"),
        ("gamma2", "gamma2.00"),
        ("window1", "identity"),
        ("window1+0.0", "identity"),
        ("window1-0", "identity"),
        ("window1.1", "window1.10+0.00"),
        ("window1.1-0.05", "window1.10-0.05"),
        ("rotate+0-bilinear", "identity"),
        ("rotate-07-nearest", "rotate-7-nearest"),
        ("zoom1-bilinear", "identity"),
        ("zoom0.8-nearest", "zoom0.80-nearest"),
        ("rotate+7-bilinear:zoom1.25-bilinear", "rotate+7-bilinear:zoom1.25-bilinear"),
        ("gamma0.80:flip-rows", "flip-rows:gamma0.80"),
        ("gamma1:flip-rows:rotate+7-nearest", "flip-rows:rotate+7-nearest"),
        ("window0.90+0.05:gamma0.80", "window0.90+0.05:gamma0.80"),
    ],
)
def test_what_is_the_same_has_the_same_text(text, canonical):
    assert str(View.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("flip-row", "did you mean 'flip-rows'"),
        ("rotate45", "rotate\\+7-nearest or rotate-7-bilinear"),
        ("rotate+7", "rotate\\+7-nearest or rotate-7-bilinear"),
        ("rotate+7-cubic", "its interpolation"),
        ("rotate+7.5-nearest", "its interpolation"),
        ("rotate+90-nearest", "1 to 89 degrees.*rotate90"),
        ("rotate-180-bilinear", "1 to 89 degrees"),
        ("gamma", "gamma0.80"),
        ("gamma0", "between 0.10 and 10.00"),
        ("gamma10.01", "between 0.10 and 10.00"),
        ("gamma0.805", "at most two decimals"),
        ("gamma-1", "gamma0.80"),
        ("gamma\u0662", "gamma0.80"),
        ("window0+0.50", "between 0.10 and 10.00"),
        ("window1+1.01", "at most 1"),
        ("Identity", "did you mean 'identity'"),
        ("flip-rows:", "There are: identity"),
        ("", "There are: identity"),
        ("shear2", "There are: identity.*sam-lst"),
        ("zoom2", "zoom0.80-bilinear"),
        ("zoom0.24-nearest", "between 0.25 and 4.00"),
        ("zoom4.01-nearest", "between 0.25 and 4.00"),
        ("zoom0.80-bilinear:rotate+7-bilinear", "before the zoom"),
        ("zoom0.80-bilinear:zoom0.80-bilinear", "Zoom once"),
        ("gamma0.80:zoom0.80-bilinear", "before the values are changed"),
        ("gamma0.80:gamma1.25", "Give one gamma"),
        ("gamma0.80:window1.10", "before the gamma"),
        ("window1.10:window1.20", "Give one window"),
        ("gamma0.80:rotate+7-nearest", "before the values are changed"),
        ("rotate+7-nearest:rotate+7-nearest", "Rotate once"),
    ],
)
def test_a_text_that_is_no_view_is_refused_with_what_to_type(text, told):
    with pytest.raises(UsageError, match=told):
        View.parse(text)


@pytest.mark.parametrize("after", [name for name in TURNS if name != "identity"])
@pytest.mark.parametrize("step", ["rotate+7-nearest", "rotate-32-bilinear", "rotate-32-bilinear:zoom0.80-bilinear"])
def test_what_moves_a_slice_before_a_turn_is_refused_with_the_view_that_does_the_same(step, after):
    with pytest.raises(UsageError, match="Turn or mirror first") as refused:
        View.parse(f"transpose:{step}:{after}")
    proposed = str(refused.value).partition("first: ")[2].removesuffix(".")
    # The same but for rounding, which is why only one of the two has a name: a pixel of the rim may go either way.
    planes = np.random.default_rng(0).random((1, 40, 33))
    differs = np.abs(apply(proposed, planes) - apply(after, apply(f"transpose:{step}", planes))) > 1e-9
    assert differs.mean() < 0.01


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("identity", "bb82422e57103d931ee2719368fbe8a6"),
        ("anti-transpose", "b7619824b11bf1778b44f60c5525dbb5"),
        ("rotate90", "09caa8ae5f84844f70ea7743ed42fc5b"),
        ("rotate+7-nearest", "8af017354e7aeb8936d694d4c038d7b5"),
        ("rotate-13-bilinear", "37a0e419808a51d8a1b4168a54970942"),
        ("window1.10+0.05", "9305f74544cda4453246b87c03f1c29f"),
        ("gamma0.80", "28a0fe31982d4e0ac39fdc9cb3039186"),
        ("zoom0.75-bilinear", "3d573c380ebdceb7c90da41ee5e17a43"),
        ("zoom1.30-nearest", "7cb3de902fc8cbc0307b78dd1e035b49"),
        ("flip-rows:rotate+20-nearest:window0.90-0.05:gamma1.25", "67375c5186741a6a66644a2c29a4d2b9"),
    ],
)
def test_the_same_text_means_the_same_pixels_for_ever(text, digest):
    # Rows that are stored say no more of their view than its text: what changes here must get another text.
    row, column = np.mgrid[:24, :37]
    plane = ((row * 37 + column * 11) % 256 / 255).astype(np.float16)
    assert array_digest(apply(text, plane[None])) == digest


# -- banks -----------------------------------------------------------------------------------------


def test_every_bank_begins_with_the_identity_and_has_no_view_twice():
    assert {name: len(views) for name, views in BANKS.items()} == {
        "none": 1,
        "reflections": 5,
        "dihedral": 8,
        "sam-lst": 44,
    }
    for views in BANKS.values():
        assert str(views[0]) == "identity"
        assert len(set(map(str, views))) == len(views)


def test_the_bank_of_sam_lst_is_every_outcome_of_the_papers_augmentation():
    # Its two branches, drawn by dice there, in all their outcomes here.
    plane = np.random.default_rng(0).random((65, 65)).astype(np.float16)
    outcomes = {plane.tobytes()}
    for quarter_turns, axis in itertools.product(range(4), range(2)):
        outcomes.add(np.flip(np.rot90(plane, quarter_turns), axis).tobytes())
    for angle in range(-20, 20):
        rotated = ndimage.rotate(plane.astype(np.float32), angle, order=0, reshape=False)
        outcomes.add(rotated.astype(np.float16).tobytes())
    bank = [view.apply_to_image(plane[None]).tobytes() for view in BANKS["sam-lst"]]
    assert len(bank) == len(outcomes) == 44
    assert set(bank) == outcomes


def test_a_list_has_views_and_banks_each_once_and_the_identity_first():
    bank = Bank.parse("gamma0.8, reflections,rotate180")
    assert bank.texts == (
        "identity",
        "gamma0.80",
        "flip-rows",
        "flip-columns",
        "transpose",
        "anti-transpose",
        "rotate180",
    )
    assert bank.repeated == ()


def test_what_is_named_twice_is_said_by_its_canonical_name():
    bank = Bank.parse("rotate180,flip-rows:flip-columns,rotate180,none,identity")
    assert bank.texts == ("identity", "rotate180")
    assert bank.repeated == (
        "flip-rows:flip-columns is rotate180, which is there already",
        "rotate180 is there already",
        "identity is there already",
    )


def test_a_file_has_a_view_a_line_and_comments():
    content = "# ours\n\n  flip-rows   # mirrored\r\nrotate+7-nearest\nflip-rows\n"
    bank = Bank.of_file("ours.txt", content)
    assert bank.texts == ("identity", "flip-rows", "rotate+7-nearest")
    assert bank.repeated == ("ours.txt, line 5: flip-rows is there already",)


def test_an_unknown_word_of_a_file_is_refused_with_its_line_and_the_nearest():
    with pytest.raises(InputError, match=r"^ours\.txt, line 3: the view 'flip-colums': did you mean 'flip-columns'"):
        Bank.of_file("ours.txt", "flip-rows\n# x\nflip-colums\n")


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing\n"])
def test_a_file_without_a_view_is_refused(content):
    with pytest.raises(InputError, match=r"ours\.txt names no view"):
        Bank.of_file("ours.txt", content)


# -- what belongs to a row -------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path):
    made = Workspace.create(tmp_path / "workspace", {3: "box", 42: "bar"})
    add_volume(made, "a", *boxes(0, slices=2, side=40))
    return made


def test_a_rows_image_is_its_tile_in_its_view(workspace):
    volume = workspace.volumes["a"]
    key = RowKey(slice_digest=volume.slice_digests[1], view="rotate90", tile="rows4-20+columns10-40")
    found = image_of(SliceFinder(workspace.volumes), key)
    np.testing.assert_array_equal(found, np.rot90(volume.image[1][:, 4:20, 10:40], axes=(-2, -1)))
    assert found.flags.c_contiguous


def test_a_row_of_the_slice_as_it_is_has_the_slice(workspace):
    volume = workspace.volumes["a"]
    (key, _) = volume.row_keys()
    np.testing.assert_array_equal(image_of(SliceFinder(workspace.volumes), key), volume.image[0])


@pytest.mark.parametrize("view", ["identity", "anti-transpose", "rotate270", "rotate+7-nearest", "flip-rows:gamma0.80"])
@pytest.mark.parametrize("tile", ["full", "rows0-30+columns4-40"])
def test_a_rows_label_lies_on_what_it_labels(workspace, view, tile):
    volume = workspace.volumes["a"]
    key = RowKey(slice_digest=volume.slice_digests[0], view=view, tile=tile)
    shown = image_of(SliceFinder(workspace.volumes), key)[0].astype(float)
    label = View.parse(view).apply_to_label(Tile.parse(tile).crop(volume.read_label()[0]))
    assert label.shape == shown.shape
    # The box is brighter than everything else by far, and both are moved by the same pixels.
    np.testing.assert_array_equal(label == 3, shown > 0.66)
