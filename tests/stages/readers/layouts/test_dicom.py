"""DICOM folders: a volume a series, and the segmentation or structure set that belongs to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples.scan_folders import find, pairs, row
from pydicom import dcmread
from synthetic.answers import Answer
from synthetic.folders import hospital
from synthetic.four_d import echoes
from synthetic.instances import AXIAL, Identity
from synthetic.irregular import tilted
from synthetic.label_objects import rectangle, write_rtstruct, write_seg
from synthetic.phantom import phantom
from synthetic.series import write_series

from samkit.stages.readers import dicom_headers
from samkit.stages.readers.dicom_series import VolumeChoice

PATIENT = Identity(seed=7)


def liver(series: Answer) -> dict[str, np.ndarray]:
    return {"liver": phantom().masks["liver"]}


def outline() -> dict[str, list]:
    return {"liver": [rectangle(k, (5, 10), (6, 12)) for k in range(1, 4)]}


def changed(path: Path, **fields: object) -> Path:
    """Write a file again with other attributes; None takes one away."""
    dataset = dcmread(path)
    for name, value in fields.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)
    return path


class TestSeries:
    def test_a_series_is_a_hashed_volume_of_a_hashed_patient(self, tmp_path: Path):
        write_series(tmp_path / "Doe^Jane/ct", identity=PATIENT)
        found = find(tmp_path)
        (source,) = found.sources
        assert found.layout == "DICOM series"
        assert (source.reader, source.modality, len(source.image)) == ("dicom", "CT", 6)
        assert source.shown == "Doe^Jane/ct"
        assert not any(word in source.id + source.subject + source.identity for word in ("Doe", "MRN"))

    def test_a_line_break_in_the_name_of_a_folder_does_not_tear_its_row(self, tmp_path: Path):
        write_series(tmp_path / "one\nof\x1b[2J" / "ct")
        assert find(tmp_path).sources[0].shown == r"one\nof\x1b[2J/ct"

    def test_it_brings_the_plan_for_reading_it(self, tmp_path: Path):
        answer = write_series(tmp_path)
        (source,) = find(tmp_path).sources
        assert source.series is not None
        assert source.image == source.series.paths == answer.paths

    def test_two_series_of_a_patient_are_one_subject(self, tmp_path: Path):
        write_series(tmp_path / "a", identity=PATIENT)
        write_series(tmp_path / "b", identity=Identity(seed=7, series=4))
        found = find(tmp_path)
        assert len({source.id for source in found.sources}) == 2
        assert len({source.subject for source in found.sources}) == 1

    def test_two_series_of_a_study_without_a_patient_are_one_subject(self, tmp_path: Path):
        write_series(tmp_path / "a", identity=PATIENT, PatientID="")
        write_series(tmp_path / "b", identity=Identity(seed=7, series=4), PatientID="")
        found = find(tmp_path)
        assert len({source.id for source in found.sources}) == 2
        (subject,) = {source.subject for source in found.sources}
        assert subject[0] == "s"
        assert subject[1:] not in found.sources[0].series.study_uid

    def test_a_subject_that_is_that_of_a_study_is_told(self, tmp_path: Path):
        write_series(tmp_path / "a", PatientID="")
        (note,) = find(tmp_path).notes
        assert note.startswith("1 DICOM series without a PatientID: their subject was taken from their study")
        assert find(tmp_path, subject_regex="a").notes == ()

    def test_two_studies_without_a_patient_are_two_subjects(self, tmp_path: Path):
        write_series(tmp_path / "a", identity=PATIENT, PatientID="")
        write_series(tmp_path / "b", identity=Identity(seed=8), PatientID="")
        assert len({source.subject for source in find(tmp_path).sources}) == 2

    def test_without_patient_and_study_each_series_is_a_subject_of_its_own(self, tmp_path: Path):
        write_series(tmp_path / "a", identity=PATIENT, PatientID="", StudyInstanceUID="")
        write_series(tmp_path / "b", identity=Identity(seed=7, series=4), PatientID="", StudyInstanceUID="")
        found = find(tmp_path)
        assert len({source.subject for source in found.sources}) == 2
        assert found.notes == ()

    def test_a_series_keeps_its_id_in_another_folder(self, tmp_path: Path):
        write_series(tmp_path / "a")
        before = find(tmp_path / "a").sources[0].id
        (tmp_path / "a").rename(tmp_path / "b")
        assert find(tmp_path / "b").sources[0].id == before

    def test_a_patient_id_is_hashed_even_where_stems_are_ids(self, tmp_path: Path):
        write_series(tmp_path / "case1")
        (source,) = find(tmp_path, ids="stem").sources
        assert source.id == "case1"
        assert source.subject[0] == "s"

    def test_series_in_one_folder_are_told_apart(self, tmp_path: Path):
        for number in (3, 4):
            identity = Identity(seed=7, series=number)
            write_series(tmp_path / "all", identity=identity, name=lambda k, _, number=number: f"{number}{k}.dcm")
        found = find(tmp_path, ids="stem")
        assert {source.id for source in found.sources} == {"all_3", "all_4"}
        assert {source.shown for source in found.sources} == {"all (series 3, 6 files)", "all (series 4, 6 files)"}

    def test_the_choice_of_a_volume_reaches_the_triage(self, tmp_path: Path):
        echoes(tmp_path, 1)
        assert "--echo" in find(tmp_path).refused[0][1]
        assert len(find(tmp_path, volume=VolumeChoice(echo=2)).sources) == 1

    def test_each_header_is_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        answer = write_series(tmp_path / "ct")
        write_seg(tmp_path / "seg.dcm", answer, liver(answer))
        read: list[Path] = []
        original = dicom_headers.read_header

        def counted(path: Path):
            read.append(path)
            return original(path)

        monkeypatch.setattr("samkit.stages.readers.dicom_series.read_header", counted)
        find(tmp_path)
        assert sorted(read) == sorted([*answer.paths, tmp_path / "seg.dcm"])


class TestTable:
    def test_every_series_and_every_other_file_has_a_row(self, tmp_path: Path):
        answer = hospital(tmp_path)
        found = find(tmp_path, label_suffix="seg")
        assert len(found.sources) == len(answer.taken)
        assert sum(row.decision == "taken" for row in found.table) == len(found.sources)
        assert sum(row.decision == "refused" for row in found.table) == len(found.refused)
        reasons = {row.shown: row.why for row in found.table if row.decision == "refused"}
        assert "report" in reasons["export/others/dose.dcm"]
        assert "empty" in reasons["export/empty.dcm"]
        assert "key image.png" not in str(found.table)

    def test_rows_are_in_the_order_of_the_paths(self, tmp_path: Path):
        hospital(tmp_path)
        places = [row.shown.partition(" (")[0] for row in find(tmp_path).table]
        assert places == sorted(places)

    def test_a_tilt_is_told_of_a_series_that_is_taken(self, tmp_path: Path):
        tilted(tmp_path / "ct", 1)
        told = row(find(tmp_path), "ct")
        assert told.decision == "taken"
        assert told.size == "24 x 20 x 6"
        assert "mm" in told.why

    def test_no_value_of_a_header_that_names_somebody_is_in_it(self, tmp_path: Path):
        answer = hospital(tmp_path)
        told = str(find(tmp_path).table)
        for series in answer.series:
            assert series.patient_id not in told
            assert series.series_uid not in told


class TestSecrets:
    def test_the_way_back_is_there_and_not_printed(self, tmp_path: Path):
        answer = write_series(tmp_path / "Doe^Jane")
        found = find(tmp_path)
        (secret,) = found.secrets
        assert (secret.id, secret.subject) == (found.sources[0].id, found.sources[0].subject)
        assert (secret.patient_id, secret.series_uid) == (answer.patient_id, answer.series_uid)
        assert secret.shown == "Doe^Jane"
        assert answer.patient_id not in repr(found)
        assert answer.series_uid not in repr(secret)


class TestLabelObjects:
    def test_a_segmentation_belongs_to_the_series_that_it_names(self, tmp_path: Path):
        write_series(tmp_path / "mr", identity=Identity(seed=7, series=9), modality="MR")
        answer = write_series(tmp_path / "ct", identity=PATIENT)
        write_seg(tmp_path / "objects/seg.dcm", answer, liver(answer))
        found = find(tmp_path)
        ct, mr = found.sources
        assert ct.label is not None
        assert (ct.label.reader, ct.label.names) == ("dicom-seg", ("liver",))
        assert ct.label.paths == (tmp_path / "objects/seg.dcm",)
        assert mr.label is None
        assert row(found, "ct").why == "label: objects/seg.dcm"
        assert found.refused == []

    def test_a_structure_set_does_too(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct", identity=PATIENT)
        write_series(tmp_path / "later", identity=Identity(seed=7, series=9))
        write_rtstruct(tmp_path / "rt.dcm", answer, outline())
        ct, later = find(tmp_path).sources
        assert ct.label is not None
        assert (ct.label.reader, ct.label.names) == ("rtstruct", ("liver",))
        assert later.label is None

    def test_classes_are_the_structures_of_all_labels(self, tmp_path: Path):
        first = write_series(tmp_path / "a/ct", seed=1)
        second = write_series(tmp_path / "b/ct", seed=2)
        write_seg(tmp_path / "a/seg.dcm", first, liver(first))
        write_rtstruct(tmp_path / "b/rt.dcm", second, {"Liver": outline()["liver"], "kidney": outline()["liver"]})
        labels = find(tmp_path).labels
        assert labels is not None
        assert [name.lower() for name in labels.names.values()] == ["kidney", "liver"]

    def test_being_named_is_enough_and_needs_no_note(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct")
        write_rtstruct(tmp_path / "rt.dcm", answer, outline())
        for n, path in enumerate(answer.paths):
            changed(path, SOPInstanceUID=f"1.2.3.{n}", FrameOfReferenceUID="1.2.4")
        assert row(find(tmp_path), "ct").why == "label: rt.dcm"

    def test_the_only_series_of_its_frame_of_reference_is_the_next_best(self, tmp_path: Path):
        answer = write_series(tmp_path / "a", seed=1)
        write_series(tmp_path / "b", seed=2)
        write_seg(tmp_path / "seg.dcm", answer, liver(answer))
        for path in answer.paths:
            changed(path, SeriesInstanceUID="1.2.3")
        found = find(tmp_path)
        assert [source.label is not None for source in found.sources] == [True, False]
        assert "frame of reference" in row(found, "a").why

    def test_then_the_series_of_the_instances_that_it_names(self, tmp_path: Path):
        answer = write_series(tmp_path / "a", identity=PATIENT)
        write_series(tmp_path / "b", identity=Identity(seed=7, series=4))  # one frame of reference, one grid
        write_rtstruct(tmp_path / "rt.dcm", answer, outline())
        for path in answer.paths:
            changed(path, SeriesInstanceUID="1.2.3")
        found = find(tmp_path)
        assert [source.label is not None for source in found.sources] == [True, False]
        assert "instances" in row(found, "a").why

    def test_then_the_only_series_on_whose_grid_it_lies(self, tmp_path: Path):
        moved = AXIAL.copy()
        moved[:3, 3] += (3.3, 1.7, 200.0)
        answer = write_series(tmp_path / "a", seed=1)
        write_series(tmp_path / "b", seed=2, affine_lps=moved)
        write_rtstruct(tmp_path / "rt.dcm", answer, outline(), references="wrong")
        found = find(tmp_path)
        assert [source.label is not None for source in found.sources] == [True, False]
        assert "grid" in row(found, "a").why

    def test_one_that_lies_on_several_is_refused_listing_them(self, tmp_path: Path):
        answer = write_series(tmp_path / "a", identity=PATIENT)
        write_series(tmp_path / "b", identity=Identity(seed=7, series=4))
        write_rtstruct(tmp_path / "rt.dcm", answer, outline(), references="absent")
        found = find(tmp_path)
        assert [source.label for source in found.sources] == [None, None]
        ((shown, reason),) = found.refused
        assert shown == "rt.dcm"
        assert "a, b" in reason
        assert row(found, "rt.dcm").modality == "RTSTRUCT"

    def test_one_that_lies_nowhere_is_refused(self, tmp_path: Path):
        answer = write_series(tmp_path / "a", seed=1)
        other = AXIAL.copy()
        other[:3, 3] += (0.0, 0.0, 500.0)
        write_series(tmp_path / "b", seed=2, affine_lps=other)
        write_rtstruct(tmp_path / "rt.dcm", answer, outline(), references="absent")
        for path in answer.paths:
            path.unlink()
        ((_, reason),) = find(tmp_path).refused
        assert "none of the 1 image series" in reason

    def test_one_without_any_image_is_refused(self, tmp_path: Path):
        answer = write_series(tmp_path / "a")
        write_seg(tmp_path / "b/seg.dcm", answer, liver(answer))
        found = find(tmp_path / "b")
        assert found.sources == []
        assert "no image series" in found.refused[0][1]

    def test_one_whose_image_was_refused_says_that_some_were(self, tmp_path: Path):
        answer = write_series(tmp_path / "a")
        write_seg(tmp_path / "seg.dcm", answer, liver(answer))
        answer.paths[2].unlink()
        found = find(tmp_path)
        assert "refused here" in dict(found.refused)["seg.dcm"]

    def test_several_of_one_image_are_refused_listing_them(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct")
        for name in ("reader1.dcm", "reader2.dcm"):
            write_seg(tmp_path / name, answer, liver(answer))
        found = find(tmp_path)
        assert found.sources == []
        ((shown, reason),) = found.refused
        assert shown == "ct"
        assert "reader1.dcm, reader2.dcm" in reason
        assert "--label-suffix reader1" in reason

    @pytest.mark.parametrize(
        ("suffix", "chosen"), [("reader2", "reader2.dcm"), ("2", "reader2.dcm"), ("seg", "seg.dcm")]
    )
    def test_the_end_of_the_name_chooses_and_the_whole_name_wins(self, tmp_path: Path, suffix: str, chosen: str):
        answer = write_series(tmp_path / "ct")
        for name in ("reader1.dcm", "reader2.dcm", "seg.dcm", "other seg.dcm"):
            write_seg(tmp_path / name, answer, liver(answer))
        assert list(pairs(find(tmp_path, label_suffix=suffix)).values()) == [chosen]

    def test_a_damaged_one_is_refused_and_the_image_taken(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct")
        write_seg(tmp_path / "seg.dcm", answer, liver(answer))
        changed(tmp_path / "seg.dcm", SegmentSequence=None, PerFrameFunctionalGroupsSequence=None)
        found = find(tmp_path)
        assert len(found.sources) + len(found.refused) == len(found.table)
        assert len(found.sources) == 1


@pytest.mark.shared
@pytest.mark.parametrize("suffix", ["rt", "non_existent_reference_rt", "invalid_reference_rt"])
def test_real_structure_sets_find_their_series(shared_data: Path, suffix: str):
    (source,) = find(shared_data / "rtstruct", label_suffix=suffix).sources
    assert source.label is not None
    assert source.label.reader == "rtstruct"
    assert source.label.paths[0].stem == suffix
