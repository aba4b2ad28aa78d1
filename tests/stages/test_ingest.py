"""ingest through the command line: what is new, what has changed, what is refused, and that nothing is lost by it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import samkit as package
from samkit.stages.ingest import ingest, read_sources
from samkit.stages.intake.job import IngestOptions
from samkit.stages.readers.labels import parse_labels
from samkit.stages.readers.layouts import LayoutOptions, find_sources
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_dicom_series, write_nifti_pair
from samkit.store.errors import StoreError, UsageError


@pytest.fixture
def data(tmp_path, write_pair) -> Path:
    for seed, name in enumerate(("a", "b")):
        write_pair(tmp_path / "data", name, seed=seed)
    return tmp_path / "data"


def record(volume_id: str):
    return package.open_workspace().volumes[volume_id].record


def change_voxel(path: Path, value: float) -> None:
    image = nib.load(path)
    values = np.asanyarray(image.dataobj).copy()
    values[5, 5, 1] = value
    nib.save(nib.Nifti1Image(values, image.affine), path)


# -- two at once -------------------------------------------------------------------------------------


def found_in(folder: Path):
    return find_sources(folder, LayoutOptions(id_key=b"key"))


def test_names_of_labels_that_another_ingest_gave_meanwhile_are_not_lost(tmp_path):
    more, fewer = pictures_of(tmp_path / "more", 4), pictures_of(tmp_path / "fewer", 3)

    def read_while_another_ingests(job, tasks):
        list(ingest(tmp_path / "w", found_in(more), IngestOptions()))
        return read_sources(job, tasks)

    with pytest.raises(StoreError, match="another command has named the labels"):
        list(ingest(tmp_path / "w", found_in(fewer), IngestOptions(), read=read_while_another_ingests))
    workspace = package.open_workspace(tmp_path / "w")
    assert len(workspace.volumes) == 1
    assert set(workspace.label_names) == {1, 2, 3}


def pictures_of(folder: Path, values: int) -> Path:
    """Write a volume whose label has so many values, with background."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        voxels = np.arange(6 * 6 * 2).reshape(6, 6, 2) % values * (100 if kind == "images" else 1)
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.eye(4)), folder / kind / f"{folder.name}.nii.gz")
    return folder


def test_label_maps_that_were_taken_for_images_are_told_with_what_to_type(samkit, tmp_path):
    pictures_of(tmp_path / "x", 3)
    (tmp_path / "x/images").rename(tmp_path / "x/one")
    (tmp_path / "x/labels").rename(tmp_path / "x/two")
    assert samkit("ingest", tmp_path / "x").code == 0
    ended = samkit("ingest", "--labels-from", tmp_path / "x/two")
    assert ended.code == 1
    command = re.search(r"samkit (remove v\w+), then the same command again", ended.said)[1]
    assert samkit(*command.split()).code == 0
    assert samkit("ingest", "--labels-from", tmp_path / "x/two").code == 0
    (volume,) = package.open_workspace().volumes.values()
    assert volume.record.label_values == (1, 2)


def test_another_window_than_that_of_the_volumes_there_is_told(samkit, tmp_path):
    assert samkit("ingest", pictures_of(tmp_path / "first", 3), "--window", "300/40").code == 0
    assert "a head would see both" not in samkit("ingest", tmp_path / "first", "--window", "400/40").said
    other = pictures_of(tmp_path / "second", 3)
    told = "its window is none, and that of the other volumes of its modality here 400/40: a head would see both"
    assert told in samkit("ingest", other).said
    assert "a head would see both" not in samkit("ingest", other, "--window", "400/40").said


def test_another_axis_than_that_of_the_volumes_there_is_told(samkit, tmp_path):
    assert samkit("ingest", pictures_of(tmp_path / "first", 3), "--axis", "sagittal").code == 0
    other = pictures_of(tmp_path / "second", 3)
    told = "its axis is chosen by the file, and that of the other volumes of its modality here sagittal"
    assert told in samkit("ingest", other).said
    assert "a head would see both" not in samkit("ingest", other, "--axis", "sagittal").said


def test_a_scan_that_is_there_in_other_planes_is_refused_as_that(samkit, tmp_path, write_pair):
    write_pair(tmp_path / "d", "a")
    assert samkit("ingest", tmp_path / "d", "--ids", "stem", "--axis", "sagittal").code == 0
    (tmp_path / "d").rename(tmp_path / "moved")
    ended = samkit("ingest", tmp_path / "moved", "--ids", "stem")
    assert ended.code == 3
    assert "ingested otherwise (axis sagittal -> through-plane)" in " ".join(ended.said.split())


def test_masks_that_were_predicted_are_told_where_they_are_taken_for_labels(samkit, tmp_path, write_pair):
    for seed, name in enumerate(("a", "b")):
        write_pair(tmp_path / "d", name, seed=seed)
    assert samkit("ingest", tmp_path / "d", "--ids", "stem").code == 0
    assert samkit("embed", "--size", "64").code == 0
    assert samkit("train-head", "ridge", "--volumes", "1").code == 0
    (tmp_path / "study").mkdir()
    shutil.copytree(tmp_path / "d/imagesTr", tmp_path / "study/images")
    assert samkit("predict", "latest", "--output", tmp_path / "study/masks").code == 0
    told = "this label was written by samkit predict"
    assert told in samkit("ingest", tmp_path / "study", "--ids", "stem", "--workspace", "w").said
    assert told not in samkit("ingest", tmp_path / "d", "--ids", "stem").said


# -- who is one patient --------------------------------------------------------------------------------


@pytest.fixture
def visits(tmp_path, samkit, write_pair) -> Path:
    """Two visits of a patient, ingested as one subject."""
    for seed, name in enumerate(("p00_visit0", "p00_visit1")):
        write_pair(tmp_path / "d", name, seed=seed)
    assert samkit("ingest", tmp_path / "d", "--ids", "stem", "--subject", "(p[0-9]+)_").code == 0
    return tmp_path / "d"


def subjects() -> dict[str, str]:
    return {name: volume.subject for name, volume in package.open_workspace().volumes.items()}


def test_a_subject_that_was_typed_stays_where_it_is_not_typed_again(samkit, visits):
    said = samkit("ingest", visits, "--ids", "stem").said
    assert "2 unchanged" in said
    assert "its subject p00, by --subject, is kept" in said
    assert subjects() == {"p00_visit0": "p00", "p00_visit1": "p00"}


def test_a_subject_that_was_typed_goes_on_request(samkit, visits):
    said = samkit("ingest", visits, "--ids", "stem", "--replace").said
    assert "subject p00 -> p00_visit0" in said
    assert subjects() == {"p00_visit0": "p00_visit0", "p00_visit1": "p00_visit1"}


def test_new_files_without_a_subject_beside_some_with_are_told(samkit, visits, tmp_path, write_pair):
    write_pair(tmp_path / "new", "p00_visit2", seed=7)
    said = samkit("ingest", tmp_path / "new", "--ids", "stem").said
    assert "1 new volume without --subject, which 2 of the volumes here were ingested with" in said
    said = samkit("ingest", tmp_path / "new", "--ids", "stem", "--subject", "(p[0-9]+)_").said
    assert "subject p00_visit2 -> p00" in said
    assert "without --subject" not in said
    assert set(subjects().values()) == {"p00"}


# -- more classes ------------------------------------------------------------------------------------


def test_more_classes_are_added_with_the_flag_that_the_refusal_names(samkit, tmp_path):
    assert samkit("ingest", pictures_of(tmp_path / "fewer", 3)).code == 0
    more = pictures_of(tmp_path / "more", 4)
    refused = samkit("ingest", more)
    assert refused.code == 3
    assert "--labels 1=1,2=2,3=NAME" in refused.said
    assert samkit("ingest", more, "--labels", "1=1,2=2,3=NAME").code == 0
    assert package.open_workspace().label_names == {1: "1", 2: "2", 3: "NAME"}
    assert samkit("ingest", tmp_path / "fewer").code == 0


# -- again -----------------------------------------------------------------------------------------


def test_the_same_source_again_is_unchanged_and_writes_nothing(samkit, data):
    samkit("ingest", data)
    before = {path: path.stat().st_mtime_ns for path in Path("samkit-workspace").rglob("*")}
    ended = samkit("ingest", data)
    assert ended.code == 0
    assert "2 taken (2 unchanged" in ended.said
    assert {path: path.stat().st_mtime_ns for path in Path("samkit-workspace").rglob("*")} == before


def test_changed_pixels_make_a_new_generation_that_knows_the_one_before(samkit, data):
    samkit("ingest", data)
    old = record("a")
    change_voxel(data / "imagesTr/a.nii.gz", 150)
    ended = samkit("ingest", data)
    assert ended.code == 0
    assert "a new pixels" in ended.said
    new = record("a")
    assert new.slice_digests != old.slice_digests
    assert tuple(new.predecessor["slice_digests"]) == old.slice_digests
    assert new.predecessor["ingest_recipe"] == old.ingest_recipe
    assert (Path("samkit-workspace") / old.pixels).is_dir(), "kept until gc"


def test_a_changed_label_is_reported_apart_and_changes_no_pixels(samkit, data):
    samkit("ingest", data)
    old = record("a")
    change_voxel(data / "labelsTr/a.nii.gz", 0)
    assert "a new label" in samkit("ingest", data).said
    assert record("a").slice_digests == old.slice_digests
    assert record("a").label_digest != old.label_digest


def test_a_changed_label_leaves_what_is_known_of_the_slices_before(samkit, data):
    samkit("ingest", data)
    samkit("ingest", data, "--window", "300/150")
    before = record("a").predecessor
    change_voxel(data / "labelsTr/a.nii.gz", 0)
    assert "a new label" in samkit("ingest", data, "--window", "300/150").said
    assert record("a").predecessor == before
    assert before["ingest_recipe"]["intensities"][0]["rule"] == "percentiles"


def test_slices_that_were_repaired_leave_what_is_known_of_those_before(samkit, data):
    samkit("ingest", data)
    samkit("ingest", data, "--window", "300/150")
    before = record("a").predecessor
    (Path("samkit-workspace") / record("a").pixels / "image/zarr.json").unlink()
    assert "a repaired" in samkit("ingest", data, "--window", "300/150").said
    assert record("a").predecessor == before


def test_a_changed_label_alone_makes_no_predecessor(samkit, data):
    samkit("ingest", data)
    change_voxel(data / "labelsTr/a.nii.gz", 0)
    samkit("ingest", data)
    assert record("a").predecessor is None


def test_a_dataset_that_moved_and_got_another_label_is_taken(samkit, data, tmp_path):
    samkit("ingest", data)
    data.rename(tmp_path / "moved")
    change_voxel(tmp_path / "moved/labelsTr/a.nii.gz", 0)
    ended = samkit("ingest", tmp_path / "moved")
    assert ended.code == 0
    assert "a new label" in ended.said


def test_embed_tells_the_window_that_changed_though_a_label_changed_after_it(samkit, data):
    samkit("ingest", data)
    samkit("embed", "--size", "64")
    samkit("ingest", data, "--window", "300/150")
    change_voxel(data / "labelsTr/a.nii.gz", 0)
    samkit("ingest", data, "--window", "300/150")
    said = samkit("embed", "--size", "64", "--dry-run").said
    assert "scale: percentiles -> window 300/150 in 2 of 2 volumes" in said
    assert "other pixels at the source" not in said


def test_a_changed_label_marks_the_runs_that_used_it(samkit, data):
    samkit("ingest", data)
    samkit("embed", "--size", "64")
    samkit("train-head", "linear", "--volumes", "1", "--steps", "2")
    (run,) = package.open_workspace().runs.values()
    (used,) = run.settings.drawn_volumes
    change_voxel(data / f"labelsTr/{used}.nii.gz", 0)
    samkit("ingest", data)
    assert f"the label of {used} changed" in samkit("status").said
    (entry,) = json.loads(samkit("status", "--json").out)["runs"]
    assert entry["stale"] == f"the label of {used} changed"


def test_changed_slices_mark_the_runs_that_used_them_and_are_trained_on_anew(samkit, data):
    train = ["train-head", "linear", "--volumes", "1", "--steps", "2"]
    samkit("ingest", data)
    samkit("embed", "--size", "64")
    samkit(*train)
    samkit("ingest", data, "--window", "300/150")
    assert "the slices of" in samkit("status").said
    samkit("embed", "--size", "64")
    assert "was there already" not in samkit(*train).said
    assert len(package.open_workspace().runs) == 2


def test_another_scale_of_intensity_is_a_new_generation_whose_recipe_says_so(samkit, data):
    samkit("ingest", data)
    assert "new pixels" in samkit("ingest", data, "--window", "300/150").said
    kept = record("a")
    assert kept.ingest_recipe["intensities"][0]["rule"] == "window"
    assert kept.predecessor["ingest_recipe"]["intensities"][0]["rule"] == "percentiles"


def test_more_volumes_are_added_to_those_there_are(samkit, data, write_pair):
    samkit("ingest", data)
    write_pair(data, "c", seed=7)
    assert "3 taken (2 unchanged" in samkit("ingest", data).said
    assert list(package.open_workspace().volumes) == ["a", "b", "c"]


def test_a_volume_that_is_refused_keeps_its_earlier_generation(samkit, data):
    samkit("ingest", data)
    before = record("a")
    (data / "imagesTr/a.nii.gz").write_bytes(b"torn")
    assert samkit("ingest", data).code == 3
    assert record("a") == before


# -- ids -------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path, write_pair) -> Path:
    """Another patient in a file of the same name."""
    write_pair(tmp_path / "other", "a", seed=11)
    return tmp_path / "other"


def test_an_id_that_belongs_to_another_source_is_refused_and_the_volume_stays(samkit, data, stranger):
    samkit("ingest", data)
    before = record("a")
    ended = samkit("ingest", stranger)
    assert ended.code == 3
    assert "the volume id 'a' already belongs to another source" in ended.said
    assert "--ids hash" in ended.said
    assert record("a") == before


def test_images_that_are_ingested_again_without_their_labels_keep_them(samkit, data, tmp_path):
    assert samkit("ingest", data).code == 0
    before = record("a")
    (tmp_path / "labels").mkdir()
    for label in sorted((data / "labelsTr").iterdir()):
        label.rename(tmp_path / "labels" / label.name)
    ended = samkit("ingest", data)
    assert ended.code == 0
    assert "there is no label beside it now: the one from before is kept; --replace takes it away" in ended.said
    assert record("a") == before
    assert samkit("ingest", data, "--replace").code == 0
    assert record("a").label_digest is None


def test_another_channel_of_a_case_is_refused_and_not_called_another_patient(samkit, data, tmp_path):
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / "channels" / kind).mkdir(parents=True)
    shutil.copy(data / "labelsTr/a.nii.gz", tmp_path / "channels/labelsTr/a.nii.gz")
    shutil.copy(data / "imagesTr/a.nii.gz", tmp_path / "channels/imagesTr/a_0000.nii.gz")
    shutil.copy(data / "imagesTr/b.nii.gz", tmp_path / "channels/imagesTr/a_0001.nii.gz")
    assert samkit("ingest", tmp_path / "channels", "--channel", "0").code == 0
    ended = samkit("ingest", tmp_path / "channels", "--channel", "1")
    assert ended.code == 3
    assert "'a' is in the workspace with channel 0, and this is channel 1 of it" in ended.said
    assert "two patients: ingest one of them" not in ended.said


def test_replace_takes_another_source_in_the_place_of_the_first(samkit, data, stranger):
    samkit("ingest", data)
    before = record("a")
    assert samkit("ingest", stranger, "--replace").code == 0
    assert record("a").slice_digests != before.slice_digests
    assert tuple(record("a").predecessor["slice_digests"]) == before.slice_digests


def test_hashed_ids_let_two_files_of_one_name_be_two_volumes(samkit, data, stranger):
    samkit("ingest", data, "--ids", "hash")
    assert samkit("ingest", stranger, "--ids", "hash").code == 0
    assert len(package.open_workspace().volumes) == 3


def test_a_dataset_that_has_only_moved_is_known_by_its_pixels(samkit, data, tmp_path):
    samkit("ingest", data)
    data.rename(tmp_path / "moved")
    ended = samkit("ingest", tmp_path / "moved")
    assert ended.code == 0
    assert "2 taken (2 unchanged" in ended.said


def test_two_frames_of_a_patient_are_two_volumes_of_one_subject(samkit, tmp_path, write_pair):
    for seed, name in enumerate(("patient001_frame01", "patient001_frame12", "patient002_frame01")):
        write_pair(tmp_path / "acdc", name, seed=seed)
    samkit("ingest", tmp_path / "acdc")
    volumes = package.open_workspace().volumes
    assert [volume.subject for volume in volumes.values()] == ["patient001", "patient001", "patient002"]


def test_subjects_can_be_read_from_names_by_a_rule(samkit, tmp_path, write_pair):
    for seed, name in enumerate(("scan7-x", "scan7-y")):
        write_pair(tmp_path / "d", name, seed=seed)
    samkit("ingest", tmp_path / "d", "--subject", "(scan[0-9]+)")
    assert {volume.subject for volume in package.open_workspace().volumes.values()} == {"scan7"}


def test_no_file_name_and_no_patient_of_a_dicom_series_enters_the_workspace(samkit, tmp_path):
    phantom = draw_subject(3, shape=(4, 36, 32), spacing_mm=(10.0, 6.0, 6.0))
    write_dicom_series(tmp_path / "SECRETNAME", phantom, patient_name="Doe^Jane")
    samkit("ingest", tmp_path / "SECRETNAME")
    kept = b"".join(path.read_bytes() for path in Path("samkit-workspace").rglob("*") if path.is_file())
    assert package.open_workspace().volumes
    for secret in (b"SECRETNAME", b"Doe", b"Jane", f"phantom-{phantom.seed}".encode(), b"20000101"):
        assert secret not in kept


# -- geometry --------------------------------------------------------------------------------------


def test_one_scan_as_dicom_and_in_any_orientation_gives_equal_slices(samkit, tmp_path):
    phantom = draw_subject(3, shape=(4, 36, 32), spacing_mm=(10.0, 6.0, 6.0))
    write_dicom_series(tmp_path / "dicom", phantom)
    samkit("ingest", tmp_path / "dicom", "--workspace", "dicom")
    (series,) = package.open_workspace("dicom").volumes.values()
    for orientation in ("RAS", "LPS", "LAS", "PIR"):
        write_nifti_pair(tmp_path / orientation, "scan", phantom, orientation=orientation)
        samkit("ingest", tmp_path / orientation, "--workspace", orientation)
        volume = package.open_workspace(orientation).volumes["scan"]
        assert volume.slice_digests == series.slice_digests
        assert np.array_equal(volume.label[:], phantom.label)
        assert np.allclose(volume.affine, series.affine, atol=1e-4)
        assert np.allclose(volume.spacing_mm, phantom.spacing_mm)


def test_slices_are_float16_between_0_and_1_in_display_order(samkit, data):
    samkit("ingest", data)
    volume = package.open_workspace().volumes["a"]
    image = volume.image[:]
    assert image.dtype == np.float16
    assert image.shape == (4, 1, 16, 20)
    assert (image.min(), image.max()) == (0, 1)
    assert volume.label.shape == (4, 16, 20)


def test_a_channel_of_loose_files_is_one_volume_a_case(samkit, data, tmp_path):
    (tmp_path / "loose").mkdir()
    for name in ("q1_0000", "q1_0001"):
        shutil.copy(data / f"imagesTr/{'a' if name.endswith('0') else 'b'}.nii.gz", tmp_path / f"loose/{name}.nii.gz")
    ended = samkit("ingest", tmp_path / "loose", "--channel", "1", "--ids", "stem")
    assert ended.code == 0, ended.said
    assert list(package.open_workspace().volumes) == ["q1"]
    assert record("q1").ingest_recipe["volume"] == {"channel": 1}


@pytest.fixture
def in_microns(data) -> Path:
    """The two volumes as a microscope gives them: pixels of 10 micrometres; labels written by nibabel say no units."""
    for path in data.glob("*/*.nii.gz"):
        image = nib.Nifti1Image(np.asanyarray(nib.load(path).dataobj).copy(), np.diag([-10.0, -10.0, 25.0, 1.0]))
        if path.parent.name == "imagesTr":
            image.header.set_xyzt_units("micron")
        nib.save(image, path)
    return data


def test_a_file_in_microns_is_measured_in_millimetres(samkit, in_microns):
    ended = samkit("ingest", in_microns)
    assert ended.code == 0, ended.said
    np.testing.assert_allclose(package.open_workspace().volumes["a"].spacing_mm, (0.025, 0.01, 0.01))
    assert "its header is in microns" in ended.said


def test_masks_of_a_file_in_microns_have_its_own_header(samkit, in_microns):
    samkit("ingest", in_microns)
    samkit("embed", "--size", "64")
    samkit("train-head", "linear", "--volumes", "1", "--steps", "2")
    assert samkit("predict", "latest", "-o", "masks").code == 0
    source, mask = nib.load(in_microns / "imagesTr/a.nii.gz"), nib.load("masks/a.nii.gz")
    assert mask.header.get_xyzt_units() == source.header.get_xyzt_units()
    np.testing.assert_array_equal(mask.affine, source.affine)


def test_the_plane_can_be_chosen(samkit, data):
    samkit("ingest", data, "--axis", "coronal")
    assert package.open_workspace().volumes["a"].image.shape == (16, 1, 4, 20)


def test_ingest_of_the_real_hippocampus_takes_every_volume(samkit, shared_data):
    ended = samkit("ingest", shared_data / "hippocampus")
    assert ended.code in (0, 3)
    assert package.open_workspace().label_names


# -- labels that came by --labels-from, when their images are ingested again ------------------------


@pytest.fixture
def cube(samkit, tmp_path, write_pair) -> Path:
    """A folder with a cube in the workspace, and its label from elsewhere; each plane of it has as many voxels."""
    write_pair(tmp_path / "cube", "a", shape=(20, 20, 20), affine=np.diag([-1.0, -1.0, 1.0, 1.0]))
    (tmp_path / "cube/labelsTr").rename(tmp_path / "labels")
    samkit("ingest", tmp_path / "cube")
    assert samkit("ingest", "--labels-from", tmp_path / "labels").code == 0
    return tmp_path / "cube"


def label_of_a() -> np.ndarray:
    return package.open_workspace().volumes["a"].read_label()


def save_with_affine(path: Path, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(np.asanyarray(nib.load(path).dataobj).copy(), affine), path)


def test_a_label_that_is_kept_follows_the_slices_into_another_plane(samkit, cube):
    ended = samkit("ingest", cube, "--axis", "coronal")
    assert "its label from --labels-from is kept" in ended.said
    kept = label_of_a()
    samkit("ingest", "--labels-from", cube.parent / "labels")
    np.testing.assert_array_equal(kept, label_of_a())
    bright = np.asarray(package.open_workspace().volumes["a"].image[:, 0], np.float32) > 0.8
    assert np.count_nonzero(bright & (kept == 1)) > 0.9 * np.count_nonzero(bright)


def test_a_label_that_is_kept_follows_the_slices_of_an_image_that_is_no_cube(samkit, data, tmp_path):
    (data / "labelsTr").rename(tmp_path / "labels")
    samkit("ingest", data)
    samkit("ingest", "--labels-from", tmp_path / "labels")
    samkit("ingest", data, "--axis", "sagittal")
    kept = label_of_a()
    assert kept.shape == record("a").shape[:1] + record("a").shape[2:]
    samkit("ingest", "--labels-from", tmp_path / "labels")
    np.testing.assert_array_equal(kept, label_of_a())


def test_a_kept_label_is_refused_where_the_header_was_saved_with_another_orientation(samkit, cube):
    before = record("a")
    save_with_affine(cube / "imagesTr/a.nii.gz", np.diag([1.0, -1.0, 1.0, 1.0]))
    ended = samkit("ingest", cube)
    assert ended.code == 3
    assert "came by --labels-from and was drawn on another grid" in ended.said
    assert record("a") == before


def test_a_kept_label_stays_where_the_header_differs_by_rounding_alone(samkit, cube):
    moved = np.diag([-1.0, -1.0, 1.0, 1.0])
    moved[0, 3] = 0.005
    save_with_affine(cube / "imagesTr/a.nii.gz", moved)
    assert "its label from --labels-from is kept" in samkit("ingest", cube).said


def test_what_the_refusal_of_a_kept_label_says_works(samkit, cube):
    for folder in (cube / "imagesTr", cube.parent / "labels"):
        save_with_affine(folder / "a.nii.gz", np.diag([1.0, -1.0, 1.0, 1.0]))
    assert "samkit remove a, then this command again" in samkit("ingest", cube).said
    assert samkit("remove", "a").code == 0
    assert samkit("ingest", cube).code == 0
    assert not record("a").label_digest
    assert samkit("ingest", "--labels-from", cube.parent / "labels").code == 0
    assert np.count_nonzero(label_of_a())


def test_another_patient_in_a_file_of_that_name_is_refused_as_such_and_not_for_the_kept_label(samkit, cube, stranger):
    (stranger / "labelsTr").rename(stranger.parent / "stranger-labels")
    said = samkit("ingest", stranger).said
    assert "the volume id 'a' already belongs to another source" in said
    assert "another grid" not in said


def test_a_damaged_label_is_written_anew_by_giving_it_again(samkit, cube):
    before = record("a")
    shutil.rmtree(Path("samkit-workspace") / before.pixels / "label")
    assert "--labels-from LABELS" in samkit("verify").said
    ended = samkit("ingest", cube)
    assert ended.code == 3
    assert "Give it again: samkit ingest --labels-from LABELS" in ended.said
    assert "a repaired" in samkit("ingest", "--labels-from", cube.parent / "labels").said
    assert record("a") == before
    assert samkit("verify").code == 0


def test_a_damaged_label_of_a_volume_in_a_pack_is_written_anew_by_giving_it_again(samkit, pictures):
    (pictures / "labelsTr").rename(pictures.parent / "labels")
    samkit("ingest", pictures)
    samkit("ingest", "--labels-from", pictures.parent / "labels")
    shutil.rmtree(Path("samkit-workspace") / record("p1").pixels / "label")
    assert samkit("ingest", "--labels-from", pictures.parent / "labels").said.count(" repaired ") == 4
    assert samkit("verify").code == 0


def test_slices_and_a_label_that_are_both_gone_come_back_as_the_refusal_says(samkit, cube):
    shutil.rmtree(Path("samkit-workspace") / record("a").pixels)
    assert "first ingest this source with --replace" in samkit("ingest", cube).said
    samkit("ingest", cube, "--replace")
    assert samkit("ingest", "--labels-from", cube.parent / "labels").code == 0
    assert samkit("verify").code == 0


# -- a kill or a full disk -------------------------------------------------------------------------


def test_what_was_taken_before_a_failure_counts_and_the_same_command_goes_on(samkit, data, monkeypatch):
    from samkit.stages.intake import volume as stage

    real, written = stage.write_pixels, []

    def full_at_the_second(*arguments):
        if written:
            raise OSError(28, "No space left on device", "slices")
        written.append(arguments)
        return real(*arguments)

    with monkeypatch.context() as disk:
        disk.setattr(stage, "write_pixels", full_at_the_second)
        assert samkit("ingest", data).code == 1
    assert list(package.open_workspace().volumes) == ["a"]
    assert "2 taken (1 unchanged" in samkit("ingest", data).said


# -- label names -----------------------------------------------------------------------------------


def test_names_come_from_dataset_json(samkit, tmp_path, write_pair):
    write_pair(tmp_path / "d", "a")
    described = {
        "labels": {"0": "background", "1": "spleen"},
        "modality": {"0": "MR"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    }
    (tmp_path / "d/dataset.json").write_text(json.dumps(described))
    samkit("ingest", tmp_path / "d")
    assert package.open_workspace().label_names == {1: "spleen"}


def test_labels_without_names_are_called_by_their_numbers(samkit, tmp_path, write_pair):
    write_pair(tmp_path / "d", "a", label_value=3)
    samkit("ingest", tmp_path / "d")
    assert package.open_workspace().label_names == {3: "3"}


def test_labels_that_come_later_name_a_workspace_that_had_none(samkit, tmp_path, write_pair):
    write_pair(tmp_path / "d", "a", label=False)
    samkit("ingest", tmp_path / "d")
    shutil.rmtree(tmp_path / "d/imagesTr")
    write_pair(tmp_path / "d", "a")
    assert samkit("ingest", tmp_path / "d", "--labels", "1=organ").code == 0
    assert package.open_workspace().volumes["a"].label_names == {1: "organ"}


@given(
    names=st.dictionaries(
        st.integers(0, 300),
        st.from_regex(r"[A-Za-z][A-Za-z0-9 _.-]{0,12}[A-Za-z0-9]", fullmatch=True),
        min_size=1,
        max_size=6,
    ).filter(lambda names: len(set(names.values())) == len(names))
)
@settings(max_examples=60, deadline=None)
def test_names_that_are_written_as_a_flag_are_read_back(names):
    read = parse_labels(",".join(f"{value}={name}" for value, name in names.items())).names
    assert read == {value: name for value, name in names.items() if value != 0}


@given(text=st.text(max_size=20).filter(lambda text: "=" not in text))
@settings(max_examples=60, deadline=None)
def test_a_text_without_an_equals_sign_names_nothing(text):
    with pytest.raises(UsageError):
        parse_labels(text)


# -- what a second ingest may and may not change -----------------------------------------------------


def test_numbers_may_be_given_names_by_ingesting_the_dataset_again(samkit, data):
    samkit("ingest", data)
    assert samkit("ingest", data, "--labels", "1=tumour").code == 0
    assert package.open_workspace().label_names == {1: "tumour"}


def test_names_stay_once_a_run_was_trained_on_them(samkit, data):
    samkit("ingest", data)
    samkit("embed", "--size", "64")
    samkit("train-head", "linear", "--volumes", "1", "--steps", "2")
    ended = samkit("ingest", data, "--labels", "1=tumour")
    assert ended.code == 1
    assert package.open_workspace().label_names == {1: "1"}


def test_a_source_that_is_there_under_another_id_is_refused(samkit, data):
    samkit("ingest", data)
    before = list(package.open_workspace().volumes)
    ended = samkit("ingest", data / "imagesTr/a.nii.gz")
    assert ended.code == 3
    assert "this source is in the workspace already, as a" in ended.said
    assert list(package.open_workspace().volumes) == before


def test_the_same_slices_under_another_subject_are_pointed_out(samkit, data):
    for kind in ("imagesTr", "labelsTr"):
        shutil.copy(data / kind / "a.nii.gz", data / kind / "z.nii.gz")
    said = samkit("ingest", data).said
    assert "the same slices as a of another subject" in said
    assert "1 volume with the slices of another one here" in said


def test_a_volume_whose_pixels_were_lost_is_written_anew(samkit, data):
    samkit("ingest", data)
    volume = package.open_workspace().volumes["a"]
    shutil.rmtree(package.open_workspace().path / volume.record.pixels)
    assert "repaired" in samkit("ingest", data).said
    assert package.open_workspace().volumes["a"].intact()


def test_what_changed_in_the_scale_is_said(samkit, data):
    samkit("ingest", data)
    assert "scale: percentiles -> window 300/150" in samkit("ingest", data, "--window", "300/150").said


def test_a_window_that_the_values_hardly_cover_is_refused(samkit, data):
    ended = samkit("ingest", data, "--window", "90000/40")
    assert ended.code == 3
    assert "one flat grey" in ended.said


def test_two_ingests_at_once_lose_no_volume(data):
    from concurrent.futures import ThreadPoolExecutor

    from samkit.store.workspace import Workspace

    workspace = Workspace.create(data.parent / "two")
    one = next(iter(_ingested(data).volumes.values())).record

    def commit(number):
        Workspace(workspace.path).commit_volumes([dataclasses.replace(one, id=f"v{number}")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(commit, range(24)))
    assert len(Workspace(workspace.path).volumes) == 24


# -- volumes of one slice --------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Four labelled images of one slice, each of another size."""
    for seed in range(4):
        values = np.random.default_rng(seed).normal(100, 10, (20 + seed, 16, 1)).astype(np.float32)
        mask = np.zeros(values.shape, np.uint8)
        mask[4 + seed : 12, 3:10] = 1
        values[mask > 0] += 120
        for kind, content in (("imagesTr", values), ("labelsTr", mask)):
            (tmp_path / "pictures" / kind).mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(content, np.diag([-1.5, -1.5, 5.0, 1.0]))
            nib.save(image, tmp_path / "pictures" / kind / f"p{seed}.nii.gz")
    return tmp_path / "pictures"


def test_volumes_of_one_slice_share_a_folder_and_those_of_more_have_their_own(samkit, pictures, write_pair):
    write_pair(pictures, "tall", seed=9)
    assert "5 taken (0 unchanged" in samkit("ingest", pictures).said
    volumes = package.open_workspace().volumes
    assert len({volumes[f"p{seed}"].record.pixels for seed in range(4)}) == 1
    assert [volumes[f"p{seed}"].record.plane for seed in range(4)] == [0, 1, 2, 3]
    assert volumes["tall"].record.plane is None
    assert all(volume.intact() for volume in volumes.values())


def test_volumes_of_one_slice_hold_what_they_would_hold_alone(samkit, pictures):
    samkit("ingest", pictures)
    for seed in range(4):
        alone = pictures.parent / f"alone{seed}"
        for kind in ("imagesTr", "labelsTr"):
            (alone / kind).mkdir(parents=True)
            shutil.copy(pictures / kind / f"p{seed}.nii.gz", alone / kind / f"p{seed}.nii.gz")
        samkit("ingest", alone, "--workspace", f"w{seed}")
        one = package.open_workspace(f"w{seed}").volumes[f"p{seed}"]
        packed = package.open_workspace().volumes[f"p{seed}"]
        assert packed.slice_digests == one.slice_digests
        assert packed.record.shape == one.record.shape
        np.testing.assert_array_equal(packed.read_slice(0), one.read_slice(0))
        np.testing.assert_array_equal(packed.read_label(), one.read_label())


def test_packed_volumes_again_are_unchanged(samkit, pictures):
    samkit("ingest", pictures)
    before = {path: path.stat().st_mtime_ns for path in Path("samkit-workspace").rglob("*")}
    assert "4 taken (4 unchanged" in samkit("ingest", pictures).said
    assert {path: path.stat().st_mtime_ns for path in Path("samkit-workspace").rglob("*")} == before


def test_a_packed_volume_that_changed_goes_into_a_new_pack_and_the_others_stay_where_they_are(samkit, pictures):
    samkit("ingest", pictures)
    before = {seed: record(f"p{seed}") for seed in range(4)}
    image = nib.load(pictures / "imagesTr/p1.nii.gz")
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[::-1].copy(), image.affine), pictures / "imagesTr/p1.nii.gz")
    assert "p1 new pixels" in samkit("ingest", pictures).said
    assert record("p1").pixels != before[1].pixels
    assert all(record(f"p{seed}") == before[seed] for seed in (0, 2, 3))
    assert all(volume.intact() for volume in package.open_workspace().volumes.values())


def test_a_damaged_pack_is_repaired_for_the_volumes_it_hurts(samkit, pictures):
    samkit("ingest", pictures)
    (pack,) = Path("samkit-workspace/slices").iterdir()
    (pack / "image" / "0.0.0.0").unlink()
    assert samkit("verify").code == 1
    assert samkit("ingest", pictures).said.count(" repaired ") == 4
    assert samkit("verify").code == 0


def test_packed_volumes_are_embedded_and_trained_on_like_any_other(samkit, pictures):
    samkit("ingest", pictures)
    assert samkit("embed", "--size", "64").code == 0
    assert samkit("train-head", "linear", "--volumes", "1", "--steps", "2").code == 0
    assert samkit("predict", "latest", "-o", "masks").code == 0
    assert nib.load("masks/p3.nii.gz").shape == (23, 16, 1)


def _ingested(data):
    from samkit.pipeline.cli import run

    run(["ingest", str(data)])
    return package.open_workspace()
