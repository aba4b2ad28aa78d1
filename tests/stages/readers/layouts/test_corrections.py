"""Labels for volumes that are in a workspace already: by name, by the image beside them, by the series they name."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples.scan_folders import KEY, find, h5, nifti, nrrd, picture, segmentation
from synthetic.folders import write_objects
from synthetic.ircadb import PATIENTS, write_ircadb
from synthetic.label_objects import rectangle, write_rtstruct, write_seg
from synthetic.phantom import phantom
from synthetic.series import write_series

from samkit.stages.readers.layouts import Found, FoundLabels, LayoutOptions, find_labels
from samkit.store.errors import InputError, UsageError

STRANGERS = {"a": "identity of a", "b": "identity of b", "p_001": "identity of p_001"}


def labels_in(place: Path, volumes: dict[str, str], **options: object) -> FoundLabels:
    return find_labels(place, LayoutOptions(id_key=KEY, **options), volumes)


def volumes_of(found: Found) -> dict[str, str]:
    return {source.id: source.identity for source in found.sources}


def paired(found: FoundLabels) -> dict[str, str]:
    return {volume_id: shown for volume_id, _, shown in found.pairs}


class TestByName:
    @pytest.mark.parametrize("name", ["a.nii.gz", "a_gt.nii.gz", "a_seg.nii", "a_label.nii.gz", "a_mask.nii.gz"])
    def test_a_map_is_named_as_its_volume(self, tmp_path: Path, name: str):
        nifti(tmp_path / name)
        found = labels_in(tmp_path, STRANGERS)
        assert paired(found) == {"a": name}
        assert found.pairs[0][1].paths == (tmp_path / name,)
        assert found.refused == []

    def test_nnunets_predictions_and_channels_are_understood(self, tmp_path: Path):
        nifti(tmp_path / "p_001.nii.gz")
        assert paired(labels_in(tmp_path, STRANGERS)) == {"p_001": "p_001.nii.gz"}
        (tmp_path / "p_001.nii.gz").rename(tmp_path / "p_001_0000.nii.gz")
        assert paired(labels_in(tmp_path, STRANGERS)) == {"p_001": "p_001_0000.nii.gz"}

    def test_any_format_will_do(self, tmp_path: Path):
        nrrd(tmp_path / "a.nrrd")
        picture(tmp_path / "x/b.png")
        h5(tmp_path / "p_001.h5", "label")
        readers = {volume_id: label.reader for volume_id, label, _ in labels_in(tmp_path, STRANGERS).pairs}
        assert readers == {"a": "itk", "b": "picture", "p_001": "hdf5"}

    def test_named_segments_make_the_classes(self, tmp_path: Path):
        segmentation(tmp_path / "a.seg.nrrd", "liver", "aorta")
        found = labels_in(tmp_path, STRANGERS)
        assert paired(found) == {"a": "a.seg.nrrd"}
        assert found.labels is not None
        assert found.labels.names == {1: "aorta", 2: "liver"}

    def test_a_label_of_nobody_is_refused(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "c.nii.gz", tmp_path / "d_seg.nii.gz")
        found = labels_in(tmp_path, STRANGERS)
        assert paired(found) == {"a": "a.nii.gz"}
        assert [shown for shown, _ in found.refused] == ["c.nii.gz", "d_seg.nii.gz"]
        assert all("no volume of the workspace is called" in reason for _, reason in found.refused)

    def test_two_labels_of_a_volume_are_refused_until_one_is_chosen(self, tmp_path: Path):
        nifti(tmp_path / "x/a_seg.nii.gz", tmp_path / "y/a_mask.nii.gz", tmp_path / "b.nii.gz")
        found = labels_in(tmp_path, STRANGERS)
        assert paired(found) == {"b": "b.nii.gz"}
        assert "x/a_seg.nii.gz" in found.refused[0][1]
        assert "y/a_mask.nii.gz" in found.refused[0][1]
        assert paired(labels_in(tmp_path, STRANGERS, label_suffix="mask"))["a"] == "y/a_mask.nii.gz"

    def test_one_file_may_be_given(self, tmp_path: Path):
        nifti(tmp_path / "a_seg.nii.gz", tmp_path / "b.nii.gz")
        assert paired(labels_in(tmp_path / "b.nii.gz", STRANGERS)) == {"b": "b.nii.gz"}
        assert paired(labels_in(tmp_path / "a_seg.nii.gz", STRANGERS)) == {"a": "a_seg.nii.gz"}


class TestByImage:
    def test_the_images_folder_with_new_labels_in_it(self, tmp_path: Path):
        nifti(tmp_path / "scan.nii.gz")
        volumes = volumes_of(find(tmp_path))
        nifti(tmp_path / "scan_seg.nii.gz")
        found = labels_in(tmp_path, volumes)
        assert paired(found) == {next(iter(volumes)): "scan_seg.nii.gz"}

    def test_an_image_is_never_taken_for_its_own_label(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "images/b.nii.gz", tmp_path / "labels/b.nii.gz")
        volumes = volumes_of(find(tmp_path))
        found = labels_in(tmp_path, volumes)
        assert paired(found) == {"b": "labels/b.nii.gz"}
        assert found.refused == []

    def test_not_in_a_folder_without_order_either(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "b_seg.nii.gz")
        volumes = volumes_of(find(tmp_path, ids="stem"))
        assert paired(labels_in(tmp_path, volumes, ids="stem")) == {"b": "b_seg.nii.gz"}

    def test_nor_an_image_of_a_copy_of_the_dataset(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "images/b.nii.gz", tmp_path / "labels/b.nii.gz")
        assert paired(labels_in(tmp_path, STRANGERS)) == {"b": "labels/b.nii.gz"}

    def test_a_copy_of_a_research_dataset_goes_by_its_ids(self, tmp_path: Path):
        nifti(tmp_path / "copy/imagesTr/a.nii.gz", tmp_path / "copy/labelsTr/a.nii.gz")
        assert paired(labels_in(tmp_path / "copy", STRANGERS)) == {"a": "labelsTr/a.nii.gz"}

    def test_masks_of_3d_ircadb_come_with_what_they_mean(self, tmp_path: Path):
        write_ircadb(tmp_path, patients=PATIENTS[1:3])
        found = labels_in(tmp_path, volumes_of(find(tmp_path)))
        assert [volume_id for volume_id, _, _ in found.pairs] == ["3Dircadb1.5", "3Dircadb1.7"]
        assert found.labels is not None
        assert found.labels.names == {1: "liver", 2: "tumour"}
        assert found.overlap == "last"


class TestBySeries:
    def test_objects_go_by_the_series_that_they_name_without_its_images(self, tmp_path: Path):
        first = write_series(tmp_path / "images/a", seed=1)
        second = write_series(tmp_path / "images/b", seed=2)
        volumes = volumes_of(find(tmp_path / "images"))
        write_seg(tmp_path / "new/1.dcm", first, {"liver": phantom().masks["liver"]})
        write_rtstruct(tmp_path / "new/2.dcm", second, {"liver": [rectangle(2, (5, 10), (6, 12))]})
        found = labels_in(tmp_path / "new", volumes)
        a, b = (source.id for source in find(tmp_path / "images").sources)
        assert paired(found) == {a: "1.dcm", b: "2.dcm"}
        assert found.refused == []
        assert found.labels is not None
        assert found.labels.names == {1: "liver"}

    def test_objects_beside_their_images_do_too(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct")
        volumes = volumes_of(find(tmp_path))
        write_seg(tmp_path / "seg.dcm", answer, {"liver": phantom().masks["liver"]})
        assert paired(labels_in(tmp_path, volumes)) == {next(iter(volumes)): "seg.dcm"}

    def test_two_objects_of_a_series_are_refused_until_one_is_chosen(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct")
        volumes = volumes_of(find(tmp_path))
        for place in ("ct", "new"):  # beside their image, and without it
            for name in ("reader1.dcm", "reader2.dcm"):
                write_seg(tmp_path / place / name, answer, {"liver": phantom().masks["liver"]})
            found = labels_in(tmp_path / place, volumes)
            assert found.pairs == []
            assert "reader1.dcm" in found.refused[0][1]
            assert "reader2.dcm" in found.refused[0][1]
            chosen = labels_in(tmp_path / place, volumes, label_suffix="reader2")
            assert [label.paths[0].name for _, label, _ in chosen.pairs] == ["reader2.dcm"]

    def test_what_is_no_label_is_not_mentioned(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct")
        volumes = volumes_of(find(tmp_path))
        write_objects(tmp_path / "new", answer)
        found = labels_in(tmp_path / "new", volumes, label_suffix="seg")
        assert [label.paths[0].name for _, label, _ in found.pairs] == ["seg.dcm"]
        assert found.refused == []

    def test_an_object_of_another_series_is_refused(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct")
        write_seg(tmp_path / "new/seg.dcm", answer, {"liver": phantom().masks["liver"]})
        found = labels_in(tmp_path / "new", STRANGERS)
        assert found.pairs == []
        ((shown, reason),) = found.refused
        assert shown == "seg.dcm"
        assert "not in the workspace" in reason
        assert answer.series_uid not in reason


def test_a_missing_folder_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file or folder"):
        labels_in(tmp_path / "nowhere", STRANGERS)


def test_a_folder_without_labels_says_what_is_looked_for(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"samkit status.*DICOM-SEG"):
        labels_in(tmp_path, STRANGERS)
