"""Windows: by name, by numbers, one or three; a name is for typing and telling only."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samkit.stages.encoders.pixels import prepare
from samkit.stages.readers.windows import CHANNEL_COUNTS, WINDOWS, Window, chosen_windows, parse_channels
from samkit.store.errors import UsageError


class TestNumbers:
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

    @pytest.mark.parametrize(
        ("width", "level"),
        [(1e-50, 40), (1e39, 0), (400, 1e39), (float("nan"), 0), (400, float("nan")), (float("inf"), 0)],
    )
    def test_what_float32_cannot_scale_by_is_no_window(self, width: float, level: float):
        with pytest.raises(UsageError, match="positive width and a finite level"):
            Window(width=width, level=level)

    @given(width=st.floats(0.5, 5000), level=st.floats(-2000, 2000))
    def test_what_is_printed_can_be_typed(self, width: float, level: float):
        again = Window.parse(f"{width:.4f}/{level:.4f}")
        assert (again.width, again.level) == (pytest.approx(width, abs=1e-4), pytest.approx(level, abs=1e-4))

    def test_json_gives_an_equal_window(self):
        window = Window.parse("350.25/-50.5")
        assert Window.from_json(json.loads(json.dumps(window.to_json()))) == window


class TestNames:
    @pytest.mark.parametrize(
        ("name", "low", "high"),
        [
            ("soft-tissue", -160, 240),
            ("abdomen", -160, 240),
            ("liver", -45, 105),
            ("lung", -1350, 150),
            ("bone", -500, 1300),
            ("brain", 0, 80),
            ("mediastinum", -125, 225),
            ("stroke", 20, 60),
            ("synapse", -125, 275),
            ("transunet", -125, 275),
        ],
    )
    def test_a_name_stands_for_its_bounds(self, name: str, low: float, high: float):
        window = Window.parse(name)
        assert (window.low, window.high) == (low, high)

    def test_every_known_name_is_tested_above(self):
        assert len(WINDOWS) == 10

    @pytest.mark.parametrize("text", ["Soft-Tissue", " soft_tissue ", "soft tissue"])
    def test_capitals_spaces_and_underscores_do_not_matter(self, text: str):
        assert Window.parse(text) == WINDOWS["soft-tissue"]

    def test_equal_numbers_are_one_window_whatever_the_name(self):
        assert Window.parse("abdomen") == Window.parse("soft-tissue") == Window.parse("400/40")
        assert len({Window.parse("abdomen"), Window.parse("soft-tissue"), Window.parse("400/40")}) == 1

    def test_a_name_is_not_stored(self):
        assert Window.parse("lung").to_json() == {"level": -600, "width": 1500}

    def test_a_window_is_told_by_numbers_and_names(self):
        assert Window.parse("400/40").told == "400/40 (soft-tissue, abdomen)"

    def test_a_window_without_a_name_is_told_by_numbers(self):
        assert Window.parse("333/40").told == "333/40"

    def test_a_window_can_be_sent_to_another_process(self):
        assert pickle.loads(pickle.dumps(Window.parse("lung"))) == WINDOWS["lung"]

    @pytest.mark.parametrize(
        ("text", "nearest"), [("lungs", "lung"), ("softtissue", "soft-tissue"), ("soft", "soft-tissue")]
    )
    def test_an_unknown_name_is_refused_with_the_nearest(self, text: str, nearest: str):
        with pytest.raises(UsageError, match=f"--window '{text}'.*Did you mean '{nearest}'"):
            Window.parse(text)

    def test_an_unknown_name_is_refused_with_all_names_and_their_numbers(self):
        with pytest.raises(UsageError) as refusal:
            Window.parse("xyz")
        for name, window in WINDOWS.items():
            assert f"{name} ({window})" in str(refusal.value)
        assert "Did you mean" not in str(refusal.value)


class TestChannels:
    def test_three_names_are_three_windows_in_their_order(self):
        assert parse_channels("lung,soft-tissue,bone") == (WINDOWS["lung"], WINDOWS["soft-tissue"], WINDOWS["bone"])

    def test_names_and_numbers_mix(self):
        assert parse_channels("lung, 400/40 ,bone") == parse_channels("1500/-600,soft-tissue,1800/400")

    def test_one_window_is_one_channel(self):
        assert parse_channels("lung") == (WINDOWS["lung"],)

    @pytest.mark.parametrize("text", ["lung,bone", "lung,bone,liver,brain"])
    def test_another_number_is_refused_with_what_to_type(self, text: str):
        with pytest.raises(UsageError, match=rf"--channels '{text}': {text.count(',') + 1} windows.*--channels lung,"):
            parse_channels(text)

    @pytest.mark.parametrize("text", ["", "lung,,bone"])
    def test_an_empty_channel_is_refused(self, text: str):
        with pytest.raises(UsageError, match="--channels '': expected"):
            parse_channels(text)

    def test_an_unknown_name_is_refused_under_the_flag_that_was_typed(self):
        with pytest.raises(UsageError, match=r"--channels 'lungs'.*Did you mean 'lung'"):
            parse_channels("lungs,400/40,bone")

    @pytest.mark.parametrize("count", range(1, 6))
    def test_the_numbers_of_channels_are_those_that_the_encoders_take(self, count: int):
        images = torch.from_numpy(np.zeros((1, count, 4, 4), np.float16))
        if count in CHANNEL_COUNTS:
            assert prepare(images, input_px=8, pixel_normalisation="sam").shape == (1, 3, 8, 8)
        else:
            with pytest.raises(UsageError):
                prepare(images, input_px=8, pixel_normalisation="sam")


class TestWhatWasTyped:
    def test_one_window(self):
        assert chosen_windows("lung", None) == (WINDOWS["lung"],)

    def test_a_window_for_each_channel(self):
        assert chosen_windows(None, "lung,bone,liver") == parse_channels("lung,bone,liver")

    def test_neither_is_no_window(self):
        assert chosen_windows(None, None) == ()

    def test_both_exclude_each_other(self):
        with pytest.raises(UsageError, match="--window lung and --channels lung,bone,liver exclude each other"):
            chosen_windows("lung", "lung,bone,liver")
