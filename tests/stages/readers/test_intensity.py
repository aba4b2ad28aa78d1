"""One scale a volume: windows as radiologists write them, percentiles of the foreground, a CT never by accident."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from samkit.stages.readers.intensity import Intensity, Window, choose_intensity, looks_like_hounsfield, normalise
from samkit.stages.readers.nifti import read_nifti_image
from samkit.store.errors import UnusableVoxels, UsageError, WindowNeeded

RNG = np.random.default_rng(0)
MR = RNG.gamma(2.0, 100.0, (16, 16, 8)).astype(np.float32)
CT = np.where(RNG.random((16, 16, 8)) < 0.3, -1000, RNG.normal(50, 60, (16, 16, 8))).astype(np.float32)
CT[0, 0, 0] = 1200


class TestWindow:
    def test_text_is_width_over_level(self):
        window = Window.parse("400/40")
        assert (window.width, window.level, window.low, window.high) == (400, 40, -160, 240)

    @pytest.mark.parametrize("text", ["1500/-600", " 1500 / -600 ", "1500.0/-600."])
    def test_levels_may_be_negative(self, text: str):
        assert Window.parse(text) == Window(width=1500, level=-600)

    @pytest.mark.parametrize(
        "text", ["", "400", "400,40", "400/", "a/b", "nan/40", "inf/40", "1/2/3", "0/40", "-400/40"]
    )
    def test_nonsense_is_refused_with_an_example(self, text: str):
        with pytest.raises(UsageError, match="--window 400/40"):
            Window.parse(text)

    @given(width=st.floats(0.5, 5000), level=st.floats(-2000, 2000))
    def test_what_is_printed_can_be_typed(self, width: float, level: float):
        again = Window.parse(f"{width:.4f}/{level:.4f}")
        assert (again.width, again.level) == (pytest.approx(width, abs=1e-4), pytest.approx(level, abs=1e-4))


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


class TestChoosing:
    def test_a_window_gives_its_bounds(self):
        intensity = choose_intensity(CT, "CT", Window.parse("400/40"), "auto")
        assert (intensity.rule, intensity.low, intensity.high) == ("window", -160, 240)

    @pytest.mark.parametrize("modality", ["CT", None])
    def test_a_ct_without_window_is_told_what_to_type(self, modality: str | None):
        with pytest.raises(WindowNeeded) as refusal:
            choose_intensity(CT, modality, None, "auto", place="case 1")
        for words in ("case 1", "--window 400/40", "soft tissue", "--window 1500/-600", "--intensity percentiles"):
            assert words in str(refusal.value)

    def test_a_ct_takes_percentiles_when_asked(self):
        assert choose_intensity(CT, "CT", None, "percentiles").rule == "percentiles"

    def test_percentiles_are_of_the_voxels_above_the_minimum(self):
        padded = np.concatenate([MR.ravel(), np.full(MR.size * 9, MR.min() - 5)]).astype(np.float32)
        intensity = choose_intensity(padded, "MR", None, "auto")
        low, high = np.percentile(MR, [0.5, 99.5])
        assert (intensity.low, intensity.high) == (pytest.approx(low), pytest.approx(high))
        assert intensity.percentiles == (0.5, 99.5)

    def test_a_volume_of_two_values_spans_them(self):
        intensity = choose_intensity(np.array([0, 0, 1, 1], np.float32), None, None, "auto")
        assert (intensity.low, intensity.high) == (0, 1)

    def test_the_order_of_storage_does_not_matter(self):
        assert choose_intensity(MR, None, None, "auto") == choose_intensity(MR.T[::-1].copy(), None, None, "auto")

    def test_window_and_percentiles_exclude_each_other(self):
        with pytest.raises(UsageError, match="exclude"):
            choose_intensity(CT, "CT", Window.parse("400/40"), "percentiles")

    def test_nan_and_infinity_are_refused_with_counts_and_the_first_place(self):
        values = MR.copy()
        values[1, 2, 3], values[4, 5, 6], values[7, 7, 7] = np.nan, np.nan, np.inf
        with pytest.raises(UnusableVoxels, match=r"2 NaN and 1 infinite of 2048 voxels.*\(1, 2, 3\)"):
            choose_intensity(values, "MR", None, "auto")

    def test_nan_is_refused_under_a_window_too(self):
        values = CT.copy()
        values[0, 0, 0] = np.nan
        with pytest.raises(UnusableVoxels, match="1 NaN"):
            choose_intensity(values, "CT", Window.parse("400/40"), "auto")

    def test_a_constant_volume_is_refused(self):
        with pytest.raises(UnusableVoxels, match="all 8 voxels have the value 3"):
            choose_intensity(np.full((2, 2, 2), 3, np.float32), "MR", None, "auto")

    def test_a_window_that_shows_nothing_is_refused(self):
        with pytest.raises(UnusableVoxels, match="outside the window 400/1000"):
            choose_intensity(np.array([0, 1], np.float32), None, Window.parse("400/1000"), "auto")

    def test_json_gives_an_equal_intensity(self):
        for intensity in (
            choose_intensity(CT, "CT", Window.parse("400/40"), "auto"),
            choose_intensity(MR, "MR", None, "auto"),
        ):
            assert Intensity.from_json(json.loads(json.dumps(intensity.to_json()))) == intensity


class TestNormalising:
    WINDOW = Intensity(rule="window", low=-160, high=240)

    def test_the_bounds_become_zero_and_one(self):
        scaled = normalise(np.array([-1000, -160, 40, 240, 3000], np.float32), self.WINDOW)
        assert scaled.tolist() == [0, 0, 0.5, 1, 1]

    def test_the_result_is_float16(self):
        assert normalise(CT, self.WINDOW).dtype == np.float16

    def test_the_input_is_left_alone(self):
        before = CT.copy()
        normalise(CT, self.WINDOW)
        np.testing.assert_array_equal(CT, before)

    @given(arrays.arrays(np.float32, 20, elements=st.floats(-1e6, 1e6, width=32)))
    def test_order_is_kept_and_the_range_is_zero_to_one(self, values: np.ndarray):
        scaled = normalise(np.sort(values), self.WINDOW)
        assert np.all(np.diff(scaled.astype(np.float32)) >= 0)
        assert scaled.min() >= 0
        assert scaled.max() <= 1
