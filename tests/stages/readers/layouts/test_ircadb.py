"""3D-IRCADb: however it was unpacked, the right masks make liver and tumour, and nothing else does."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from examples.scan_folders import find, row
from synthetic.archives import zip_folder
from synthetic.ircadb import PATIENTS, IrcadbPatient, Patient, write_ircadb

from samkit.stages.readers.archives import unpacked
from samkit.stages.readers.base import read_image, read_label
from samkit.stages.readers.labels import chosen_labels
from samkit.stages.readers.layouts import Found


def unpack(root: Path, *, keep_ending: bool = False) -> Path:
    """Unpack every zip into a folder in its place, as people do it."""
    while archives := [path for path in sorted(root.rglob("*.zip")) if path.is_file()]:
        for archive in archives:
            folder = archive.with_name(f"{archive.name}.unpacked")
            with zipfile.ZipFile(archive) as held:
                held.extractall(folder)
            archive.unlink()
            folder.rename(archive if keep_ending else archive.with_name(archive.name.removesuffix(".zip")))
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, IrcadbPatient]]:
    root = tmp_path_factory.mktemp("ircadb")
    answers = write_ircadb(root)
    return unpack(root), {answer.number: answer for answer in answers}


def source_of(found: Found, number: int):
    (source,) = [one for one in found.sources if one.id == f"3Dircadb1.{number}"]
    return source


def test_every_patient_is_a_volume_of_the_name_that_the_dataset_gave(tree):
    found = find(tree[0])
    assert found.layout == "3D-IRCADb"
    assert [source.id for source in found.sources] == [f"3Dircadb1.{number}" for number in (1, 5, 7, 11, 17, 19)]
    assert [source.subject for source in found.sources] == [source.id for source in found.sources]
    assert found.refused == []


@pytest.mark.parametrize("number", [patient.number for patient in PATIENTS])
def test_the_image_is_the_ct(tree, number: int):
    root, answers = tree
    scan = read_image(source_of(find(root), number))
    np.testing.assert_array_equal(scan.values, answers[number].ct.values)


@pytest.mark.parametrize("number", [patient.number for patient in PATIENTS])
def test_liver_and_tumour_are_what_the_dataset_means_by_them(tree, number: int):
    root, answers = tree
    found = find(root)
    source = source_of(found, number)
    annotation = read_label(source, grid=read_image(source).grid)
    assert annotation is not None
    assert found.labels is not None
    assert found.overlap is not None
    chosen = chosen_labels(annotation, found.labels, overlap=found.overlap, place="x")
    assert found.labels.names == {1: "liver", 2: "tumour"}
    np.testing.assert_array_equal(chosen.values == 2, answers[number].liver_tumour)
    np.testing.assert_array_equal(chosen.values > 0, answers[number].liver)


def test_tumours_are_those_of_the_patients_that_have_some(tree):
    _, answers = tree
    assert {number for number, answer in answers.items() if answer.liver_tumour.any()} == {1, 17, 19}


def test_what_counts_and_what_does_not_is_told_by_name(tree):
    told = " ".join(find(tree[0]).notes)
    counted, _, rest = told.partition("Never counted")
    assert "livertumor01" in counted
    assert "livertumors" in counted
    for name in ("tumor", "leftsurretumor", "rightsurretumor", "livercyst", "liverkyst", "liverkyste"):
        assert name in rest
    assert "bone" in rest  # there for the asking


def test_the_masks_of_a_patient_are_its_own_folders(tree):
    root, answers = tree
    label = source_of(find(root), 19).label
    assert label is not None
    assert label.reader == "mask-series"
    assert {name for name, _ in label.structures} == set(answers[19].masks) == set(label.names)
    for name, files in label.structures:
        assert [path.name for path in files] == [f"image_{n}" for n in range(12)]
        assert all(path.parent.name == name and "3Dircadb1.19" in path.parts for path in files)


def test_folders_of_archives_may_keep_their_ending(tmp_path: Path):
    write_ircadb(tmp_path, patients=PATIENTS[:1])
    found = find(unpack(tmp_path, keep_ending=True))
    assert (tmp_path / "3Dircadb1/3Dircadb1.1/PATIENT_DICOM.zip/PATIENT_DICOM").is_dir()
    assert [source.id for source in found.sources] == ["3Dircadb1.1"]
    assert found.sources[0].label is not None


def test_an_archive_of_the_whole_and_a_doubled_top_folder_are_nothing_special(tmp_path: Path):
    write_ircadb(tmp_path, patients=PATIENTS[:2], outer_zip=True)
    found = find(unpack(tmp_path))
    assert (tmp_path / "3Dircadb1/3Dircadb1/3Dircadb1.1").is_dir()
    assert [source.id for source in found.sources] == ["3Dircadb1.1", "3Dircadb1.5"]


@pytest.mark.parametrize("outer_zip", [False, True])
def test_archives_that_samkit_unpacks_give_the_same_volumes_every_time(tmp_path: Path, outer_zip: bool):
    write_ircadb(tmp_path / "data", outer_zip=outer_zip)
    runs = []
    for _ in range(2):
        with unpacked(tmp_path / "data", tmp_path / "scratch") as held:
            found = find(held.root, logical=held.logical, shown_root=tmp_path / "data")
            assert found.refused == []
            assert all(source.label is not None for source in found.sources)
            runs.append([(source.id, source.subject, source.identity, source.shown) for source in found.sources])
    assert runs[0] == runs[1]
    assert [volume_id for volume_id, *_ in runs[0]] == [f"3Dircadb1.{number}" for number in (1, 5, 7, 11, 17, 19)]


def test_the_archive_of_one_patient_has_its_name(tmp_path: Path):
    (answer,) = write_ircadb(tmp_path / "data", patients=PATIENTS[2:3])
    archive = zip_folder(answer.folder, tmp_path / "3Dircadb1.7.zip", keep_name=False)
    with unpacked(archive, tmp_path / "scratch") as held:
        (source,) = find(held.root, logical=held.logical, shown_root=archive).sources
        assert source.id == "3Dircadb1.7"
        assert source.label is not None


def test_a_patients_folder_twice_over_is_one_patient(tmp_path: Path):
    (answer,) = write_ircadb(tmp_path, patients=PATIENTS[2:3])
    doubled = answer.folder / answer.folder.name
    doubled.mkdir()
    shutil.move(answer.folder / "MASKS_DICOM", doubled / "MASKS_DICOM")
    (source,) = find(tmp_path).sources
    assert source.id == "3Dircadb1.7"
    assert source.label is not None


def test_a_single_patients_folder_may_be_given(tmp_path: Path):
    (answer,) = write_ircadb(tmp_path, patients=PATIENTS[2:3])
    assert [source.id for source in find(answer.folder).sources] == ["3Dircadb1.7"]


def test_folders_that_a_hospital_named_give_hashed_ids(tmp_path: Path):
    (answer,) = write_ircadb(tmp_path, patients=PATIENTS[2:3])
    answer.folder.rename(tmp_path / "Doe_Jane")
    (source,) = find(tmp_path).sources
    assert source.label is not None
    assert (source.id[0], source.subject[0]) == ("v", "s")
    assert "Doe" not in source.id + source.subject


def test_a_patient_without_masks_is_an_unlabelled_volume(tmp_path: Path):
    (answer,) = write_ircadb(tmp_path, patients=PATIENTS[2:3])
    shutil.rmtree(answer.folder / "MASKS_DICOM")
    found = find(tmp_path)
    assert [(source.id, source.label) for source in found.sources] == [("3Dircadb1.7", None)]


def test_masks_without_their_image_are_refused(tmp_path: Path):
    (answer,) = write_ircadb(tmp_path, patients=PATIENTS[2:3])
    shutil.rmtree(answer.folder / "PATIENT_DICOM")
    found = find(tmp_path)
    assert found.sources == []
    assert row(found, "3Dircadb1/3Dircadb1.7/MASKS_DICOM").decision == "refused"


def test_without_a_liver_each_structure_is_a_class(tmp_path: Path):
    write_ircadb(
        tmp_path, patients=[Patient(number=1, structures={"heart": ("liver",), "bone": ("bone",)}, packing="flat")]
    )
    found = find(tmp_path)
    assert found.labels is not None
    assert found.labels.names == {1: "bone", 2: "heart"}
    assert found.overlap is None


def test_junk_among_the_masks_is_no_mask(tmp_path: Path):
    (answer,) = write_ircadb(tmp_path, patients=PATIENTS[2:3])
    (answer.folder / "MASKS_DICOM/liver/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (answer.folder / "MASKS_DICOM/read me.txt").write_text("x")
    (source,) = find(tmp_path).sources
    assert source.label is not None
    assert not any(path.suffix in {".db", ".txt"} for path in source.label.paths)
    assert "MASKS_DICOM" not in source.label.names
