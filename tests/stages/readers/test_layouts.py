"""Which volumes a folder holds, what they are called, and what is refused of it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from samkit.stages.readers.layouts import Found, LayoutOptions, find_sources
from samkit.store.errors import InputError, UnusableLabel, UsageError

KEY = b"0123456789abcdef0123456789abcdef"
DECATHLON = {"labels": {"0": "background", "1": "spleen"}, "modality": {"0": "CT"}}
NNUNET = {"labels": {"background": 0, "PZ": 1}, "channel_names": {"0": "T2", "1": "ADC"}, "file_ending": ".nii.gz"}


def find(place: Path, **options: object) -> Found:
    return find_sources(place, LayoutOptions(id_key=KEY, **options))


def nifti(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path)


def h5(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name in names:
            file[name] = np.zeros((2, 2, 2), np.uint8)


def pairs(found: Found) -> dict[str, str | None]:
    return {source.id: None if source.label is None else source.label.name for source in found.sources}


class TestDecathlon:
    def test_training_pairs_and_unlabelled_test_images_are_found(self, tmp_path: Path):
        nifti(
            tmp_path / "imagesTr/spleen_2.nii.gz",
            tmp_path / "labelsTr/spleen_2.nii.gz",
            tmp_path / "imagesTs/spleen_1.nii.gz",
        )
        (tmp_path / "dataset.json").write_text(json.dumps(DECATHLON))
        found = find(tmp_path)
        assert found.layout == "medical segmentation decathlon"
        assert pairs(found) == {"spleen_2": "spleen_2.nii.gz", "spleen_1": None}
        assert found.label_names == {0: "background", 1: "spleen"}
        assert {source.modality for source in found.sources} == {"CT"}

    def test_macos_shadows_are_not_seen(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a.nii.gz", tmp_path / "imagesTr/._a.nii.gz", tmp_path / "labelsTr/._a.nii.gz")
        assert pairs(find(tmp_path)) == {"a": None}

    def test_a_label_without_image_is_refused_by_name(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a.nii.gz", tmp_path / "labelsTr/b.nii.gz")
        found = find(tmp_path)
        assert pairs(found) == {"a": None}
        ((shown, reason),) = found.refused
        assert shown == "labelsTr/b.nii.gz"
        assert "without an image" in reason

    def test_an_id_twice_is_refused_naming_both(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a.nii.gz", tmp_path / "imagesTs/a.nii.gz")
        ((shown, reason),) = find(tmp_path).refused
        assert shown == "imagesTs/a.nii.gz"
        assert "imagesTr/a.nii.gz" in reason

    def test_numbers_at_the_end_of_names_are_no_channels(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/liver_0001.nii.gz", tmp_path / "labelsTr/liver_0001.nii.gz")
        assert pairs(find(tmp_path)) == {"liver_0001": "liver_0001.nii.gz"}

    def test_a_broken_description_stops(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a.nii.gz")
        (tmp_path / "dataset.json").write_text("{")
        with pytest.raises(InputError, match=r"dataset\.json"):
            find(tmp_path)


class TestNnunet:
    def folder(self, root: Path, *, channels: int, description: dict[str, object] = NNUNET) -> Path:
        nifti(*(root / f"imagesTr/p_001_{channel:04d}.nii.gz" for channel in range(channels)))
        nifti(root / "labelsTr/p_001.nii.gz")
        (root / "dataset.json").write_text(json.dumps(description))
        return root

    def test_a_single_channel_is_taken_and_left_out_of_the_id(self, tmp_path: Path):
        found = find(self.folder(tmp_path, channels=1))
        assert found.layout == "nnU-Net raw"
        assert pairs(found) == {"p_001": "p_001.nii.gz"}
        assert found.label_names == {0: "background", 1: "PZ"}

    def test_several_channels_must_be_chosen_from_by_name(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"0 \(T2\), 1 \(ADC\).*--channel 0"):
            find(self.folder(tmp_path, channels=2))

    def test_the_channel_chosen_is_taken(self, tmp_path: Path):
        (source,) = find(self.folder(tmp_path, channels=2), channel=1).sources
        assert source.image[0].name == "p_001_0001.nii.gz"

    def test_a_channel_that_is_nowhere_is_a_usage_error(self, tmp_path: Path):
        with pytest.raises(UsageError, match="no channel 5"):
            find(self.folder(tmp_path, channels=2), channel=5)

    def test_a_case_without_the_channel_is_refused(self, tmp_path: Path):
        root = self.folder(tmp_path, channels=2)
        nifti(root / "imagesTr/p_002_0000.nii.gz")
        found = find(root, channel=1)
        assert pairs(found) == {"p_001": "p_001.nii.gz"}
        assert found.refused[0][0] == "imagesTr/p_002_0000.nii.gz"

    def test_regions_are_refused(self, tmp_path: Path):
        with pytest.raises(UnusableLabel, match="regions"):
            find(self.folder(tmp_path, channels=1, description={"labels": {"background": 0, "all": [1, 2]}}))

    def test_other_file_formats_are_refused(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"\.png"):
            find(self.folder(tmp_path, channels=1, description={**NNUNET, "file_ending": ".png"}))


class TestImagesAndLabels:
    def test_pairs_go_by_stem(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "images/b.nii.gz", tmp_path / "labels/b.nii")
        found = find(tmp_path)
        assert found.layout == "images and labels"
        assert pairs(found) == {"a": None, "b": "b.nii"}

    def test_a_channel_after_the_stem_is_understood(self, tmp_path: Path):
        nifti(tmp_path / "images/a_0000.nii.gz", tmp_path / "labels/a.nii.gz")
        assert pairs(find(tmp_path)) == {"a": "a.nii.gz"}

    def test_frames_of_a_patient_are_one_subject(self, tmp_path: Path):
        nifti(tmp_path / "images/patient001_frame01.nii.gz", tmp_path / "images/patient001_frame12.nii.gz")
        assert {source.subject for source in find(tmp_path).sources} == {"patient001"}

    def test_channel_without_channels_is_a_usage_error(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
        with pytest.raises(UsageError, match="no channels"):
            find(tmp_path, channel=0)


class TestBids:
    def folder(self, root: Path) -> Path:
        nifti(
            root / "sub-01/anat/sub-01_T1w.nii.gz",
            root / "sub-02/ct/sub-02_ct.nii.gz",
            root / "derivatives/labels/sub-01/anat/sub-01_T1w_seg-manual.nii.gz",
        )
        return root

    def test_labels_are_the_derivatives_that_begin_with_the_images_name(self, tmp_path: Path):
        found = find(self.folder(tmp_path))
        assert found.layout == "BIDS"
        assert pairs(found) == {"sub-01_T1w": "sub-01_T1w_seg-manual.nii.gz", "sub-02_ct": None}
        assert found.label_suffix == "seg-manual"

    def test_subject_and_modality_are_in_the_path(self, tmp_path: Path):
        first, second = find(self.folder(tmp_path)).sources
        assert (first.subject, first.modality) == ("sub-01", "MR")
        assert (second.subject, second.modality) == ("sub-02", "CT")

    def test_several_labels_are_refused_listing_them(self, tmp_path: Path):
        root = self.folder(tmp_path)
        nifti(root / "derivatives/labels/sub-01/anat/sub-01_T1w_seg-auto.nii.gz")
        found = find(root)
        assert pairs(found) == {"sub-02_ct": None}
        ((shown, reason),) = found.refused
        assert shown == "sub-01/anat/sub-01_T1w.nii.gz"
        assert "seg-auto" in reason
        assert "seg-manual" in reason

    def test_the_label_suffix_chooses(self, tmp_path: Path):
        root = self.folder(tmp_path)
        nifti(root / "derivatives/labels/sub-01/anat/sub-01_T1w_seg-auto.nii.gz")
        assert pairs(find(root, label_suffix="_seg-auto"))["sub-01_T1w"] == "sub-01_T1w_seg-auto.nii.gz"

    def test_a_label_suffix_that_is_nowhere_is_a_usage_error(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"_lesion.*seg-manual"):
            find(self.folder(tmp_path), label_suffix="lesion")

    def test_the_longest_name_wins(self, tmp_path: Path):
        root = self.folder(tmp_path)
        nifti(root / "sub-01/anat/sub-01_T1w_run2.nii.gz")
        nifti(root / "derivatives/x/sub-01_T1w_run2_seg.nii.gz")
        assert pairs(find(root, label_suffix="seg"))["sub-01_T1w_run2"] == "sub-01_T1w_run2_seg.nii.gz"

    def test_a_label_of_nobody_is_refused_and_a_map_is_not(self, tmp_path: Path):
        root = self.folder(tmp_path)
        nifti(root / "derivatives/x/sub-09_T1w_dseg.nii.gz", root / "derivatives/x/sub-09_T1map.nii.gz")
        assert [shown for shown, _ in find(root).refused] == ["derivatives/x/sub-09_T1w_dseg.nii.gz"]


class TestHdf5:
    def test_stems_are_ids_and_the_label_is_in_the_file(self, tmp_path: Path):
        h5(tmp_path / "patient001_frame01.h5", "image", "label")
        h5(tmp_path / "patient001_frame12.h5", "image")
        found = find(tmp_path)
        assert found.layout == "h5 volumes"
        assert pairs(found) == {"patient001_frame01": "patient001_frame01.h5", "patient001_frame12": None}
        assert {source.subject for source in found.sources} == {"patient001"}

    def test_a_damaged_file_is_left_to_its_reader(self, tmp_path: Path):
        (tmp_path / "a.h5").write_bytes(b"no")
        assert pairs(find(tmp_path)) == {"a": None}


class TestLooseNifti:
    @pytest.mark.parametrize("ending", ["gt", "seg", "label", "labels", "mask", "seg-manual", "GT"])
    def test_labels_lie_beside_their_image(self, tmp_path: Path, ending: str):
        nifti(tmp_path / "p1/scan.nii.gz", tmp_path / f"p1/scan_{ending}.nii.gz")
        (source,) = find(tmp_path).sources
        assert source.label is not None
        assert source.label.name == f"scan_{ending}.nii.gz"

    def test_ids_and_subjects_are_hashes(self, tmp_path: Path):
        nifti(tmp_path / "Doe_Jane.nii.gz")
        (source,) = find(tmp_path).sources
        assert source.id[0] == "v"
        assert source.subject[0] == "s"
        assert len(source.id) == len(source.subject) == 13
        assert "Doe" not in source.id + source.subject + source.identity

    def test_ids_are_the_same_the_next_time_and_for_another_spelling_of_the_path(self, tmp_path: Path):
        nifti(tmp_path / "a/scan.nii.gz")
        assert find(tmp_path).sources[0].id == find(tmp_path / "a" / ".." / "a").sources[0].id

    def test_stems_are_ids_when_asked(self, tmp_path: Path):
        nifti(tmp_path / "case1.nii.gz")
        (source,) = find(tmp_path, ids="stem").sources
        assert (source.id, source.subject) == ("case1", "case1")

    def test_hashes_are_ids_when_asked(self, tmp_path: Path):
        nifti(tmp_path / "images/case1.nii.gz")
        (source,) = find(tmp_path, ids="hash").sources
        assert (source.id[0], source.subject[0]) == ("v", "s")

    def test_frames_of_a_patient_share_a_hashed_subject(self, tmp_path: Path):
        nifti(tmp_path / "p/patient001_frame01.nii.gz", tmp_path / "p/patient001_frame12.nii.gz", tmp_path / "p/x.nii")
        assert len({source.subject for source in find(tmp_path).sources}) == 2

    def test_a_label_without_image_is_refused(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "b_seg.nii.gz")
        assert [shown for shown, _ in find(tmp_path).refused] == ["b_seg.nii.gz"]

    def test_an_unusual_suffix_can_be_named(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "a_liver.nii.gz")
        (source,) = find(tmp_path, label_suffix="liver").sources
        assert source.label == tmp_path / "a_liver.nii.gz"

    def test_several_labels_are_refused_listing_them(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz", tmp_path / "a_mask.nii.gz")
        found = find(tmp_path)
        assert found.sources == []
        assert "a_mask.nii.gz, a_seg.nii.gz" in found.refused[0][1]


class TestSubjects:
    def test_the_first_group_is_the_subject(self, tmp_path: Path):
        nifti(tmp_path / "images/site2-p07-visit1.nii.gz")
        (source,) = find(tmp_path, subject_regex=r"(p\d+)-visit").sources
        assert source.subject == "p07"

    def test_without_a_group_the_whole_match_is(self, tmp_path: Path):
        nifti(tmp_path / "images/site2-p07-visit1.nii.gz")
        (source,) = find(tmp_path, subject_regex=r"p\d+").sources
        assert source.subject == "p07"

    def test_a_file_that_does_not_match_is_refused(self, tmp_path: Path):
        nifti(tmp_path / "images/p07.nii.gz", tmp_path / "images/phantom.nii.gz")
        found = find(tmp_path, subject_regex=r"p\d+")
        assert pairs(found) == {"p07": None}
        assert found.refused[0][0] == "images/phantom.nii.gz"

    def test_a_match_is_hashed_where_ids_are(self, tmp_path: Path):
        nifti(tmp_path / "p07_a.nii.gz", tmp_path / "p07_b.nii.gz")
        (subject,) = {source.subject for source in find(tmp_path, subject_regex=r"p\d+").sources}
        assert subject[0] == "s"

    def test_a_broken_expression_is_a_usage_error(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz")
        with pytest.raises(UsageError, match="--subject"):
            find(tmp_path, subject_regex="(")


class TestDicom:
    VALUES = np.zeros((3, 3, 2), np.int16)

    def test_a_series_is_a_hashed_volume_of_a_hashed_patient(self, tmp_path: Path, write_series):
        write_series(tmp_path / "Doe^Jane/ct", self.VALUES, affine=np.eye(4))
        found = find(tmp_path)
        (source,) = found.sources
        assert found.layout == "DICOM series"
        assert (source.reader, source.modality, len(source.image)) == ("dicom", "CT", 2)
        assert source.shown == "Doe^Jane/ct"
        assert not any(word in source.id + source.subject + source.identity for word in ("Doe", "MRN"))

    def test_two_series_of_a_patient_are_one_subject(self, tmp_path: Path, write_series):
        write_series(tmp_path / "a", self.VALUES, affine=np.eye(4))
        write_series(tmp_path / "b", self.VALUES, affine=np.eye(4))
        found = find(tmp_path)
        assert len({source.id for source in found.sources}) == 2
        assert len({source.subject for source in found.sources}) == 1

    def test_a_series_keeps_its_id_in_another_folder(self, tmp_path: Path, write_series):
        write_series(tmp_path / "a", self.VALUES, affine=np.eye(4), series_uid="1.2.3")
        before = find(tmp_path / "a").sources[0].id
        (tmp_path / "a").rename(tmp_path / "b")
        assert find(tmp_path / "b").sources[0].id == before

    def test_a_patient_id_is_hashed_even_where_stems_are_ids(self, tmp_path: Path, write_series):
        write_series(tmp_path / "case1", self.VALUES, affine=np.eye(4))
        (source,) = find(tmp_path, ids="stem").sources
        assert source.id == "case1"
        assert source.subject[0] == "s"

    def test_series_in_one_folder_are_told_apart(self, tmp_path: Path, write_series):
        for number, name in enumerate("ab"):
            paths = write_series(tmp_path / name, self.VALUES, affine=np.eye(4), SeriesNumber=number)
            for path in paths:
                (tmp_path / "all").mkdir(exist_ok=True)
                path.rename(tmp_path / "all" / f"{name}{path.name}")
        assert {source.id for source in find(tmp_path, ids="stem").sources} == {"all_0", "all_1"}


class TestAnyPlace:
    def test_a_single_nifti_file_is_taken(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz")
        found = find(tmp_path / "a.nii.gz")
        assert (found.layout, found.sources[0].shown) == ("single file", "a.nii.gz")

    def test_a_single_h5_file_brings_its_label(self, tmp_path: Path):
        h5(tmp_path / "a.h5", "image", "label")
        assert find(tmp_path / "a.h5").sources[0].label == tmp_path / "a.h5"

    def test_a_single_dicom_slice_is_taken(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, np.zeros((3, 3, 2), np.int16), affine=np.eye(4))
        assert find(paths[0]).sources[0].image == (paths[0],)

    def test_a_mixed_folder_gives_all_it_holds(self, tmp_path: Path, write_series):
        write_series(tmp_path / "series", np.zeros((3, 3, 2), np.int16), affine=np.eye(4))
        nifti(tmp_path / "other.nii.gz")
        found = find(tmp_path)
        assert found.layout == "DICOM series and NIfTI files"
        assert len(found.sources) == 2

    def test_a_missing_folder_is_a_usage_error(self, tmp_path: Path):
        with pytest.raises(UsageError, match="no such file or folder"):
            find(tmp_path / "nowhere")

    @pytest.mark.parametrize("names", [[], ["notes.txt", "scan.nrrd", ".hidden.nii.gz"]])
    def test_a_folder_with_nothing_usable_lists_what_is_understood(self, tmp_path: Path, names: list[str]):
        for name in names:
            (tmp_path / name).write_text("x")
        with pytest.raises(InputError, match=r"imagesTr.*BIDS.*NIfTI.*h5.*DICOM"):
            find(tmp_path)

    def test_a_file_of_no_kind_is_refused(self, tmp_path: Path):
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(InputError, match="of no kind"):
            find(tmp_path / "a.txt")

    def test_the_key_is_not_printed(self):
        assert "0123456789" not in repr(LayoutOptions(id_key=KEY))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "layout", "volumes", "labelled", "subjects"),
    [
        ("hippocampus", "images and labels", 30, 30, 30),
        ("acdc/volumes", "h5 volumes", 100, 100, 50),
        ("spleen", "BIDS", 1, 1, 1),
        ("sct", "NIfTI files", 1, 1, 1),
        ("dicom2nifti/generic/compressed_rle/001", "DICOM series", 1, 0, 1),
    ],
)
def test_real_folders_are_understood(shared_data: Path, name, layout, volumes, labelled, subjects):
    found = find(shared_data / name)
    assert found.layout == layout
    assert len(found.sources) == volumes
    assert sum(source.label is not None for source in found.sources) == labelled
    assert len({source.subject for source in found.sources}) == subjects
    assert found.refused == []
