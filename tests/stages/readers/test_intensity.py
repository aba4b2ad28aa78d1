"""One scale a channel: windows, percentiles of the foreground, pictures as they are; a CT never by accident."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from samkit.stages.readers import intensity
from samkit.stages.readers.intensity import (
    Chosen,
    Intensity,
    Normaliser,
    choose_intensities,
    looks_like_hounsfield,
    normalise,
)
from samkit.stages.readers.nifti import read_nifti_image
from samkit.stages.readers.windows import Window, parse_channels
from samkit.store.errors import UnusableVoxels, UsageError, WindowNeeded

RNG = np.random.default_rng(0)
MR = RNG.gamma(2.0, 100.0, (16, 16, 8)).astype(np.float32)
CT = np.where(RNG.random((16, 16, 8)) < 0.3, -1000, RNG.normal(50, 60, (16, 16, 8))).astype(np.float32)
CT[0, 0, 0] = 1200
SOFT = (Window.parse("400/40"),)
THREE = parse_channels("lung,soft-tissue,bone")
EVERY_INT16 = np.arange(-32768, 32768).astype(np.int16)


def chosen(values: np.ndarray, modality: str | None = None, windows=(), rule="auto", **more: Any) -> Intensity:
    """Choose for one channel."""
    (scale,) = choose_intensities(values, modality, windows, rule, **more).intensities
    return scale


def numpys(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values.astype(np.float64), [0.5, 99.5])
    return float(low), float(high)


def peak_bytes(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestHounsfield:
    def test_the_modality_decides_where_it_is_known(self):
        assert looks_like_hounsfield(MR, "CT")
        assert not looks_like_hounsfield(CT, "MR")
        assert not looks_like_hounsfield(CT, "PT")

    def test_a_ct_with_air_is_recognised(self):
        assert looks_like_hounsfield(CT, None)

    @pytest.mark.parametrize("padding", [-1024, -2000, -3024])
    def test_padding_does_not_hide_a_ct(self, padding: int):
        padded = CT.copy()
        padded[:, :4] = padding
        assert looks_like_hounsfield(padded, None)

    @pytest.mark.parametrize(
        "values",
        [
            MR,
            MR - 150,  # ringing of an interpolated MR
            MR * 50 - 600,  # ringing at a vendor's larger scale
            RNG.uniform(-4096, 4094, 4096).astype(np.float32),  # an MR phase image
            RNG.random(4096, dtype=np.float32),
            RNG.normal(0, 1, 4096).astype(np.float32),
            np.where(np.arange(100_000) == 7, -700, 300).astype(np.float32),  # one bad voxel
        ],
        ids=["mr", "signed", "large", "phase", "unit", "z-scored", "one bad voxel"],
    )
    def test_others_are_not_taken_for_ct(self, values: np.ndarray):
        assert not looks_like_hounsfield(values, None)

    @pytest.mark.parametrize("kind", ["int16", "int32", "float64"])
    def test_the_kind_of_number_does_not_matter(self, kind: str):
        assert looks_like_hounsfield(CT.astype(kind), None)
        assert not looks_like_hounsfield(MR.astype(kind), None)

    def test_unsigned_values_are_no_ct(self):
        assert not looks_like_hounsfield(RNG.integers(0, 255, (9, 9, 9)).astype(np.uint8), None)

    def test_declared_padding_makes_no_ct_of_another_image(self):
        padded = MR.copy()
        padded[:, :4] = -1000
        assert looks_like_hounsfield(padded, None)
        assert not looks_like_hounsfield(padded, None, padding=(-1000, -1000))

    def test_two_values_of_padding_do_not_hide_a_ct_that_declares_them(self):
        padded = CT.copy()
        padded[:, :4], padded[:, 4:6] = -3024, -2000
        assert not looks_like_hounsfield(padded, None)
        assert looks_like_hounsfield(padded, None, padding=(-3024, -2000))

    def test_the_whole_volume_counts_and_not_one_block(self):
        values = np.full((512, 512, 4), 100, np.int16)
        values[..., 3] = -1000  # all air in the last of the blocks
        assert looks_like_hounsfield(values, None)

    def test_no_finite_value_is_no_ct(self):
        assert not looks_like_hounsfield(np.full(8, np.nan, np.float32), None)

    @pytest.mark.shared
    @pytest.mark.parametrize(
        ("name", "is_ct"),
        [
            ("totalseg/example_ct_sm.nii.gz", True),
            ("spleen/sub-spleen2/ct/sub-spleen2_ct.nii.gz", True),
            ("totalseg/example_mr_sm.nii.gz", False),
            ("sct/t1w.nii.gz", False),
            ("hippocampus/images/hippocampus_001.nii.gz", False),
        ],
    )
    def test_real_scans_are_told_apart_by_value(self, shared_data: Path, name: str, is_ct: bool):
        assert looks_like_hounsfield(read_nifti_image(shared_data / name).values, None) is is_ct


class TestWindows:
    def test_a_window_gives_its_bounds(self):
        scale = chosen(CT, "CT", SOFT)
        assert (scale.rule, scale.low, scale.high) == ("window", -160, 240)

    def test_three_windows_give_three_scales_in_their_order(self):
        intensities = choose_intensities(CT, "CT", THREE, "auto").intensities
        assert [(scale.low, scale.high) for scale in intensities] == [(-1350, 150), (-160, 240), (-500, 1300)]

    @pytest.mark.parametrize("modality", ["CT", None])
    def test_a_ct_without_window_is_told_what_to_type(self, modality: str | None):
        with pytest.raises(WindowNeeded) as refusal:
            choose_intensities(CT, modality, (), "auto", place="case 1")
        for words in (
            "case 1",
            "--window 400/40     soft-tissue, abdomen",
            "--window 1500/-600  lung",
            "--window lung",
            "--channels lung,soft-tissue,bone",
            "--intensity percentiles",
        ):
            assert words in str(refusal.value)

    def test_what_it_is_told_can_be_typed(self):
        with pytest.raises(WindowNeeded) as refusal:
            choose_intensities(CT, "CT", (), "auto")
        typed = [line.split()[1:] for line in str(refusal.value).splitlines() if "--window" in line and "/" in line]
        assert len(typed) == 8
        for numbers, *names in typed:
            assert all(Window.parse(name.rstrip(",")) == Window.parse(numbers) for name in names)

    @pytest.mark.parametrize("rule", ["percentiles", "full-range"])
    def test_a_window_and_another_rule_exclude_each_other(self, rule: Any):
        with pytest.raises(UsageError, match=f"--window 400/40 and --intensity {rule} exclude"):
            choose_intensities(CT, "CT", SOFT, rule)

    def test_two_windows_are_refused(self):
        with pytest.raises(UsageError, match="2 windows"):
            choose_intensities(CT, "CT", SOFT * 2, "auto")

    def test_a_window_that_shows_nothing_is_refused(self):
        with pytest.raises(UnusableVoxels, match="outside the window 400/1000"):
            choose_intensities(np.array([[[0, 1]]], np.float32), None, (Window.parse("400/1000"),), "auto")

    def test_an_image_already_scaled_is_refused_as_one_flat_grey(self):
        with pytest.raises(UnusableVoxels, match=r"cover 0.2 % of the window 400/40 .* one flat grey"):
            choose_intensities(MR / MR.max(), None, SOFT, "auto")

    def test_padding_does_not_count_as_shown_by_a_window(self):
        values = np.array([[[-2000, 900, 1000]]], np.int16)
        assert chosen(values, "CT", SOFT).low == -160
        with pytest.raises(UnusableVoxels, match=r"900 to 1000.*outside the window 400/40"):
            choose_intensities(values, "CT", SOFT, "auto", padding=(-2000, -2000))

    def test_of_three_windows_one_may_show_nothing_and_that_is_said(self):
        lung_crop = np.linspace(-950, -450, 64, dtype=np.float32).reshape(4, 4, 4)
        (note,) = choose_intensities(lung_crop, "CT", THREE, "auto").notes
        assert "-950 to -450" in note
        assert "outside the window 400/40" in note

    def test_three_windows_that_show_nothing_are_refused(self):
        with pytest.raises(UnusableVoxels, match=r"window 1500/-600.*window 400/40.*window 1800/400"):
            choose_intensities(np.array([[[5000, 6000]]], np.int16), "CT", THREE, "auto")

    def test_a_window_is_left_aside_for_colour_and_a_note_says_so(self):
        colours = RNG.integers(0, 255, (4, 4, 1, 3)).astype(np.uint8)
        chosen = choose_intensities(colours, "CT", SOFT, "auto")
        assert chosen.intensities == choose_intensities(colours, "CT", (), "auto").intensities
        assert "the window is left aside" in chosen.notes[0]

    @pytest.mark.parametrize("modality", [None, "CT"])
    def test_values_of_which_none_is_below_zero_are_told_to_be_no_hounsfield_units(self, modality: str | None):
        (note,) = choose_intensities(CT + 1024, modality, SOFT, "auto").notes
        assert note.startswith("none of its values (24 to ")
        assert "rescale intercept" in note

    @pytest.mark.parametrize("modality", [None, "CT", "OT"])
    def test_hounsfield_units_are_not(self, modality: str | None):
        assert choose_intensities(CT, modality, SOFT, "auto").notes == ()

    @pytest.mark.parametrize("modality", ["MR", "PT", "US", "NM", "CR"])
    def test_a_window_is_left_aside_for_what_has_no_hounsfield_units_and_a_note_says_so(self, modality: str):
        chosen = choose_intensities(CT + 1024, modality, SOFT, "auto")
        assert chosen.intensities == choose_intensities(CT + 1024, modality, (), "auto").intensities
        assert chosen.notes == (
            f"modality {modality}, no CT: the window is left aside, and its own percentiles are its scale",
        )


class TestPercentiles:
    def test_they_are_of_the_voxels_above_the_minimum(self):
        padded = np.concatenate([MR.ravel(), np.full(MR.size * 9, MR.min() - 5)]).astype(np.float32)
        scale = chosen(padded.reshape(16, 16, -1), "MR")
        assert (scale.low, scale.high) == numpys(MR)
        assert scale.percentiles == (0.5, 99.5)
        assert scale.foreground == "finite voxels above the volume's minimum"

    def test_of_an_inverted_volume_they_are_of_the_voxels_below_the_maximum(self):
        scale = chosen(np.where(MR < 100, 4095, MR).astype(np.uint16), "CR", inverted=True)
        values = np.where(MR < 100, 4095, MR).astype(np.uint16)
        assert (scale.low, scale.high) == numpys(values[values < 4095])
        assert scale.foreground == "finite voxels below the volume's maximum"

    def test_padding_is_left_out_and_the_recipe_says_so(self):
        padded = MR.copy()
        padded[:, :4] = -2000
        rest = padded[:, 4:]
        scale = chosen(padded, "MR", padding=(-2000, -2000))
        assert (scale.low, scale.high) == numpys(rest[rest > rest.min()])
        assert scale.foreground == "finite voxels above the volume's minimum, padding left out"

    def test_padding_that_no_voxel_has_changes_nothing(self):
        assert chosen(MR, "MR", padding=(-2000, -2000)) == chosen(MR, "MR")

    @pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "float32"])
    @given(data=st.data())
    @settings(max_examples=50, deadline=None)
    def test_they_are_numpys_of_the_foreground_for_every_kind_of_number(self, kind: str, data: st.DataObject):
        values = data.draw(
            arrays.arrays(kind, st.tuples(*[st.integers(1, 5)] * 3), elements=_numbers(kind)).filter(
                lambda drawn: drawn.min() < drawn.max()
            )
        )
        low, high = numpys(values[values > values.min()])
        scale = chosen(values, "MR")
        if high - low < np.finfo(np.float32).smallest_subnormal:
            low, high = float(values.min()), float(values.max())
        assert (scale.low, scale.high) == (low, high)

    def test_a_scan_has_one_scale_as_integers_and_as_floats(self):
        whole = MR.astype(np.int16)
        assert chosen(whole, "MR") == chosen(whole.astype(np.float32), "MR") == chosen(whole.astype(np.int32), "MR")

    def test_a_volume_of_two_values_spans_them(self):
        scale = chosen(np.array([[[0, 0, 1, 1]]], np.float32))
        assert (scale.low, scale.high) == (0, 1)

    def test_values_closer_than_float32_can_divide_by_are_spanned(self):
        least = float(np.finfo(np.float32).smallest_subnormal)
        values = (np.array([[[0] + [1] * 199 + [2]]]) * least).astype(np.float32)
        low, high = numpys(values[values > 0])
        assert 0 < high - low < least
        assert (chosen(values).low, chosen(values).high) == (0, 2 * least)

    def test_the_order_of_storage_does_not_matter(self):
        assert chosen(MR) == chosen(MR.T[::-1].copy()) == chosen(np.asfortranarray(MR))

    def test_a_ct_takes_percentiles_when_asked(self):
        assert chosen(CT, "CT", rule="percentiles").rule == "percentiles"

    def test_a_pet_with_values_above_300000_keeps_its_upper_values_apart(self):
        pet = RNG.gamma(1.0, 40_000.0, (16, 16, 8)).astype(np.float32)
        assert pet.max() > 300_000
        scale = chosen(pet, "PT")
        assert (scale.low, scale.high) == numpys(pet[pet > pet.min()])

    def test_numbers_too_far_apart_are_refused(self):
        values = np.array([[[-3e38, -3.1e38, 3e38, 3e38]]], np.float32)
        with pytest.raises(UnusableVoxels, match="too far apart"):
            choose_intensities(values, "MR", (), "auto")

    def test_one_mark_of_no_measurement_at_the_end_of_float32_is_left_out_as_the_minimum(self):
        values = MR.copy()
        values[0] = np.finfo(np.float32).min
        rest = values[1:]
        assert (chosen(values, "MR").low, chosen(values, "MR").high) == numpys(rest)


class TestPictures:
    GREY = RNG.integers(20, 120, (9, 8, 1)).astype(np.uint8)
    COLOUR = RNG.integers(20, 120, (9, 8, 1, 3)).astype(np.uint8)

    def test_a_grey_picture_of_8_bits_is_taken_as_it_is(self):
        assert chosen(self.GREY) == Intensity(rule="full-range", low=0, high=255)

    def test_colour_of_8_bits_is_taken_as_it_is_whatever_the_modality(self):
        for modality in (None, "ES", "CT"):
            intensities = choose_intensities(self.COLOUR, modality, (), "auto").intensities
            assert intensities == (Intensity(rule="full-range", low=0, high=255),) * 3

    def test_percentiles_of_a_picture_can_be_asked_for(self):
        assert chosen(self.GREY, rule="percentiles").rule == "percentiles"

    def test_a_scan_of_8_bits_takes_percentiles(self):
        assert chosen(np.repeat(self.GREY, 5, axis=2)).rule == "percentiles"
        assert chosen(self.GREY, "MR").rule == "percentiles"

    def test_the_full_range_of_a_scan_of_8_bits_can_be_asked_for(self):
        assert chosen(np.repeat(self.GREY, 5, axis=2), "MR", rule="full-range").rule == "full-range"

    def test_the_full_range_is_for_8_bits_only(self):
        with pytest.raises(UnusableVoxels, match=r"0 to 255.*float32.*--intensity percentiles"):
            choose_intensities(MR, "MR", (), "full-range")

    def test_colour_of_more_bits_has_one_scale_for_all_channels(self):
        colours = (self.COLOUR.astype(np.uint16) * 200) + np.array([0, 10_000, 20_000], np.uint16)
        first, second, third = choose_intensities(colours, "CT", (), "auto").intensities
        assert first == second == third
        assert (first.low, first.high) == numpys(colours[colours > colours.min()])

    def test_a_last_axis_of_one_channel_is_grey(self):
        assert len(choose_intensities(CT[..., None], "CT", SOFT, "auto").intensities) == 1
        with pytest.raises(WindowNeeded):
            choose_intensities(CT[..., None], "CT", (), "auto")

    @pytest.mark.parametrize("channels", [2, 4])
    def test_other_numbers_of_channels_are_refused(self, channels: int):
        with pytest.raises(UnusableVoxels, match=f"{channels} channels a voxel"):
            choose_intensities(np.zeros((4, 4, 1, channels), np.uint8), None, (), "auto")

    def test_a_label_map_taken_for_a_picture_is_refused(self):
        with pytest.raises(UnusableVoxels, match=r"0 to 1 only.*label map"):
            choose_intensities(self.GREY % 2, None, (), "auto")


class TestWhatCannotBeScaled:
    def test_nan_and_infinity_are_refused_with_counts_and_the_first_place(self):
        values = MR.copy()
        values[1, 2, 3], values[4, 5, 6], values[7, 7, 7] = np.nan, np.nan, np.inf
        with pytest.raises(
            UnusableVoxels,
            match=r"2 NaN and 1 infinite \(1 of them positive, 0 negative\) of 2048 voxels.*\(1, 2, 3\)",
        ):
            choose_intensities(values, "MR", (), "auto")

    def test_the_way_to_take_them_is_told(self):
        with pytest.raises(UnusableVoxels, match="--non-finite lowest"):
            choose_intensities(np.array([[[1, 2, np.nan]]], np.float32), "MR", (), "auto")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_any_single_one_is_refused(self, value: float):
        with pytest.raises(UnusableVoxels, match=r"of 3 voxels, the first at index \(0, 0, 2\)"):
            choose_intensities(np.array([[[1, 2, value]]], np.float32), "MR", (), "auto")

    def test_nan_is_refused_under_a_window_too(self):
        values = CT.copy()
        values[0, 0, 0] = np.nan
        with pytest.raises(UnusableVoxels, match="1 NaN"):
            choose_intensities(values, "CT", SOFT, "auto")

    def test_taken_for_the_lowest_they_are_counted_in_a_note(self):
        values = MR.copy()
        values[0, 0, :6] = [np.nan, np.nan, np.nan, np.inf, np.inf, -np.inf]
        (note,) = choose_intensities(values, "MR", (), "auto", non_finite="lowest").notes
        assert note.endswith("shown as 0: 3 NaN, 2 +infinity, 1 -infinity")

    def test_taken_for_the_lowest_they_change_no_percentile(self):
        values = np.append(MR.ravel(), [np.nan, np.inf, -np.inf]).astype(np.float32).reshape(1, 1, -1)
        assert chosen(values, "MR", non_finite="lowest") == chosen(MR, "MR")

    def test_a_finite_volume_has_no_note(self):
        assert choose_intensities(MR, "MR", (), "auto", non_finite="lowest").notes == ()

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_volume_without_a_finite_value_is_refused_even_so(self, value: float):
        with pytest.raises(UnusableVoxels, match="all 8 voxels are NaN or infinite"):
            choose_intensities(np.full((2, 2, 2), value, np.float32), "MR", (), "auto", non_finite="lowest")

    @pytest.mark.parametrize("windows", [(), SOFT])
    def test_a_constant_volume_is_refused(self, windows: tuple[Window, ...]):
        with pytest.raises(UnusableVoxels, match="all 8 voxels have the value 3"):
            choose_intensities(np.full((2, 2, 2), 3, np.float32), "MR", windows, "auto")

    def test_a_volume_that_is_constant_but_for_padding_is_refused(self):
        values = np.array([[[-2000, -2000, 40, 40, 40]]], np.int16)
        with pytest.raises(UnusableVoxels, match="all 3 measured voxels have the value 40"):
            choose_intensities(values, "CT", SOFT, "auto", padding=(-2000, -2000))

    def test_a_volume_of_padding_alone_is_refused(self):
        values = np.full((2, 2, 2), -2000, np.int16)
        with pytest.raises(UnusableVoxels, match=r"all 8 voxels are padding \(-2000 to -1500\)"):
            choose_intensities(values, "CT", SOFT, "auto", padding=(-2000, -1500))


class TestKeeping:
    @pytest.mark.parametrize(
        "made",
        [
            choose_intensities(CT, "CT", THREE, "auto"),
            choose_intensities(MR, "MR", (), "auto"),
            choose_intensities(MR / 3, "MR", (), "auto", padding=(0, 1)),
            choose_intensities(TestPictures.GREY, None, (), "auto"),
        ],
        ids=["windows", "percentiles", "fractions", "full range"],
    )
    def test_json_gives_an_equal_intensity(self, made: Chosen):
        for scale in made.intensities:
            assert Intensity.from_json(json.loads(json.dumps(scale.to_json()))) == scale


# -- applying --------------------------------------------------------------------------------------

WINDOW = Intensity(rule="window", low=-160, high=240)
SCALES = (
    WINDOW,
    Intensity(rule="window", low=-1350, high=150),
    Intensity(rule="percentiles", low=3.25, high=1871.9375),
    Intensity(rule="percentiles", low=-32768.0, high=32767.0),
    Intensity(rule="percentiles", low=17.1, high=17.4),
)


def _numbers(kind: str) -> st.SearchStrategy[Any]:
    if kind == "float32":
        return st.one_of(st.floats(-(2.0**100), 2.0**100, width=32), st.sampled_from([0.0, 1.0, -2000.0, 3e5]))
    limits = np.iinfo(kind)
    return st.one_of(st.integers(limits.min, limits.max), st.sampled_from([0, 1, limits.min, limits.max]))


def formula(values: np.ndarray, scale: Intensity, *, inverted: bool = False) -> np.ndarray:
    """Return what is promised: float32 arithmetic, clipped, rounded to float16 at the very end."""
    low, span = np.float32(scale.low), np.float32(scale.high - scale.low)
    share = np.minimum(np.maximum((values.astype(np.float32) - low) / span, np.float32(0)), np.float32(1))
    return (np.float32(1) - share if inverted else share).astype(np.float16)


def bits(values: np.ndarray) -> list[int]:
    return values.view(np.uint16).ravel().tolist()


class TestLabelMaps:
    def test_an_image_with_few_whole_values_is_told_to_look_like_a_label_map(self):
        (note,) = choose_intensities(RNG.integers(0, 4, (8, 8, 4)), None, (), "auto").notes
        assert note.startswith("only 4 different values (0, 1, 2, 3), as label maps have")

    def test_of_many_values_the_first_and_the_last_are_listed(self):
        (note,) = choose_intensities(np.arange(20).reshape(4, 5, 1).astype(np.int16), None, (), "auto").notes
        assert "(0, 1, 2, 3, 4, ... 19)" in note

    @pytest.mark.parametrize("values", [MR, np.arange(256, dtype=np.uint8).reshape(16, 16, 1)])
    def test_images_are_not(self, values: np.ndarray):
        assert choose_intensities(values, None, (), "auto").notes == ()

    def test_colours_are_not(self):
        colours = RNG.integers(0, 4, (8, 8, 1, 3)).astype(np.uint8) * 80
        assert choose_intensities(colours, None, (), "auto").notes == ()


class TestNormalising:
    def test_the_bounds_become_zero_and_one(self):
        scaled = normalise(np.array([-1000, -160, 40, 240, 3000], np.float32), WINDOW)
        assert scaled.tolist() == [0, 0, 0.5, 1, 1]

    def test_the_result_is_float16(self):
        assert normalise(CT, WINDOW).dtype == np.float16

    def test_the_input_is_left_alone(self):
        before = CT.copy()
        normalise(CT, WINDOW, padding=(-1000, -1000), inverted=True)
        np.testing.assert_array_equal(CT, before)

    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize("scale", SCALES)
    def test_every_number_of_16_bits_becomes_what_float32_says_to_the_last_bit(self, scale: Intensity, inverted: bool):
        for values in (EVERY_INT16, EVERY_INT16.view(np.uint16)):
            expected = formula(values, scale, inverted=inverted)
            assert bits(normalise(values, scale, inverted=inverted)) == bits(expected)

    @pytest.mark.parametrize("kind", ["int8", "uint8"])
    def test_every_number_of_8_bits_too(self, kind: str):
        values = np.arange(256).astype(np.uint8).view(kind)
        assert bits(normalise(values, WINDOW)) == bits(formula(values, WINDOW))

    @pytest.mark.parametrize("kind", ["int32", "float32"])
    @given(data=st.data())
    @settings(max_examples=50, deadline=None)
    def test_larger_numbers_too(self, kind: str, data: st.DataObject):
        values = data.draw(arrays.arrays(kind, 20, elements=_numbers(kind)))
        assert bits(normalise(values, WINDOW)) == bits(formula(values, WINDOW))

    def test_a_scan_looks_the_same_as_integers_and_as_floats(self):
        whole = CT.astype(np.int16)
        assert bits(normalise(whole, WINDOW)) == bits(normalise(whole.astype(np.float32), WINDOW))

    @pytest.mark.parametrize("kind", ["int16", "float32"])
    def test_padding_becomes_zero_inverted_or_not(self, kind: str):
        values = np.array([2999, 3000, 3500, 3501], kind)
        assert normalise(values, WINDOW, padding=(3000, 3500)).tolist() == [1, 0, 0, 1]
        low = np.array([-2000, -999], kind)
        assert normalise(low, WINDOW, padding=(-2000, -1000), inverted=True).tolist() == [0, 1]

    @pytest.mark.parametrize("inverted", [False, True])
    def test_what_is_not_finite_becomes_zero(self, inverted: bool):
        values = np.array([np.nan, np.inf, -np.inf], np.float32)
        assert normalise(values, WINDOW, inverted=inverted).tolist() == [0, 0, 0]

    def test_inverted_is_one_minus_before_the_rounding(self):
        values = np.linspace(-160, 240, 5000, dtype=np.float32)
        once = normalise(values, WINDOW, inverted=True)
        assert bits(once) == bits(formula(values, WINDOW, inverted=True))
        assert bits(once) != bits(np.float16(1) - normalise(values, WINDOW))

    def test_the_order_of_memory_is_kept(self):
        assert normalise(np.asfortranarray(CT), WINDOW).flags.f_contiguous
        np.testing.assert_array_equal(normalise(np.asfortranarray(CT), WINDOW), normalise(CT, WINDOW))

    def test_foreign_byte_order_is_understood(self):
        assert bits(normalise(CT.astype(">i2"), WINDOW)) == bits(normalise(CT.astype("<i2"), WINDOW))

    @pytest.mark.parametrize("kind", ["int16", "uint16", "float32"])
    @given(data=st.data())
    @settings(max_examples=100, deadline=None)
    def test_order_is_kept_and_the_range_is_zero_to_one(self, kind: str, data: st.DataObject):
        values = np.sort(data.draw(arrays.arrays(kind, st.integers(2, 30), elements=_numbers(kind))))
        if values[0] == values[-1]:
            return
        scale = chosen(values.reshape(1, 1, -1), "MR")
        scaled = normalise(values, scale)
        assert np.all(np.diff(scaled.astype(np.float32)) >= 0)
        assert np.all(np.diff(normalise(values, scale, inverted=True).astype(np.float32)) <= 0)
        assert scaled.min() >= 0
        assert scaled.max() <= 1


class TestPlaneByPlane:
    @pytest.mark.parametrize("kind", ["uint8", "int16", "float32"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_planes_are_those_of_the_whole_volume(self, kind: str, order: Any):
        values = np.asarray(np.abs(CT) / 5, dtype=kind, order=order)
        normaliser = Normaliser(dtype=values.dtype, intensities=(SCALES[2],), padding=(0, 3), inverted=True)
        planes = np.stack([normaliser(values[:, :, k]) for k in range(values.shape[2])])
        whole = normalise(values, SCALES[2], padding=(0, 3), inverted=True)
        np.testing.assert_array_equal(planes, whole.transpose(2, 0, 1)[:, None])

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_any_two_axes_make_a_plane(self, axis: int):
        values = CT.astype(np.int16)
        normaliser = Normaliser(dtype=values.dtype, intensities=(WINDOW,))
        plane = normaliser(np.moveaxis(values, axis, 2)[::-1, :, 3])
        np.testing.assert_array_equal(plane[0], np.moveaxis(normalise(values, WINDOW), axis, 2)[::-1, :, 3])

    @pytest.mark.parametrize("kind", ["int16", "float32"])
    def test_three_windows_make_three_channels_of_one_plane(self, kind: str):
        plane = CT[:, :, 3].astype(kind)
        channels = Normaliser(dtype=plane.dtype, intensities=SCALES[:3])(plane)
        assert channels.shape == (3, 16, 16)
        for channel, scale in zip(channels, SCALES[:3], strict=True):
            np.testing.assert_array_equal(channel, normalise(plane, scale))

    @pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
    @pytest.mark.parametrize("turned", [False, True])
    def test_colours_come_first_and_each_by_its_own_scale(self, kind: str, turned: bool):
        plane = RNG.integers(0, 255, (7, 5, 3)).astype(kind)
        plane = plane.swapaxes(0, 1) if turned else plane
        scales = tuple(Intensity(rule="percentiles", low=low, high=low + 100) for low in (0, 50, 100))
        channels = Normaliser(dtype=plane.dtype, intensities=scales)(plane)
        for channel, scale in enumerate(scales):
            np.testing.assert_array_equal(channels[channel], normalise(plane[..., channel], scale))

    def test_a_plane_of_one_channel_takes_three_windows(self):
        plane = CT[:, :, 3].astype(np.int16)
        normaliser = Normaliser(dtype=plane.dtype, intensities=SCALES[:3])
        np.testing.assert_array_equal(normaliser(plane[..., None]), normaliser(plane))

    def test_another_number_of_channels_does_not_fit(self):
        with pytest.raises(ValueError, match="does not fit 3 intensities"):
            Normaliser(dtype=np.dtype(np.uint8), intensities=SCALES[:3])(np.zeros((4, 4, 2), np.uint8))

    def test_a_plane_of_another_kind_of_number_is_scaled_all_the_same(self):
        normaliser = Normaliser(dtype=np.dtype(np.int16), intensities=(WINDOW,))
        np.testing.assert_array_equal(normaliser(CT[:, :, 3])[0], normalise(CT[:, :, 3], WINDOW))

    def test_a_normaliser_can_be_sent_to_another_process(self):
        normaliser = Normaliser(dtype=np.dtype(np.int16), intensities=(WINDOW,))
        plane = CT[:, :, 3].astype(np.int16)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(normaliser))(plane), normaliser(plane))

    def test_the_table_is_made_once(self, monkeypatch: pytest.MonkeyPatch):
        planes = CT.astype(np.int16)
        normaliser = Normaliser(dtype=planes.dtype, intensities=SCALES[:3])
        expected = normaliser(planes[:, :, 0])
        monkeypatch.delattr(intensity, "_scaled")
        np.testing.assert_array_equal(normaliser(planes[:, :, 0]), expected)


class TestMemory:
    @pytest.mark.parametrize(("modality", "windows"), [("MR", ()), (None, ()), ("CT", SOFT)])
    @pytest.mark.parametrize("kind", ["int16", "float32"])
    def test_a_volume_is_not_copied_when_its_scale_is_chosen(
        self, kind: str, modality: str | None, windows: tuple[Window, ...]
    ):
        values = RNG.integers(-300, 900, (512, 512, 40)).astype(kind)
        used = peak_bytes(lambda: choose_intensities(values, modality, windows, "auto", padding=(-300, -290)))
        assert used < 12e6  # a copy: 21 or 42 MB

    def test_normalising_holds_the_result_and_little_else(self):
        values = RNG.integers(-300, 900, (512, 512, 40)).astype(np.int16)
        assert peak_bytes(lambda: normalise(values, WINDOW)) < values.size * 2 + 6e6


class TestRealScans:
    @pytest.mark.shared
    @pytest.mark.parametrize("name", ["sct/t1w.nii.gz", "totalseg/example_mr_sm.nii.gz"])
    def test_percentiles_of_a_real_mr_are_numpys(self, shared_data: Path, name: str):
        values = read_nifti_image(shared_data / name).values
        scale = chosen(values, "MR")
        assert (scale.low, scale.high) == numpys(values[values > values.min()])
