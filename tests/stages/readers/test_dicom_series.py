"""Triage of DICOM folders: which files make a volume, and why the others do not."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, SegmentationStorage, SurfaceSegmentationStorage, VLPhotographicImageStorage
from synthetic.codecs import compress, cut_pixels
from synthetic.enhanced import enhanced
from synthetic.folders import blank_uids, hospital, on_disc, write_objects
from synthetic.four_d import FOUR_D, b_values, echoes, four_d, time_points
from synthetic.instances import AXIAL, CORONAL, Identity, lattice, position
from synthetic.irregular import (
    copies,
    localizer,
    missing_slices,
    mixed_matrix_sizes,
    mixed_orientations,
    mixed_spacing,
    one_position,
    too_few,
    uneven_spacing,
)
from synthetic.kinds import radiograph
from synthetic.private import CLOCK, DAY, UID_ROOT, plant_file
from synthetic.series import blank, stored_ct, stored_mr, write_series

from samkit.stages.readers.dicom import read_series
from samkit.stages.readers.dicom_series import DicomFolder, Series, VolumeChoice, triage


def taken(folder: Path, **choice) -> list[Series]:
    found = triage(folder, VolumeChoice(**choice))
    return [finding.series for finding in found.findings if finding.series is not None]


def refusals(folder: Path, **choice) -> list[str]:
    found = triage(folder, VolumeChoice(**choice))
    return [finding.reason for finding in found.findings if finding.reason is not None]


def words_of(found: DicomFolder) -> str:
    """Everything that may be printed or stored of a triage, but for paths."""
    notes = [note for finding in found.findings if finding.series is not None for note in finding.series.notes]
    reasons = [finding.reason or "" for finding in found.findings] + [files.reason for files in found.refused]
    table = [f"{finding.modality} {finding.number}" for finding in found.findings]
    return "\n".join([*notes, *reasons, *table])


class TestGroups:
    def test_two_series_in_one_folder_are_two(self, tmp_path: Path):
        first = write_series(tmp_path, name=lambda k, _: f"a{k}")
        second = write_series(tmp_path, name=lambda k, _: f"b{k}", identity=Identity(series=4))
        assert [series.paths for series in taken(tmp_path)] == [first.paths, second.paths]

    def test_one_series_may_lie_in_several_folders(self, tmp_path: Path):
        answer = write_series(tmp_path, name=lambda k, _: f"{k % 2}/{k}")
        assert [series.paths for series in taken(tmp_path)] == [answer.paths]

    @pytest.mark.parametrize("other", [Identity(study="2"), Identity(patient="another")], ids=["studies", "patients"])
    def test_one_series_uid_in_two_studies_or_patients_is_two_series(self, tmp_path: Path, other: Identity):
        """As careless anonymisers leave it: the two would look like a series in time."""
        options = {"SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.4"}
        write_series(tmp_path / "a", **options)
        write_series(tmp_path / "b", identity=other, **options)
        first, second = taken(tmp_path)
        assert {len(first.frames), len(second.frames)} == {6}
        assert [first.uid, second.uid] == [name_of(tmp_path / folder) for folder in ("a", "b")]
        assert first.uid != second.uid
        assert first.series_uid == second.series_uid == "1.2.3"

    def test_two_patients_without_uids_in_one_folder_are_two_series(self, tmp_path: Path):
        for patient in ("one", "other"):
            write_series(
                tmp_path,
                change=blank("SeriesInstanceUID", "StudyInstanceUID"),
                identity=Identity(patient=patient),
                name=lambda k, _, patient=patient: f"{patient}{k}",
            )
        first, second = taken(tmp_path)
        assert first.uid != second.uid

    def test_a_ct_and_a_pet_under_one_uid_are_two_series(self, tmp_path: Path):
        for n, modality in enumerate(("CT", "PT")):
            write_series(
                tmp_path,
                stored=stored_ct(),
                modality=modality,
                affine_lps=lattice(origin_mm=position(AXIAL, 6 * n)),
                name=lambda k, _, n=n: f"{n}{k}",
                part=lambda k, n=n: f"{n}{k}",
                SeriesInstanceUID="1.2.3",
            )
        first, second = taken(tmp_path)
        assert (first.modality, second.modality) == ("CT", "PT")
        assert first.uid != second.uid
        assert [first.uid, second.uid] == [name_of(one.paths) for one in (first, second)]
        assert "one of 2 stacks in one series, which differ in modality" in first.notes[-1]

    def test_series_without_uids_in_one_folder_are_told_by_their_frames_of_reference(self, tmp_path: Path):
        for n in range(2):
            write_series(
                tmp_path,
                change=blank("SeriesInstanceUID", "StudyInstanceUID"),
                affine_lps=lattice(origin_mm=position(AXIAL, 6 * n)),
                name=lambda k, _, n=n: f"{n}{k}",
                FrameOfReferenceUID=f"1.2.{n}",
            )
        first, second = taken(tmp_path)
        assert {len(first.frames), len(second.frames)} == {6}
        assert first.uid != second.uid

    def test_inverted_slices_are_no_stack_with_others(self, tmp_path: Path):
        def change(k: int, dataset: Dataset) -> None:
            dataset.PhotometricInterpretation = "MONOCHROME1" if k > 2 else "MONOCHROME2"

        write_series(tmp_path, modality="MR", change=change)
        assert [(len(series.frames), series.inverted) for series in taken(tmp_path)] == [(3, True), (3, False)]

    @pytest.mark.parametrize("turn", [1.2e-3, 4e-3])
    def test_orientations_that_drift_are_one_stack_with_a_note(self, tmp_path: Path, turn: float):
        write_series(tmp_path, change=drift(turn))
        (series,) = taken(tmp_path)
        assert len(series.frames) == 6
        assert "the orientations of its slices differ" in series.notes[0]

    def test_a_slice_that_is_turned_a_little_too_far_refuses_all_with_numbers(self, tmp_path: Path):
        """Not as a localizer: nobody would know that the end of the stack is lacking."""

        def change(k: int, dataset: Dataset) -> None:
            dataset.ImageOrientationPatient = [1, 0.004 * (k == 5), 0, 0, 1, 0]
            dataset.Columns, dataset.Rows, dataset.PixelData = 400, 2, bytes(1600)

        write_series(tmp_path, change=change)
        (reason,) = refusals(tmp_path)
        assert "voxels at a corner" in reason
        assert "localizer" not in reason

    def test_two_stacks_at_one_place_that_are_turned_a_little_stay_two(self, tmp_path: Path):
        for n in range(2):
            turned = lattice(angles_degrees=(0, 0, 0.1 * n))
            write_series(tmp_path, affine_lps=turned, name=lambda k, _, n=n: f"{n}{k}", part=lambda k, n=n: f"{n}{k}")
        assert [len(series.frames) for series in taken(tmp_path)] == [6, 6]

    def test_a_rotating_projection_is_one_row(self, tmp_path: Path):
        for n in range(12):
            write_series(
                tmp_path,
                stored=stored_ct()[:, :, :1],
                affine_lps=lattice(angles_degrees=(0, 0, 15 * n)),
                name=lambda k, _, n=n: f"{n:02d}",
                part=lambda k, n=n: n,
            )
        (reason,) = refusals(tmp_path)
        assert "12 slices in 12 orientations: a rotating projection" in reason

    def test_blank_uids_are_told_by_folder_date_and_number_and_noted(self, tmp_path: Path):
        for folders in (True, False):
            answer = blank_uids(tmp_path / str(folders), folders=folders)
            found = taken(answer.root)
            assert [series.paths for series in found] == [one.paths for one in answer.series]
            assert all("UIDs are blank" in series.notes[0] for series in found)
            assert len({series.uid for series in found}) == 2

    def test_noise_in_cosines_and_spacing_does_not_split(self, tmp_path: Path):
        def noise(k: int, dataset: Dataset) -> None:
            dataset.ImageOrientationPatient = [1, 0.005 + (-1) ** k * 1e-5, 0, 0, 1, 0]
            dataset.PixelSpacing = [0.9, 0.8 + (-1) ** k * 1e-5]

        write_series(tmp_path, change=noise)
        assert [len(series.frames) for series in taken(tmp_path)] == [6]

    def test_spacing_that_moves_the_last_column_by_a_voxel_splits(self, tmp_path: Path):
        write_series(tmp_path, change=lambda k, dataset: setattr(dataset, "PixelSpacing", [0.9, 0.8 + 0.002 * (k > 2)]))
        assert [len(series.frames) for series in taken(tmp_path)] == [3, 3]

    def test_a_localizer_within_a_series_does_not_take_the_series_with_it(self, tmp_path: Path):
        whole = write_series(tmp_path, name=lambda k, _: f"a{k}")
        behind = lattice(origin_mm=position(AXIAL, 9))
        write_series(
            tmp_path,
            stored=stored_ct()[:, :, :2],
            affine_lps=behind,
            name=lambda k, _: f"b{k}",
            part=lambda k: f"b{k}",
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        )
        (series,) = taken(tmp_path)
        assert series.paths == whole.paths
        assert refusals(tmp_path) == ["a localizer (scout) of 2 slice(s)"]

    def test_findings_come_by_path_and_each_file_is_in_one(self, tmp_path: Path):
        answer = hospital(tmp_path)
        found = triage(tmp_path)
        assert [one.paths for one in found.findings] == sorted(one.paths for one in found.findings)
        every = [path for one in found.findings for path in one.paths]
        assert sorted(every) == sorted(path for one in answer.series for path in one.paths)


def drift(turn: float) -> Callable[[int, Dataset], None]:
    """Orientations that turn by so many radians over six slices."""

    def change(k: int, dataset: Dataset) -> None:
        sine = turn * k / 5
        dataset.ImageOrientationPatient = [1, round(sine, 6), 0, round(-sine, 6), 1, 0]

    return change


def name_of(folder: Path | Sequence[Path], **choice) -> str:
    """The name of the only volume."""
    (series,) = (one.series for one in triage(folder, VolumeChoice(**choice)).findings if one.series is not None)
    return series.uid


def instances_by_name(folder: Path, **choice) -> dict[str, frozenset[str]]:
    """What is in each volume, whatever its files are called."""
    return {series.uid: frozenset(frame.sop_uid for frame in series.frames) for series in taken(folder, **choice)}


def noise(k: int, dataset: Dataset) -> None:
    """A scanner that rounds each slice for itself, where two decimals change over: 0.005, and spacing 0.9 and 0.805."""
    dataset.ImageOrientationPatient = [1, 0.005 + (-1) ** k * 1e-5, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.9, 0.805 + (k % 3) * 1e-5]


class TestNames:
    """What names a volume, and so its id: itself, and neither its neighbours nor the names of files."""

    STACKS = pytest.mark.parametrize("make", [mixed_orientations, mixed_matrix_sizes, mixed_spacing])

    @pytest.mark.parametrize("slices", [1, 2, 3, 9], ids="{} strays".format)
    @pytest.mark.parametrize("kind", ["matrix", "orientation", "spacing"])
    def test_stray_slices_leave_the_name_of_a_volume(self, tmp_path: Path, kind: str, slices: int):
        """Few or more than its own, refused or taken."""
        whole = write_series(tmp_path, name=lambda k, _: f"b{k}")
        alone = name_of(whole.paths)
        affine = {"matrix": AXIAL, "orientation": CORONAL, "spacing": lattice((1.6, 1.8, 2.5))}[kind]
        write_series(
            tmp_path,
            stored=stored_ct((12, 14, slices) if kind == "matrix" else (20, 24, slices)),
            affine_lps=affine,
            name=lambda k, _: f"a{k}",
            part=lambda k: f"a{k}",
        )
        assert {series.paths: series.uid for series in taken(tmp_path)}[whole.paths] == alone

    @STACKS
    def test_each_stack_of_a_series_has_a_name_of_its_own_the_same_as_alone(self, tmp_path: Path, make: Callable):
        answers = make(tmp_path)
        found = {series.paths: series.uid for series in taken(tmp_path)}
        assert found == {answer.paths: name_of(answer.paths) for answer in answers}
        assert len(set(found.values())) == len(answers)

    @STACKS
    @given(shuffle=st.randoms(use_true_random=False))
    @settings(max_examples=10, deadline=None)
    def test_the_names_of_files_do_not_matter(self, tmp_path_factory, make: Callable, shuffle: random.Random):
        folder = tmp_path_factory.mktemp("series")
        make(folder)
        before = instances_by_name(folder)
        files = sorted(folder.iterdir())
        for number, path in enumerate(shuffle.sample(files, len(files))):
            path.rename(folder / f"renamed-{number:03d}")
        assert instances_by_name(folder) == before

    @given(shuffle=st.randoms(use_true_random=False))
    @settings(max_examples=10, deadline=None)
    def test_nor_do_they_where_headers_are_noisy(self, tmp_path_factory, shuffle: random.Random):
        folder = tmp_path_factory.mktemp("series")
        files = write_series(folder, change=noise).paths
        before = [(series.uid, series.affine) for series in taken(folder)]
        for number, path in enumerate(shuffle.sample(files, len(files))):
            path.rename(folder / f"renamed-{number:03d}")
        assert [(series.uid, series.affine) for series in taken(folder)] == before

    @pytest.mark.parametrize("first", range(6))
    def test_a_noisy_slice_splits_no_series_by_being_the_first(self, tmp_path: Path, first: int):
        """Two slices are within the tolerance of the others, and not of each other."""
        off = (0, 0, 8e-4, -8e-4, 0, 0)
        write_series(
            tmp_path,
            name=lambda k, _: f"{(k - first) % 6}",
            change=lambda k, dataset: setattr(dataset, "ImageOrientationPatient", [1, off[k], 0, 0, 1, 0]),
        )
        assert [len(series.frames) for series in taken(tmp_path)] == [6]

    def test_slices_that_are_copied_later_leave_the_name(self, tmp_path: Path):
        files = write_series(tmp_path).paths
        assert name_of(files[:4]) == name_of(files[2:]) == name_of(files)

    def test_stacks_that_lie_too_near_for_names_are_told_by_their_instances(self, tmp_path: Path):
        """Radial scans: a tenth of a degree from plane to plane rounds to one name."""
        for n in range(4):
            turned = lattice(angles_degrees=(0, 0, 0.1 * n))
            write_series(tmp_path, affine_lps=turned, name=lambda k, _, n=n: f"{n}-{k}", part=lambda k, n=n: f"{n}-{k}")
        before = instances_by_name(tmp_path)
        assert len(before) == 4
        for path in sorted(tmp_path.iterdir()):
            path.rename(tmp_path / f"{3 - int(path.name[0])}+{path.name}")
        assert instances_by_name(tmp_path) == before

    def test_by_their_pixels_where_instances_have_no_uid_of_their_own(self, tmp_path: Path):
        for n in range(2):
            write_series(
                tmp_path,
                seed=n,
                identity=Identity(),
                affine_lps=lattice(angles_degrees=(0, 0, 0.1 * n)),
                name=lambda k, _, n=n: f"{n}-{k}",
                SOPInstanceUID="1.2.3",
            )
        before = {series.uid: series.affine for series in taken(tmp_path)}
        assert len(before) == 2
        for path in sorted(tmp_path.iterdir()):
            path.rename(tmp_path / f"{1 - int(path.name[0])}+{path.name}")
        assert {series.uid: series.affine for series in taken(tmp_path)} == before

    def test_inverted_and_phase_images_have_names_of_their_own(self, tmp_path: Path):
        write_series(tmp_path / "a", modality="MR")
        write_series(tmp_path / "b", modality="MR", photometric="MONOCHROME1")
        write_series(tmp_path / "c", modality="MR", ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])
        assert len({name_of(tmp_path / folder) for folder in "abc"}) == 3

    def test_a_radiograph_is_named_alike_alone_and_beside_others(self, tmp_path: Path):
        radiographs(tmp_path, 3)
        before = instances_by_name(tmp_path)
        assert len(before) == 3
        for path in sorted(tmp_path.iterdir()):
            (instance,) = before[name_of(path)]
            assert instance == pydicom.dcmread(path).SOPInstanceUID

    def test_radiographs_without_uids_are_told_by_their_pixels(self, tmp_path: Path):
        radiographs(tmp_path, 3, SOPInstanceUID="")
        before = {series.paths[0].name: series.uid for series in taken(tmp_path)}
        assert len(set(before.values())) == 3
        for path in sorted(tmp_path.iterdir()):
            path.rename(tmp_path / f"{3 - int(path.stem)}+{path.name}")
        assert {series.paths[0].name[2:]: series.uid for series in taken(tmp_path)} == before

    def test_copies_of_radiographs_are_left_out_and_noted(self, tmp_path: Path):
        radiographs(tmp_path, 2)
        before = instances_by_name(tmp_path)
        shutil.copy(tmp_path / "1.dcm", tmp_path / "copy.dcm")
        assert instances_by_name(tmp_path) == before
        notes = {series.paths[0].name: series.notes for series in taken(tmp_path)}
        assert ["copies" in "".join(notes[name]) for name in ("0.dcm", "1.dcm")] == [False, True]
        every = [path for one in triage(tmp_path).findings for path in one.paths]
        assert sorted(every) == sorted(tmp_path.iterdir())


def radiographs(folder: Path, count: int, **attributes: str) -> None:
    """Several under one SeriesInstanceUID, as one examination gives them."""
    for n in range(count):
        for path in radiograph(folder / "one", n)[0].paths:
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.PatientID = "1.2.3", "1.2.4", "one"
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)
            dataset.save_as(folder / f"{n}.dcm")
        shutil.rmtree(folder / "one")


class TestFolders:
    def test_of_a_hospitals_folder_every_series_ends_as_it_should(self, tmp_path: Path):
        answer = hospital(tmp_path)
        found = triage(tmp_path)
        assert {frozenset(one.series.paths) for one in found.findings if one.series is not None} == {
            frozenset(one.paths) for one in answer.taken
        }
        assert {frozenset(one.paths) for one in found.findings if one.series is None} == {
            frozenset(one.paths) for one in answer.refused
        }
        assert {one.path for one in found.label_objects} == {
            path for kind in ("SEG", "RTSTRUCT") for path in answer.objects[kind]
        }

    def test_other_objects_are_refused_by_what_they_are(self, tmp_path: Path):
        objects = write_objects(tmp_path, write_series(tmp_path / "ct"))
        reasons = {path: files.reason for files in triage(tmp_path).refused for path in files.paths}
        says = {"SR": "report", "PR": "presentation", "KO": "key images", "DOC": "document", "ECG": "ECG"}
        says["RTDOSE"] = "dose"
        assert set(reasons) == {path for kind in says for path in objects[kind]}
        assert all(word in reasons[path] for kind, word in says.items() for path in objects[kind])

    def test_junk_is_told_where_it_is_called_dicom_and_passed_over_elsewhere(self, tmp_path: Path):
        hospital(tmp_path)
        reasons = {path.name: files.reason for files in triage(tmp_path / "export").refused for path in files.paths}
        assert reasons["empty.dcm"] == "an empty file"
        assert "git lfs pull" in reasons["pointer.dcm"]
        for name in ("short.dcm", "noise.dcm", "only magic.dcm", "magic and noise.dcm", "page.dcm"):
            assert "not readable as DICOM" in reasons[name]
        assert not {"Thumbs.db", "notes.txt", "empty", "list.csv", "key image.png", ".DS_Store"} & set(reasons)

    def test_what_only_begins_like_dicom_is_passed_over(self, tmp_path: Path):
        (tmp_path / "firmware").write_bytes(b"\x08\x00\x05\x00\x0a\x00\x00\x00" + bytes(range(256)) * 4)
        assert triage(tmp_path).empty

    def test_a_pointer_without_an_ending_is_told(self, tmp_path: Path):
        (tmp_path / "IM0001").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n" + " " * 99
        )
        assert "git lfs pull" in triage(tmp_path).refused[0].reason

    def test_a_dicomdir_is_no_row(self, tmp_path: Path):
        answer = on_disc(tmp_path / "disc")
        assert triage(answer.root).refused == []
        assert {series.paths for series in taken(answer.root)} == {one.paths for one in answer.series}

    def test_one_file_and_a_list_of_files_are_taken_too(self, tmp_path: Path):
        answer = write_series(tmp_path)
        assert len(taken(answer.paths[0])[0].frames) == 1
        (finding,) = triage(answer.paths[:3]).findings
        assert finding.series is not None
        assert finding.series.paths == answer.paths[:3]

    def test_links_to_nowhere_and_in_a_circle_are_told(self, tmp_path: Path):
        (tmp_path / "annexed").symlink_to("../.git/annex/objects/x")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        reasons = {path.name: files.reason for files in triage(tmp_path).refused for path in files.paths}
        assert "git annex get" in reasons["annexed"]
        assert "cannot be opened" in reasons["loop"]

    def test_a_file_that_may_not_be_read_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        closed = write_series(tmp_path).paths[2]
        original = Path.open

        def open_(self: Path, *arguments, **options):
            if self == closed:
                raise PermissionError(13, "Permission denied", str(self))
            return original(self, *arguments, **options)

        monkeypatch.setattr(Path, "open", open_)
        found = triage(tmp_path)
        assert [(files.paths, files.reason) for files in found.refused] == [
            ((closed,), "cannot be opened (Permission denied)")
        ]
        assert found.findings[0].series is None

    def test_a_pipe_is_passed_over(self, tmp_path: Path):
        os.mkfifo(tmp_path / "pipe")
        assert triage(tmp_path).empty

    def test_segments_are_known_by_their_class_where_the_modality_is_missing(self, tmp_path: Path):
        write_series(tmp_path, stored=stored_ct()[:, :, :1], Modality=None, SOPClassUID=SegmentationStorage)
        assert [one.reader for one in triage(tmp_path).label_objects] == ["dicom-seg"]

    def test_segments_are_known_by_their_class_under_another_modality(self, tmp_path: Path):
        write_series(tmp_path, stored=stored_ct()[:, :, :1], Modality="OT", SOPClassUID=SegmentationStorage)
        assert [one.reader for one in triage(tmp_path).label_objects] == ["dicom-seg"]

    def test_surfaces_are_refused_as_such(self, tmp_path: Path):
        def strip(k: int, dataset: Dataset) -> None:
            del dataset.Rows, dataset.Columns, dataset.PixelData

        write_series(
            tmp_path, stored=stored_ct()[:, :, :1], change=strip, Modality="SEG", SOPClassUID=SurfaceSegmentationStorage
        )
        assert "meshes" in triage(tmp_path).refused[0].reason

    def test_a_file_that_does_not_say_what_it_is_is_not_called_damaged(self, tmp_path: Path):
        def strip(k: int, dataset: Dataset) -> None:
            del dataset.Rows, dataset.Columns, dataset.PixelData

        (path,) = write_series(tmp_path, stored=stored_ct()[:, :, :1], change=strip).paths
        path.write_bytes(path.read_bytes().replace(b"\x08\x00\x16\x00UI", b"\x08\x00\x15\x00UI"))
        assert "does not say what else it is" in triage(tmp_path).refused[0].reason

    def test_a_header_that_ends_too_soon_is_called_cut_short(self, tmp_path: Path):
        (path, *_) = write_series(tmp_path).paths
        path.write_bytes(path.read_bytes()[:700])
        assert "cut short" in triage(tmp_path).refused[0].reason


class TestPositions:
    def test_a_gap_is_told_in_millimetres_after_a_file(self, tmp_path: Path):
        (answer,) = missing_slices(tmp_path)
        (reason,) = refusals(tmp_path)
        assert f"after {answer.facts['after'].name} (instance 3) the next one follows at 5 mm" in reason

    def test_uneven_distances_are_told(self, tmp_path: Path):
        uneven_spacing(tmp_path)
        assert "not evenly spaced" in refusals(tmp_path)[0]

    def test_slices_at_one_position_are_no_volume(self, tmp_path: Path):
        one_position(tmp_path)
        assert "all 6 slices lie at one position" in refusals(tmp_path)[0]

    def test_a_file_without_its_place_is_named(self, tmp_path: Path):
        answer = write_series(
            tmp_path, change=lambda k, dataset: dataset.__delattr__("PixelSpacing") if k == 3 else None
        )
        assert refusals(tmp_path)[0].startswith(f"{answer.paths[3].name} (instance 4): the header lacks PixelSpacing")

    def test_a_file_with_too_few_pixels_is_named_before_any_are_read(self, tmp_path: Path):
        answer = write_series(tmp_path)
        cut_pixels(answer.paths[2])
        assert f"{answer.paths[2].name} is cut short: 480 of 960 bytes" in refusals(tmp_path)[0]

    @pytest.mark.parametrize(("slices", "min_slices", "count"), [(2, None, 1), (2, 2, 2), (3, None, 2), (3, 4, 1)])
    def test_few_slices_beside_a_volume_are_a_scout_unless_told_otherwise(
        self, tmp_path: Path, slices: int, min_slices: int | None, count: int
    ):
        too_few(tmp_path, slices=slices)
        assert len(taken(tmp_path, min_slices=min_slices)) == count

    def test_a_study_without_a_uid_is_its_folder(self, tmp_path: Path):
        """Two slices are a scout beside six in their folder, and a scan in a folder of their own."""
        for number, (folder, slices) in enumerate((("alone", 2), ("both", 2), ("both", 6))):
            write_series(
                tmp_path / folder,
                stored=stored_ct()[:, :, :slices],
                change=blank("StudyInstanceUID"),
                identity=Identity(series=number),
                name=lambda k, _, number=number: f"{number}{k}",
            )
        found = [(series.paths[0].parent.name, len(series.frames)) for series in taken(tmp_path)]
        assert found == [("alone", 2), ("both", 6)]

    def test_frames_without_a_place_are_told_as_what_they_may_be(self, tmp_path: Path):
        def change(k: int, dataset: Dataset) -> None:
            del dataset.ImagePositionPatient
            dataset.NumberOfFrames, dataset.PixelData = 2, dataset.PixelData * 2

        write_series(tmp_path, stored=stored_ct()[:, :, :1], change=change, Modality="MG")
        assert "Tomosyntheses" in refusals(tmp_path)[0]
        assert "screen" not in refusals(tmp_path)[0].lower()

    def test_few_slices_alone_are_a_volume(self, tmp_path: Path):
        too_few(tmp_path, slices=1, alone=True)
        assert len(taken(tmp_path)) == 1

    def test_another_study_makes_no_scout(self, tmp_path: Path):
        write_series(tmp_path / "a")
        write_series(tmp_path / "b", stored=stored_ct()[:, :, :2], identity=Identity(study="2"))
        assert len(taken(tmp_path)) == 2

    def test_three_planes_are_three_stacks_and_of_two_slices_a_localizer(self, tmp_path: Path):
        localizer(tmp_path / "three", announced=False)
        three = taken(tmp_path / "three")
        assert len(three) == 3
        assert all("one of 3 stacks in one series, which differ in" in series.notes[-1] for series in three)
        assert all("orientation" in series.notes[-1] for series in three)
        for name, plane in (("a", AXIAL), ("c", CORONAL)):
            write_series(
                tmp_path / "two",
                stored=stored_ct()[:, :, :2],
                affine_lps=plane,
                name=lambda k, _, name=name: f"{name}{k}",
                part=lambda k, name=name: f"{name}{k}",
            )
        assert [reason.partition(":")[0] for reason in refusals(tmp_path / "two")] == ["mixed orientations"] * 2


class TestCopies:
    def test_copies_are_left_out_and_noted(self, tmp_path: Path):
        (answer,) = copies(tmp_path)
        (series,) = taken(tmp_path)
        assert series.paths == answer.paths
        assert "2 file(s) are copies" in series.notes[0]

    def test_a_folder_that_is_there_twice_is_one_series(self, tmp_path: Path):
        answer = write_series(tmp_path / "a")
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        assert [series.paths for series in taken(tmp_path)] == [answer.paths]

    def test_so_is_a_multi_frame_file(self, tmp_path: Path):
        (path,) = enhanced(tmp_path).paths
        shutil.copy(path, tmp_path / "z")
        assert [series.paths for series in taken(tmp_path)] == [(path,)]

    def test_an_archive_that_wrote_other_meta_information_made_a_copy_all_the_same(self, tmp_path: Path):
        answer = write_series(tmp_path)
        dataset = pydicom.dcmread(answer.paths[0])
        dataset.file_meta.SourceApplicationEntityTitle = "ARCHIVE"
        dataset.save_as(tmp_path / "z")
        assert [series.paths for series in taken(tmp_path)] == [answer.paths]

    def test_an_instance_with_two_kinds_of_pixels_is_refused(self, tmp_path: Path):
        answer = write_series(tmp_path)
        dataset = pydicom.dcmread(answer.paths[0])
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.save_as(tmp_path / "z")
        assert "one SOPInstanceUID, other pixels" in refusals(tmp_path)[0]

    def test_a_compressed_copy_is_told_as_another_header(self, tmp_path: Path):
        compress(write_series(tmp_path / "a"), tmp_path / "b", RLELossless)
        assert "another header" in refusals(tmp_path)[0]

    def test_one_instance_uid_in_all_slices_is_not_taken_for_copies(self, tmp_path: Path):
        write_series(tmp_path, SOPInstanceUID="1.2.3")
        assert [len(series.frames) for series in taken(tmp_path)] == [6]


class TestFourD:
    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (echoes, "--echo 1 (2.46 ms), 2 (4.92 ms), 3 (7.38 ms), or --time-index 0 to 2"),
            (b_values, "--b-value 0, 50, 800, or --time-index 0 to 2"),
            (lambda folder: time_points(folder, tag="TriggerTime"), "Choose one: --time-index 0 to 3"),
        ],
        ids=["echoes", "b-values", "time"],
    )
    def test_several_volumes_are_refused_with_what_can_be_typed(self, tmp_path: Path, make: Callable, says: str):
        make(tmp_path)
        (reason,) = refusals(tmp_path)
        assert reason.startswith("4-D: ")
        assert says in reason

    def test_the_choice_is_noted(self, tmp_path: Path):
        echoes(tmp_path)
        assert "echo 2 of 3 (4.92 ms)" in taken(tmp_path, echo=2)[0].notes[0]

    @pytest.mark.parametrize(
        ("make", "spellings"),
        [
            (echoes, [{"echo": 1}, {"time_index": 0}, {"echo": 1, "time_index": 0}]),
            (b_values, [{"b_value": 50}, {"time_index": 1}]),
            (
                lambda folder: b_values(folder, values=(0, 1000, 1000, 1000)),
                [{"b_value": 1000, "time_index": 1}, {"b_value": 1000.4, "time_index": 1}, {"time_index": 2}],
            ),
        ],
        ids=["echoes", "b-values", "directions"],
    )
    def test_one_volume_has_one_name_however_it_is_chosen(self, tmp_path: Path, make: Callable, spellings: list[dict]):
        make(tmp_path)
        chosen = [taken(tmp_path, **choice)[0] for choice in spellings]
        assert len({series.paths for series in chosen}) == 1
        assert len({series.uid for series in chosen}) == 1

    @pytest.mark.parametrize("name", sorted(set(FOUR_D) - {"magnitude and phase"}))
    def test_each_volume_has_a_name_of_its_own_whatever_its_files_are_called(self, tmp_path: Path, name: str):
        (answer,) = FOUR_D[name](tmp_path, 0)
        count = len(answer.volumes)
        before = [instances_by_name(tmp_path, time_index=index) for index in range(count)]
        assert len({uid for names in before for uid in names}) == count
        for number, path in enumerate(sorted(tmp_path.iterdir(), reverse=True)):
            path.rename(tmp_path / f"renamed-{number:03d}")
        assert [instances_by_name(tmp_path, time_index=index) for index in range(count)] == before

    @pytest.mark.parametrize("make", [echoes, b_values, partial(time_points, tag="AcquisitionNumber", count=3)])
    def test_an_echo_a_weighting_or_a_moment_is_named_alike_in_a_folder_of_its_own(
        self, tmp_path: Path, make: Callable
    ):
        """Sorted into folders and ingested one after the other, the second must not be taken for the first."""
        make(tmp_path)
        names = [name_of(taken(tmp_path, time_index=index)[0].paths) for index in range(3)]
        assert names == [name_of(tmp_path, time_index=index) for index in range(3)]
        assert len(set(names)) == 3

    @pytest.mark.parametrize(
        ("make", "choice", "needed"),
        [
            (echoes, {"echo": 2}, {"echo": 2}),
            (echoes, {"echo": 2, "time_index": 7, "b_value": 800}, {"echo": 2}),
            (b_values, {"b_value": 50, "echo": 3}, {"b_value": 50}),
            (echoes, {"time_index": 1}, {"time_index": 1}),
            (write_series, {"time_index": 5, "echo": 3, "b_value": 700}, {}),
        ],
    )
    def test_of_the_choice_what_was_needed_is_kept(self, tmp_path: Path, make: Callable, choice: dict, needed: dict):
        make(tmp_path)
        (series,) = taken(tmp_path, **choice)
        assert dict(series.chosen) == needed

    def test_directions_of_one_b_value_are_told_apart_by_time_after_it(self, tmp_path: Path):
        (answer,) = b_values(tmp_path, values=(0, 1000, 1000, 1000))
        assert "3 volumes" in refusals(tmp_path, b_value=1000)[0]
        (series,) = taken(tmp_path, b_value=1000, time_index=1)
        np.testing.assert_array_equal(read_series(series).values, answer.volumes[2])

    def test_noise_in_echo_times_and_b_values_is_no_choice(self, tmp_path: Path):
        def mark(dataset: Dataset, volume: int) -> None:
            dataset.EchoTime = f"{2.46 + volume + 0.001 * (dataset.InstanceNumber % 3):.3f}"
            dataset.DiffusionBValue = 800.0 * volume + 0.3 * (dataset.InstanceNumber % 3)

        four_d(tmp_path, 0, mark=mark, key="echo", choices=(2.46, 3.46))
        assert "--echo 1 (2.46 ms), 2 (3.46 ms), or" in refusals(tmp_path)[0]
        assert len(taken(tmp_path, echo=2)[0].frames) == 6
        assert len(taken(tmp_path, time_index=1)[0].frames) == 6

    @pytest.mark.parametrize(
        ("choice", "says"),
        [
            ({"echo": 4}, "there are 3 echo times"),
            ({"echo": 0}, "there are 3 echo times"),
            ({"time_index": 3}, "there are 3 volumes, 0 to 2"),
            ({"time_index": -1}, "there are 3 volumes, 0 to 2"),
        ],
    )
    def test_choices_that_are_not_there_are_refused_with_those_that_are(self, tmp_path: Path, choice: dict, says: str):
        echoes(tmp_path)
        assert says in refusals(tmp_path, **choice)[0]

    def test_a_b_value_that_is_not_there_is_refused_with_those_that_are(self, tmp_path: Path):
        b_values(tmp_path)
        assert "0, 50, 800 s/mm2" in refusals(tmp_path, b_value=400)[0]

    def test_a_choice_is_ignored_where_there_is_none_to_make(self, tmp_path: Path):
        write_series(tmp_path)
        assert len(taken(tmp_path, time_index=5, echo=3, b_value=700)) == 1

    def test_positions_with_unlike_numbers_of_slices_are_refused_with_numbers(self, tmp_path: Path):
        (answer,) = time_points(tmp_path, tag="TemporalPositionIdentifier")
        answer.paths[3].unlink()
        assert "6 positions hold between 3 and 4 slices" in refusals(tmp_path)[0]

    def test_a_volume_of_two_weightings_is_refused(self, tmp_path: Path):
        """One position has lost its b = 0 and has another b = 800 instead."""

        def mark(dataset: Dataset, volume: int) -> None:
            dataset.DiffusionBValue = 800.0 if volume or dataset.InstanceNumber == 3 else 0.0

        four_d(tmp_path, 0, mark=mark, key="b-value", choices=(0, 800), numbered=True)
        assert "several b-values" in refusals(tmp_path, time_index=0)[0]

    def test_frames_that_only_their_dimension_indices_order_come_in_that_order(self, tmp_path: Path):
        values = np.stack([stored_mr() + np.uint16(n) for n in range(2)], axis=-1)
        each = [(k, v) for k in range(6) for v in (1, 0)]
        answer = enhanced(
            tmp_path,
            stored=np.stack([values[:, :, k, v] for k, v in each], axis=-1),
            along=[k for k, _ in each],
            volume_of=[v for _, v in each],
        )
        dataset = pydicom.dcmread(answer.paths[0])
        for group in dataset.PerFrameFunctionalGroupsSequence:
            del group.FrameContentSequence[0].TemporalPositionIndex
        dataset.save_as(answer.paths[0])
        for index in range(2):
            (series,) = taken(tmp_path, time_index=index)
            np.testing.assert_array_equal(read_series(series).values, values[..., index])

    def test_phase_images_are_refused_beside_their_magnitude(self, tmp_path: Path):
        (path,) = enhanced(tmp_path / "a").paths
        (other,) = enhanced(tmp_path / "b", stored=stored_mr() + np.uint16(5), part="phase").paths
        dataset = pydicom.dcmread(other)
        item = Dataset()
        item.FrameType, item.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "T1", "NONE"], "PHASE"
        dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence = pydicom.Sequence([item])
        dataset.save_as(other)
        assert [series.paths for series in taken(tmp_path)] == [(path,)]
        assert refusals(tmp_path)[0].startswith("phase images")


class TestNotes:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"photometric": "MONOCHROME1"}, "inverted for display"),
            ({"modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "phase images, no magnitude"),
            ({"modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "R"]}, "real images, no magnitude"),
            ({"BurnedInAnnotation": "YES"}, "text in the pixels"),
            ({"BodyPartExamined": "HEAD"}, "a face"),
            ({"RescaleType": "MGML", "slope": 1, "intercept": 0}, "no Hounsfield units (RescaleType MGML)"),
            ({"PixelPaddingValue": -2000, "slope": 1, "intercept": range(6)}, "padded voxels count as measured"),
        ],
    )
    def test_what_a_user_should_know_is_said(self, tmp_path: Path, options: dict, says: str):
        write_series(tmp_path, **options)
        assert says in " ".join(taken(tmp_path)[0].notes)

    @pytest.mark.parametrize(
        "options", [{}, {"RescaleType": "HU"}, {"PixelPaddingValue": -2000, "slope": 1, "intercept": -24}]
    )
    def test_and_nothing_of_an_ordinary_series(self, tmp_path: Path, options: dict):
        write_series(tmp_path, **options)
        assert taken(tmp_path)[0].notes == ()


class TestNothingPrivate:
    def test_no_planted_string_is_in_a_reason_a_note_or_a_table(self, tmp_path: Path):
        answer = hospital(tmp_path)
        planted: set[str] = {DAY, CLOCK, UID_ROOT}
        for one in answer.series:
            for path in one.paths:
                planted |= set(plant_file(path, "ZQX"))
        found = triage(tmp_path)
        assert len(found.findings) > 8
        said = words_of(found) + repr([finding.series for finding in found.findings])
        assert not [word for word in planted if word in said]

    @pytest.mark.parametrize("keyword", ["Modality", "PhotometricInterpretation", "ImageType", "RescaleType"])
    def test_a_name_in_a_coded_string_is_not_repeated(self, tmp_path: Path, keyword: str):
        write_series(tmp_path, **{keyword: "DOE JANE"})
        assert "DOE" not in words_of(triage(tmp_path)) + repr(triage(tmp_path))

    def test_a_modality_that_dicom_does_not_know_is_none(self, tmp_path: Path):
        write_series(tmp_path, Modality="DOE")
        assert taken(tmp_path)[0].modality is None
        assert triage(tmp_path).findings[0].modality == "?"


class TestUnusualPixels:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"PhotometricInterpretation": "CMYK"}, "CMYK"),
            ({"PhotometricInterpretation": "PALETTE COLOR"}, "painted by a table"),
            ({"PhotometricInterpretation": "RGB"}, "1 sample(s)"),
            ({"SamplesPerPixel": 4}, "4 samples"),
            ({"Rows": 0}, "0 x 24 pixels"),
        ],
    )
    def test_pixels_that_are_no_scan_are_refused_with_what_they_are(self, tmp_path: Path, change: dict, says: str):
        write_series(tmp_path, **change)
        assert says in refusals(tmp_path)[0]

    def test_pixels_of_one_slice_that_are_no_scan_refuse_all(self, tmp_path: Path):
        def change(k: int, dataset: Dataset) -> None:
            if k == 4:
                dataset.PhotometricInterpretation = "PALETTE COLOR"

        write_series(tmp_path, change=change)
        assert "painted by a table" in refusals(tmp_path)[0]

    def test_a_photograph_is_no_secondary_capture(self, tmp_path: Path):
        """Its class begins like that of a capture."""
        write_series(
            tmp_path,
            stored=stored_ct()[:, :, :1],
            change=lambda k, dataset: dataset.__delattr__("ImagePositionPatient"),
            Modality="XC",
            SOPClassUID=VLPhotographicImageStorage,
        )
        (series,) = taken(tmp_path)
        assert series.affine is None

    def test_a_screen_shot_is_refused_even_with_a_place(self, tmp_path: Path):
        write_series(tmp_path, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
        assert refusals(tmp_path)[0].startswith("secondary capture")


def test_the_answers_of_a_folder_do_not_depend_on_the_order_of_its_files(tmp_path: Path):
    hospital(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())

    def summary(found: DicomFolder) -> set[tuple[frozenset[Path], bool, str]]:
        uids = (one.series.uid if one.series is not None else "" for one in found.findings)
        return {
            (frozenset(one.paths), one.series is not None, uid) for one, uid in zip(found.findings, uids, strict=True)
        }

    assert summary(triage(files)) == summary(triage(files[::-1]))


def test_an_answer_is_not_changed_by_what_lies_beside_it(tmp_path: Path):
    """Each series of a folder, alone in another folder, ends alike and has the same name."""
    answer = hospital(tmp_path / "all")
    together = {frozenset(one.paths): one for one in triage(tmp_path / "all").findings}
    for one in answer.taken:
        (alone,) = triage(one.paths).findings
        beside = together[frozenset(one.paths)]
        assert alone.series is not None
        assert beside.series is not None
        assert (alone.series.uid, alone.series.affine) == (beside.series.uid, beside.series.affine)
