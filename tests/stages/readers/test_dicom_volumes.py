"""Several volumes in one series: slices of one volume are put together by what their headers say, or not at all.

Each voxel of a slice holds the number of its volume, so that a mixed volume cannot be missed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from synthetic.enhanced import enhanced
from synthetic.instances import AXIAL, position
from synthetic.series import stored_mr, write_series

from samkit.stages.readers.dicom import read_series
from samkit.stages.readers.dicom_series import Series, VolumeChoice, triage

SLICES = 6
Fields = Callable[[int, int], dict[str, Any]]
"""(volume, slice) -> header fields."""


def write(
    folder: Path,
    fields: Fields,
    *,
    volumes: int = 2,
    without: Iterable[tuple[int, int]] = (),
    height: Callable[[int, int], float] = lambda v, k: k,
    **options: Any,
) -> None:
    """Write volumes in one series; InstanceNumber and names of files say nothing unless `fields` does.

    `height`: (volume, slice) -> where it lies, in slices.
    """
    members = [(v, k) for v in range(volumes) for k in range(SLICES) if (v, k) not in set(without)]
    lots = random.Random(5).sample(range(1000), len(members))

    def change(n: int, dataset: Dataset) -> None:
        dataset.InstanceNumber = None
        for keyword, value in fields(*members[n]).items():
            setattr(dataset, keyword, value)

    write_series(
        folder,
        modality="MR",
        stored=np.stack([np.full((8, 8), v, np.uint16) for v, _ in members], axis=-1),
        positions_mm=np.array([position(AXIAL, height(v, k)) for v, k in members]),
        name=lambda n, _: f"{lots[n]:03d}.dcm",
        change=change,
        **options,
    )


def taken(folder: Path, **choice: Any) -> Series:
    (series,) = (one.series for one in triage(folder, VolumeChoice(**choice)).findings if one.series is not None)
    return series


def volumes_in(series: Series) -> list[int]:
    return [int(number) for number in np.unique(read_series(series).values)]


def reason(folder: Path, **choice: Any) -> str:
    (finding,) = triage(folder, VolumeChoice(**choice)).findings
    return finding.reason or ""


def require_told_apart(folder: Path, volumes: int = 2) -> None:
    for index in range(volumes):
        assert volumes_in(taken(folder, time_index=index)) == [index]


def require_untold(folder: Path, why: str) -> None:
    for choice in ({}, {"time_index": 0}, {"time_index": 1}):
        assert "do not tell which slices belong together" in reason(folder, **choice)
        assert why in reason(folder, **choice)


def in_order(v: int, k: int) -> dict[str, Any]:
    return {"InstanceNumber": v * SLICES + k + 1}


def time_of(seconds: float) -> str:
    minutes, second = divmod(round(seconds % 86400, 2), 60)
    return f"{int(minutes) // 60:02d}{int(minutes) % 60:02d}{second:05.2f}"


def write_enhanced(folder: Path, each: list[tuple[int, int]]) -> Path:
    """Write a multi-frame file of (position, volume) in this order; the values of a frame are its volume's number."""
    stored = np.stack([np.full((8, 8), volume, np.uint16) for _, volume in each], axis=-1)
    return enhanced(folder, stored=stored, along=[position for position, _ in each]).paths[0]


class TestFieldsThatMarkAVolume:
    @pytest.mark.parametrize(
        "fields",
        [
            lambda v, k: {"TemporalPositionIdentifier": v + 1},
            lambda v, k: {"EchoTime": 2.5 * (v + 1)},
            lambda v, k: {"DiffusionBValue": 400.0 * v},
            lambda v, k: {"TriggerTime": 40 * v},
            lambda v, k: {"AcquisitionNumber": v + 1},
            lambda v, k: {"AcquisitionTime": time_of(36000 + 60 * v)},
            lambda v, k: {"ImageType": ["DERIVED", "PRIMARY", "AB"[v]]},
            lambda v, k: {"InstanceNumber": v + 1},
        ],
        ids=["position", "echo", "b-value", "trigger", "acquisition", "time", "image type", "number"],
    )
    def test_one_is_enough(self, tmp_path: Path, fields: Fields):
        write(tmp_path, fields)
        require_told_apart(tmp_path)

    def test_numbers_that_run_otherwise_do_not_matter_then(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"AcquisitionNumber": v + 1, "InstanceNumber": (7 * (v * SLICES + k)) % 13})
        require_told_apart(tmp_path)

    def test_nor_does_a_breath_that_triggers_when_it_likes(self, tmp_path: Path):
        lots = random.Random(3)
        write(
            tmp_path,
            lambda v, k: {"TriggerTime": lots.randrange(900), "AcquisitionNumber": v + 1, **in_order(v, k)},
            volumes=3,
        )
        require_told_apart(tmp_path, 3)

    def test_two_together_tell_what_neither_tells_alone(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"EchoTime": 2 + v // 2, "TemporalPositionIdentifier": v % 2}, volumes=4)
        require_told_apart(tmp_path, 4)

    def test_two_that_contradict_each_other_are_refused(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"TemporalPositionIdentifier": v, "AcquisitionNumber": v if k else 1 - v})
        require_untold(tmp_path, "TemporalPosition and AcquisitionNumber contradict each other")

    def test_a_slice_of_another_kind_refuses_its_volume_and_no_other(self, tmp_path: Path):
        write(
            tmp_path,
            lambda v, k: {
                "TemporalPositionIdentifier": v,
                "ImageType": ["DERIVED" if (v, k) == (1, 2) else "ORIGINAL", "PRIMARY", "M"],
            },
        )
        assert volumes_in(taken(tmp_path, time_index=0)) == [0]
        assert "several ImageTypes" in reason(tmp_path, time_index=1)

    def test_two_files_of_many_frames_are_told_by_their_numbers(self, tmp_path: Path):
        for v in range(2):
            one = enhanced(tmp_path, stored=np.full_like(stored_mr(), v), name=f"{1 - v}", part=v)
            dataset = pydicom.dcmread(one.paths[0])
            dataset.InstanceNumber = v + 1
            dataset.save_as(one.paths[0])
        require_told_apart(tmp_path)

    def test_a_file_a_position_is_told_by_the_order_of_its_frames(self, tmp_path: Path):
        for k in range(SLICES):
            stored = np.stack([np.full((8, 8), v, np.uint16) for v in range(2)], axis=-1)
            enhanced(tmp_path, stored=stored, along=[k, k], name=f"{(5 * k) % 7}", part=k)
        require_told_apart(tmp_path)


class TestWhatGrows:
    @pytest.mark.parametrize("fields", [in_order, lambda v, k: {"InstanceNumber": 2 * k + v + 1}])
    def test_numbers_by_volume_or_by_position_tell(self, tmp_path: Path, fields: Fields):
        write(tmp_path, fields)
        require_told_apart(tmp_path)

    @pytest.mark.parametrize("start", [36000, 86395], ids=["by day", "over midnight"])
    def test_times_of_slices_tell_without_numbers(self, tmp_path: Path, start: int):
        write(tmp_path, lambda v, k: {"AcquisitionTime": time_of(start + 4 * v + 0.6 * k)}, volumes=3)
        require_told_apart(tmp_path, 3)

    def test_midnight_does_not_contradict_numbers(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"AcquisitionTime": time_of(86396 + 4 * v + 0.6 * k), **in_order(v, k)})
        require_told_apart(tmp_path)

    def test_times_of_frames_count_with_their_days(self, tmp_path: Path):
        """The next morning is later than the afternoon: against the order in which the frames are stored."""
        each = [(k, v) for k in range(SLICES) for v in (1, 0)]
        path = write_enhanced(tmp_path, each)
        dataset = pydicom.dcmread(path)
        for (k, v), group in zip(each, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            start = ("20240531140000", "20240601090000")[v]
            group.FrameContentSequence[0].FrameAcquisitionDateTime = f"{start}.{k}"
        dataset.save_as(path)
        require_untold(tmp_path, "the time and InstanceNumber give them different orders")

    def test_times_of_which_some_have_a_day_tell_nothing(self, tmp_path: Path):
        each = [(k, v) for v in range(2) for k in range(SLICES)]
        path = write_enhanced(tmp_path, each)
        dataset = pydicom.dcmread(path)
        for (_, v), group in zip(each, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            if not v:
                group.FrameContentSequence[0].FrameAcquisitionDateTime = "20240531140000"
        dataset.save_as(path)
        require_told_apart(tmp_path)

    def test_numbers_that_begin_anew_in_each_volume_do_not_contradict_times(self, tmp_path: Path):
        write(
            tmp_path,
            lambda v, k: {
                "AcquisitionTime": time_of(36000 + 10 * v + 0.5 * k),
                "InstanceNumber": k + 1 if v else SLICES - k,
            },
        )
        require_told_apart(tmp_path)

    def test_frames_of_one_file_tell_by_their_order(self, tmp_path: Path):
        each = [(k, v) for v in range(2) for k in range(SLICES)]
        enhanced(
            tmp_path,
            stored=np.stack([np.full((8, 8), v, np.uint16) for _, v in each], axis=-1),
            along=[k for k, _ in each],
        )
        require_told_apart(tmp_path)

    def test_a_heart_that_beats_at_each_position_for_itself_tells_its_phases(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"TriggerTime": 30 * v + 9 * k}, volumes=4)
        require_told_apart(tmp_path, 4)

    def test_a_heart_that_slows_down_does_not_contradict_numbers(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"TriggerTime": (30 + 5 * k) * v, "InstanceNumber": 4 * k + v}, volumes=4)
        require_told_apart(tmp_path, 4)

    def test_a_breath_does_not_contradict_numbers(self, tmp_path: Path):
        lots = random.Random(3)
        write(tmp_path, lambda v, k: {"TriggerTime": lots.randrange(900), **in_order(v, k)}, volumes=3)
        require_told_apart(tmp_path, 3)

    def test_packages_that_were_scanned_one_after_the_other_are_one_volume(self, tmp_path: Path):
        """Every other slice at all times, then the slices between: times and acquisitions begin anew."""
        write(
            tmp_path,
            lambda v, k: {
                "AcquisitionTime": time_of(36000 + 100 * (k % 2) + 4 * v + 0.5 * k),
                "AcquisitionNumber": 1 + v + 2 * (k % 2),
            },
        )
        require_told_apart(tmp_path)

    def test_acquisitions_that_count_slices_are_no_several_scans(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"AcquisitionNumber": v * SLICES + k + 1})
        require_told_apart(tmp_path)


class TestWhatTellsNothing:
    def test_two_reconstructions_of_one_scan_are_refused(self, tmp_path: Path):
        """One number and one time, and only the names of the files differ."""
        write(
            tmp_path, lambda v, k: {"InstanceNumber": k + 1, "AcquisitionTime": "101010", "ConvolutionKernel": "AB"[v]}
        )
        require_untold(tmp_path, "nothing in them grows")

    def test_volumes_that_are_numbered_in_opposite_directions_are_refused(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"InstanceNumber": k + 1 if v else SLICES - k})
        require_untold(tmp_path, "nothing in them grows")

    def test_times_and_numbers_that_disagree_are_refused(self, tmp_path: Path):
        write(
            tmp_path,
            lambda v, k: {"AcquisitionTime": time_of(36000 - 10 * v + k), "InstanceNumber": v * SLICES + k + 1},
        )
        require_untold(tmp_path, "the time and InstanceNumber give them different orders")

    def test_numbers_drawn_by_lot_are_refused(self, tmp_path: Path):
        lots = random.Random(1).sample(range(100), 2 * SLICES)
        write(tmp_path, lambda v, k: {"InstanceNumber": lots[v * SLICES + k]})
        require_untold(tmp_path, "nothing in them grows")

    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            (lambda v, k: {"TemporalPositionIdentifier": v + 1, **in_order(v, k)}, "the same TemporalPosition"),
            (lambda v, k: {"AcquisitionNumber": v + 1}, "the same AcquisitionNumber"),
            (lambda v, k: {"AcquisitionTime": time_of(36000 + 4 * v + 0.5 * k)}, "nothing in them grows"),
            (in_order, "nothing in them grows"),
            (lambda v, k: {"InstanceNumber": 3 * k + v + 1}, "nothing in them grows"),
        ],
        ids=["positions", "acquisitions", "times", "numbers by volume", "numbers by position"],
    )
    def test_positions_that_have_lost_slices_of_unlike_volumes_are_refused(
        self, tmp_path: Path, fields: Fields, why: str
    ):
        write(tmp_path, fields, volumes=3, without=[(k % 3, k) for k in range(SLICES)])
        require_untold(tmp_path, why)

    def test_positions_that_begin_with_unlike_volumes_are_refused(self, tmp_path: Path):
        """Every other position lacks the first one, the rest lack the last one: all steps are the same."""
        write(tmp_path, in_order, volumes=3, without=[(2 * (k % 2), k) for k in range(SLICES)])
        require_untold(tmp_path, "nothing in them grows")

    def test_acquisitions_that_positions_do_not_share_refuse_their_volume(self, tmp_path: Path):
        """The numbers would do, but one position holds another acquisition than the others."""
        write(tmp_path, lambda v, k: {"AcquisitionNumber": 3 if (v, k) == (1, 2) else v + 1, **in_order(v, k)})
        assert volumes_in(taken(tmp_path, time_index=0)) == [0]
        assert "several AcquisitionNumbers" in reason(tmp_path, time_index=1)

    def test_temporal_positions_that_positions_do_not_share_refuse_their_volume(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"TemporalPositionIdentifier": 3 if (v, k) == (1, 2) else v, **in_order(v, k)})
        assert volumes_in(taken(tmp_path, time_index=0)) == [0]
        assert "that volume have several temporal positions" in reason(tmp_path, time_index=1)

    def test_an_echo_can_be_chosen_all_the_same(self, tmp_path: Path):
        """Two of each, and only the echoes are told apart."""
        write(tmp_path, lambda v, k: {"EchoTime": 2.5 + v // 2, "InstanceNumber": k}, volumes=4)
        assert "Or choose --echo 1 (2.5 ms), 2 (3.5 ms)" in reason(tmp_path)


class TestPartsOfOtherWeighting:
    """One slice a position, and yet no one volume."""

    HALF = staticmethod(lambda v, k: k + v / 2)
    BEHIND = staticmethod(lambda v, k: k + v * SLICES)

    @pytest.mark.parametrize("height", [HALF, BEHIND], ids=["half a slice off", "one behind the other"])
    @pytest.mark.parametrize(
        ("fields", "says", "choice"),
        [
            (lambda v, k: {"EchoTime": 10 + 70 * v}, "--echo 1 (10 ms), 2 (80 ms)", {"echo": 2}),
            (lambda v, k: {"DiffusionBValue": 1000.0 * v}, "--b-value 0, 1000", {"b_value": 1000}),
        ],
        ids=["echoes", "b-values"],
    )
    def test_they_are_refused_until_one_is_chosen(
        self, tmp_path: Path, fields: Fields, says: str, choice: dict, height: Callable
    ):
        write(tmp_path, fields, height=height)
        assert says in reason(tmp_path)
        assert says in reason(tmp_path, time_index=0)
        series = taken(tmp_path, **choice)
        assert volumes_in(series) == [1]
        assert dict(series.chosen) == choice
        assert "6 of the 12 positions" in series.notes[0]

    def test_weightings_that_half_of_the_headers_leave_out_are_refused(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"DiffusionBValue": 1000.0} if v else {}, height=self.BEHIND)
        assert "several b-values" in reason(tmp_path)

    def test_noise_of_echo_times_and_b_values_is_no_weighting(self, tmp_path: Path):
        write(
            tmp_path,
            lambda v, k: {"EchoTime": 80 + 0.1 * (k % 2), "DiffusionBValue": 999.5 + 0.5 * (k % 2)},
            volumes=1,
        )
        assert taken(tmp_path).notes == ()

    def test_neither_is_an_attribute_of_diffusion_that_is_absent_or_zero(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"DiffusionBValue": 0.0} if k % 2 else {}, volumes=1)
        assert taken(tmp_path).notes == ()

    @pytest.mark.parametrize(("height", "noted"), [(HALF, True), (BEHIND, False)], ids=["half a slice off", "behind"])
    def test_acquisitions_that_make_one_stack_are_one_scan(self, tmp_path: Path, height: Callable, *, noted: bool):
        """Packages of slices take turns, which is noted; parts of a CT lie one behind the other, as is usual."""
        write(tmp_path, lambda v, k: {"AcquisitionNumber": v + 1, "SliceThickness": 1.25}, height=height)
        series = taken(tmp_path)
        assert len(series.frames) == 2 * SLICES
        assert ["packages" in note for note in series.notes] == [True] * noted

    def test_acquisitions_of_slices_that_overlap_by_half_are_two_scans(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"AcquisitionNumber": v + 1}, height=self.HALF)
        assert "every 1.25 mm, and each of them is said to be 2.5 mm thick" in reason(tmp_path)

    def test_an_acquisition_a_slice_is_one_scan(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"AcquisitionNumber": k + 1}, volumes=1)
        assert taken(tmp_path).notes == ()

    def test_moments_that_take_turns_are_refused_with_their_distance(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"TemporalPositionIdentifier": v}, height=lambda v, k: k + 0.008 * v)
        assert "as near as 0.02 mm: volumes moved against each other lie in one series" in reason(tmp_path)

    def test_a_volume_that_ends_before_the_others_is_taken_with_a_note(self, tmp_path: Path):
        write(tmp_path, lambda v, k: {"DiffusionBValue": 1000.0 * v}, without=[(1, 4), (1, 5)])
        assert "Choose one: --b-value 0, 1000" in reason(tmp_path)
        (note,) = taken(tmp_path, b_value=1000).notes
        assert "4 of the 6 positions" in note
        assert "positions" not in taken(tmp_path, b_value=0).notes[0]
