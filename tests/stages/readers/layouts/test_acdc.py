"""ACDC as it is published: two labelled frames a patient, named by Info.cfg."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples.scan_folders import find, label_paths, nifti, pairs, row
from synthetic.challenges import ACDC_NAMES, write_acdc


def test_each_frame_has_its_own_label(tmp_path: Path):
    cases = write_acdc(tmp_path)
    found = find(tmp_path)
    assert found.layout == "ACDC"
    assert label_paths(found) == {case.id: case.label for case in cases}
    assert {source.id: source.image for source in found.sources} == {case.id: case.image for case in cases}


def test_the_patient_is_the_subject(tmp_path: Path):
    cases = write_acdc(tmp_path)
    assert {source.id: source.subject for source in find(tmp_path).sources} == {case.id: case.subject for case in cases}


def test_values_are_called_as_the_challenge_calls_them(tmp_path: Path):
    write_acdc(tmp_path)
    found = find(tmp_path)
    assert found.labels is not None
    assert found.labels.names == ACDC_NAMES
    assert found.label_names == {0: "background", **ACDC_NAMES}
    assert any("1 RV" in note for note in found.notes)


def test_the_cine_is_left_out_and_mentioned(tmp_path: Path):
    write_acdc(tmp_path)
    found = find(tmp_path)
    assert found.refused == []
    assert any("3 cine file(s)" in note for note in found.notes)
    assert not any("4d" in row.shown for row in found.table)


def test_the_phase_of_each_frame_is_told(tmp_path: Path):
    cases = write_acdc(tmp_path)
    found = find(tmp_path)
    for case in cases:
        told = row(found, case.image[0].relative_to(tmp_path).as_posix()).why
        assert ("end-diastole" if case.phase == "ED" else "end-systole") in told


def test_patients_of_the_test_set_are_a_named_split(tmp_path: Path):
    write_acdc(tmp_path, patients={1: (1, 3), 101: (1, 2), 150: (1, 4)})
    assert find(tmp_path).splits == {"acdc-100-50": ("patient101", "patient150")}


def test_without_the_test_set_there_is_no_split(tmp_path: Path):
    write_acdc(tmp_path)
    assert find(tmp_path).splits == {}


def test_a_frame_that_info_names_and_that_is_missing_is_refused(tmp_path: Path):
    write_acdc(tmp_path, patients={1: (1, 4)})
    (tmp_path / "training/patient001/patient001_frame04.nii.gz").unlink()
    found = find(tmp_path)
    assert list(pairs(found)) == ["patient001_frame01"]
    reasons = dict(found.refused)
    assert "end-systole is frame 4" in reasons["training/patient001/patient001_frame04.nii.gz"]
    assert "without its image" in reasons["training/patient001/patient001_frame04_gt.nii.gz"]


def test_one_patients_folder_is_enough(tmp_path: Path):
    write_acdc(tmp_path, patients={1: (1, 4)})
    assert find(tmp_path / "training/patient001").layout == "ACDC"


@pytest.mark.parametrize("name", ["p001", "patient1", "patient0001"])
def test_patients_of_other_names_are_no_acdc(tmp_path: Path, name: str):
    nifti(tmp_path / name / "scan.nii.gz")
    (tmp_path / name / "Info.cfg").write_text("ED: 1\nES: 2\n")
    assert find(tmp_path).layout == "NIfTI files"


def test_scans_beside_it_are_found_too(tmp_path: Path):
    write_acdc(tmp_path, patients={1: (1, 4)})
    nifti(tmp_path / "others/scan.nii.gz")
    found = find(tmp_path)
    assert found.layout == "ACDC and NIfTI files"
    assert len(found.sources) == 3
    assert found.sources[-1].id.startswith("v")
    assert found.labels is not None  # only ACDC's have labels, so what they mean is known
