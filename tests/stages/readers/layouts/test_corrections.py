"""Labels for volumes that are in a workspace already: by name, by the image beside them, by the series they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from examples.scan_folders import KEY, find, h5, nifti, nrrd, picture, segmentation
from synthetic.folders import write_objects
from synthetic.four_d import echoes
from synthetic.ircadb import PATIENTS, write_ircadb
from synthetic.irregular import mixed_matrix_sizes, mixed_orientations, mixed_spacing
from synthetic.label_objects import rectangle, write_rtstruct, write_seg
from synthetic.phantom import phantom
from synthetic.series import stored_ct, write_series

from samkit.stages.readers.dicom_series import VolumeChoice
from samkit.stages.readers.layouts import Found, FoundLabels, KnownVolume, LayoutOptions, find_labels
from samkit.stages.readers.naming import identity_of_text
from samkit.stages.readers.nifti import grid_of_affine
from samkit.store.errors import InputError, UsageError

STRANGERS = {name: KnownVolume(identity=f"identity of {name}") for name in ("a", "b", "p_001")}


def labels_in(place: Path, volumes: dict[str, KnownVolume], **options: object) -> FoundLabels:
    return find_labels(place, LayoutOptions(id_key=KEY, **options), volumes)


def volumes_of(*found: Found) -> dict[str, KnownVolume]:
    """As the workspace knows them that they were ingested into."""
    return {
        source.id: KnownVolume(
            identity=source.identity,
            series_hash=source.series_hash,
            called=source.called,
            grid=None if source.series is None else grid_of_affine(source.series.shape, np.array(source.series.affine)),
        )
        for one in found
        for source in one.sources
    }


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


class TestByTheNameOfAnImageWhoseIdIsAHash:
    @staticmethod
    def ids(place: Path) -> dict[str, str]:
        """Volume id by path."""
        return {source.shown: source.id for source in find(place).sources}

    @pytest.mark.parametrize(
        "name", ["scan7.nii.gz", "scan7_seg.nii.gz", "scan7.seg.nrrd", "scan7_0000.nii.gz", "new/round2/scan7_mask.nii"]
    )
    def test_a_label_in_a_folder_of_its_own_finds_it(self, tmp_path: Path, name: str):
        nifti(tmp_path / "ct/scan7.nii.gz", tmp_path / "ct/scan8.nii.gz")
        place = tmp_path / "corrected" / name
        nifti(place) if place.suffix != ".nrrd" else segmentation(place, "liver")
        found = labels_in(tmp_path / "corrected", volumes_of(find(tmp_path / "ct")))
        assert paired(found) == {self.ids(tmp_path / "ct")["scan7.nii.gz"]: name}
        assert found.refused == []

    def test_it_does_when_the_images_are_gone_or_moved(self, tmp_path: Path):
        nifti(tmp_path / "ct/scan7.nii.gz", tmp_path / "corrected/scan7.nii.gz")
        volumes = volumes_of(find(tmp_path / "ct"))
        (tmp_path / "ct/scan7.nii.gz").unlink()
        assert len(labels_in(tmp_path / "corrected", volumes).pairs) == 1

    def test_a_series_is_called_as_its_folder_is(self, tmp_path: Path):
        write_series(tmp_path / "studies/case12")
        nifti(tmp_path / "corrected/case12_seg.nii.gz")
        found = labels_in(tmp_path / "corrected", volumes_of(find(tmp_path / "studies")))
        assert list(paired(found)) == [find(tmp_path / "studies").sources[0].id]

    def test_of_images_that_are_called_alike_the_folder_decides(self, tmp_path: Path):
        for patient in ("p1", "p2", "p3"):
            nifti(tmp_path / f"ct/{patient}/ct.nii.gz")
        nifti(tmp_path / "corrected/p2/ct_seg.nii.gz", tmp_path / "corrected/p3/ct_seg.nii.gz")
        ids = self.ids(tmp_path / "ct")
        found = labels_in(tmp_path / "corrected", volumes_of(find(tmp_path / "ct")))
        assert paired(found) == {ids[f"{patient}/ct.nii.gz"]: f"{patient}/ct_seg.nii.gz" for patient in ("p2", "p3")}

    def test_without_such_a_folder_none_is_guessed(self, tmp_path: Path):
        nifti(tmp_path / "ct/p1/ct.nii.gz", tmp_path / "ct/p2/ct.nii.gz", tmp_path / "corrected/ct_seg.nii.gz")
        found = labels_in(tmp_path / "corrected", volumes_of(find(tmp_path / "ct")))
        assert found.pairs == []
        ((_, reason),) = found.refused
        assert "a folder that is called as its image's" in reason
        assert "--id-map FILE" in reason

    def test_nor_among_labels_that_are_called_alike(self, tmp_path: Path):
        # The label of the patient who is here, and that of one who is not.
        nifti(tmp_path / "ct/p1/ct.nii.gz")
        nifti(tmp_path / "corrected/p1/ct_seg.nii.gz", tmp_path / "corrected/p9/ct_seg.nii.gz")
        found = labels_in(tmp_path / "corrected", volumes_of(find(tmp_path / "ct")))
        assert list(paired(found).values()) == ["p1/ct_seg.nii.gz"]
        assert [shown for shown, _ in found.refused] == ["p9/ct_seg.nii.gz"]

    def test_a_copy_of_the_dataset_elsewhere_is_known_by_its_names(self, tmp_path: Path):
        nifti(tmp_path / "here/images/a.nii.gz", tmp_path / "there/images/a.nii.gz", tmp_path / "there/labels/a.nii.gz")
        found = labels_in(tmp_path / "there", volumes_of(find(tmp_path / "here")))
        assert paired(found) == {find(tmp_path / "here").sources[0].id: "labels/a.nii.gz"}

    def test_with_another_key_nothing_is_known_and_it_is_said_what_helps(self, tmp_path: Path):
        nifti(tmp_path / "ct/scan7.nii.gz", tmp_path / "corrected/scan7.nii.gz")
        volumes = volumes_of(find(tmp_path / "ct"))
        options = LayoutOptions(id_key=b"of another user")
        ((_, reason),) = find_labels(tmp_path / "corrected", options, volumes).refused
        assert "SAMKIT_ID_KEY" in reason
        assert "--id-map FILE" in reason

    def test_a_segmentation_of_another_series_is_not_taken_for_its_name(self, tmp_path: Path):
        write_series(tmp_path / "studies/case12", seed=1)
        other = write_series(tmp_path / "elsewhere/case12", seed=2)
        write_seg(tmp_path / "corrected/case12.dcm", other, {"liver": phantom().masks["liver"]})
        found = labels_in(tmp_path / "corrected", volumes_of(find(tmp_path / "studies")))
        assert found.pairs == []
        assert "the image series that it names is not in the workspace" in found.refused[0][1]

    def test_where_the_label_lies_is_known_by_its_hash(self, tmp_path: Path):
        nifti(tmp_path / "ct/scan7.nii.gz", tmp_path / "corrected/scan7.nii.gz")
        ((_, label, _),) = labels_in(tmp_path / "corrected", volumes_of(find(tmp_path / "ct"))).pairs
        path = (tmp_path / "corrected/scan7.nii.gz").resolve()
        assert label.hashes == (identity_of_text(KEY, "path", str(path)),)


class TestByImage:
    def test_the_images_folder_with_new_labels_in_it(self, tmp_path: Path):
        nifti(tmp_path / "scan.nii.gz")
        volumes = volumes_of(find(tmp_path))
        nifti(tmp_path / "scan_seg.nii.gz")
        found = labels_in(tmp_path, volumes)
        assert paired(found) == {next(iter(volumes)): "scan_seg.nii.gz"}

    def test_an_image_is_never_taken_for_its_own_label(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "images/b.nii.gz", tmp_path / "labels/b.nii.gz")
        ids = {source.shown: source.id for source in find(tmp_path).sources}
        found = labels_in(tmp_path, volumes_of(find(tmp_path)))
        assert paired(found) == {ids["images/b.nii.gz"]: "labels/b.nii.gz"}
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

    def test_of_one_series_with_stray_slices_too(self, tmp_path: Path):
        answer = write_series(tmp_path / "ct")
        write_series(tmp_path / "ct", stored=stored_ct((9, 9, 1)), name=lambda k, _: "a", part=lambda k: "a")
        volumes = volumes_of(find(tmp_path))
        write_seg(tmp_path / "new/seg.dcm", answer, {"liver": phantom().masks["liver"]})
        assert paired(labels_in(tmp_path / "new", volumes)) == {next(iter(volumes)): "seg.dcm"}

    @pytest.mark.parametrize("of", [0, 1])
    @pytest.mark.parametrize("make", [mixed_orientations, mixed_spacing, mixed_matrix_sizes])
    def test_of_several_stacks_of_a_series_it_is_the_one_on_whose_grid_they_lie(
        self, tmp_path: Path, make: Callable, of: int
    ):
        answers = make(tmp_path / "ct")
        found = find(tmp_path / "ct")
        (owner,) = (source.id for source in found.sources if set(source.image) == set(answers[of].paths))
        write_seg(tmp_path / "new/1.dcm", answers[of], {"liver": np.ones(answers[of].values.shape, bool)})
        assert paired(labels_in(tmp_path / "new", volumes_of(found))) == {owner: "1.dcm"}
        if make is not mixed_spacing:  # contours lie on slices, whatever the pixels
            write_rtstruct(tmp_path / "newer/2.dcm", answers[of], {"liver": [rectangle(2, (5, 10), (6, 12))]})
            assert paired(labels_in(tmp_path / "newer", volumes_of(found))) == {owner: "2.dcm"}

    def test_one_that_is_called_as_another_stack_is_not_given_to_the_one_of_its_grid(self, tmp_path: Path):
        answers = mixed_orientations(tmp_path / "ct")
        found = find(tmp_path / "ct")
        (other,) = (source.id for source in found.sources if set(source.image) == set(answers[1].paths))
        write_rtstruct(tmp_path / f"new/{other}.dcm", answers[0], {"liver": [rectangle(2, (5, 10), (6, 12))]})
        assert list(paired(labels_in(tmp_path / "new", volumes_of(found)))) == [other]  # to be refused for its grid

    def test_on_the_grid_of_several_they_are_refused_until_one_is_called_as_its_volume(self, tmp_path: Path):
        (answer,) = echoes(tmp_path / "mr")
        first, second = (find(tmp_path / "mr", volume=VolumeChoice(echo=number)) for number in (1, 2))
        volumes = volumes_of(first, second)
        of_one_echo = replace(answer, paths=second.sources[0].image)
        write_seg(tmp_path / "new/seg.dcm", of_one_echo, {"liver": phantom().masks["liver"]})
        ((shown, reason),) = labels_in(tmp_path / "new", volumes).refused
        assert shown == "seg.dcm"
        assert "2 volumes of the workspace" in reason
        assert all(volume_id in reason for volume_id in volumes)
        (tmp_path / "new/seg.dcm").rename(tmp_path / f"new/{second.sources[0].id}_seg.dcm")
        assert list(paired(labels_in(tmp_path / "new", volumes))) == [second.sources[0].id]

    def test_beside_the_images_of_a_4d_series_nothing_needs_to_be_chosen_again(self, tmp_path: Path):
        (answer,) = echoes(tmp_path / "mr")
        volumes = volumes_of(find(tmp_path / "mr", volume=VolumeChoice(echo=2)))
        of_one_echo = replace(answer, paths=find(tmp_path, volume=VolumeChoice(echo=2)).sources[0].image)
        write_seg(tmp_path / "mr/seg.dcm", of_one_echo, {"liver": phantom().masks["liver"]})
        assert paired(labels_in(tmp_path / "mr", volumes)) == {next(iter(volumes)): "seg.dcm"}

    def test_on_the_grid_of_none_they_are_refused(self, tmp_path: Path):
        answers = mixed_orientations(tmp_path / "ct")
        volumes = volumes_of(find(tmp_path / "ct"))
        beside = answers[0].affine.copy()
        beside[:3, 3] += 0.4
        write_rtstruct(
            tmp_path / "new/rt.dcm", replace(answers[0], affine=beside), {"x": [rectangle(2, (5, 9), (6, 9))]}
        )
        ((_, reason),) = labels_in(tmp_path / "new", volumes).refused
        assert "on the grid of none of them" in reason


def test_a_missing_folder_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file or folder"):
        labels_in(tmp_path / "nowhere", STRANGERS)


def test_a_folder_without_labels_says_what_is_looked_for(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"samkit status.*DICOM-SEG"):
        labels_in(tmp_path, STRANGERS)
