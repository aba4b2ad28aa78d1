"""Images in one folder, labels in another: Medical Segmentation Decathlon, nnU-Net, images and labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from examples.scan_folders import find, h5, nifti, nrrd, pairs, picture, row, segmentation
from synthetic.label_objects import write_seg
from synthetic.series import write_series

from samkit.stages.readers.dicom_series import VolumeChoice
from samkit.store.errors import InputError, UnusableLabel, UsageError

DECATHLON = {"labels": {"0": "background", "1": "spleen"}, "modality": {"0": "CT"}}
PROSTATE = {"labels": {"0": "background", "1": "PZ"}, "modality": {"0": "T2", "1": "ADC"}}
NNUNET = {"labels": {"background": 0, "PZ": 1}, "channel_names": {"0": "T2", "1": "ADC"}, "file_ending": ".nii.gz"}


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

    def test_its_file_names_are_ids_and_it_is_said_how_they_are_not(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a.nii.gz")
        assert any("--ids hash" in note for note in find(tmp_path).notes)
        assert not any("--ids" in note for note in find(tmp_path, ids="stem").notes)

    def test_its_names_are_the_classes(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a.nii.gz", tmp_path / "labelsTr/a.nii.gz")
        (tmp_path / "dataset.json").write_text(json.dumps(DECATHLON))
        labels = find(tmp_path).labels
        assert labels is not None
        assert (labels.names, labels.selects) == ({1: "spleen"}, False)

    def test_without_a_description_nothing_names_the_labels(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a.nii.gz", tmp_path / "labelsTr/a.nii.gz")
        found = find(tmp_path)
        assert (found.labels, found.label_names) == (None, None)

    def test_unlabelled_test_images_make_no_split(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a.nii.gz", tmp_path / "labelsTr/a.nii.gz", tmp_path / "imagesTs/b.nii.gz")
        assert find(tmp_path).splits == {}

    def test_labelled_test_images_make_one(self, tmp_path: Path):
        nifti(*(tmp_path / name for name in ("imagesTr/a.nii", "labelsTr/a.nii", "imagesTs/b.nii", "labelsTs/b.nii")))
        assert find(tmp_path).splits == {"imagesTs": ("b",)}

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

    def test_a_folder_around_it_makes_no_difference(self, tmp_path: Path):
        nifti(tmp_path / "Task09/imagesTr/a.nii.gz", tmp_path / "Task09/labelsTr/a.nii.gz")
        (tmp_path / "Task09/dataset.json").write_text(json.dumps(DECATHLON))
        found = find(tmp_path)
        assert (found.layout, pairs(found)) == ("medical segmentation decathlon", {"a": "a.nii.gz"})
        assert found.sources[0].shown == "Task09/imagesTr/a.nii.gz"


class TestChannelsInAFourthAxis:
    def folder(self, root: Path, shape: tuple[int, ...] = (3, 4, 5, 2)) -> Path:
        nifti(root / "imagesTr/prostate_00.nii.gz", shape=shape)
        nifti(root / "labelsTr/prostate_00.nii.gz", shape=shape[:3])
        (root / "dataset.json").write_text(json.dumps(PROSTATE))
        return root

    def test_named_ones_must_be_chosen_from(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"0 \(T2\), 1 \(ADC\).*--channel 0"):
            find(self.folder(tmp_path))

    def test_the_channel_chosen_is_the_volume_of_the_file(self, tmp_path: Path):
        (source,) = find(self.folder(tmp_path), channel=1).sources
        assert source.volume_index == 1
        assert source.label is not None
        assert source.label.volume_index is None  # the label has one volume only

    def test_the_time_index_chooses_too(self, tmp_path: Path):
        (source,) = find(self.folder(tmp_path), volume=VolumeChoice(time_index=1)).sources
        assert source.volume_index == 1

    def test_another_channel_is_another_source(self, tmp_path: Path):
        root = self.folder(tmp_path)
        first, second = (find(root, channel=channel).sources[0] for channel in (0, 1))
        assert first.id == second.id
        assert first.identity != second.identity

    def test_a_channel_that_is_not_there_refuses_the_file(self, tmp_path: Path):
        ((shown, reason),) = find(self.folder(tmp_path), channel=2).refused
        assert shown == "imagesTr/prostate_00.nii.gz"
        assert "0 (T2), 1 (ADC)" in reason

    def test_unnamed_volumes_are_refused_one_by_one_with_the_choices(self, tmp_path: Path):
        root = self.folder(tmp_path, shape=(3, 4, 5, 7))
        nifti(root / "imagesTr/other.nii.gz")
        found = find(root)
        assert pairs(found) == {"other": None}
        assert "7 volumes" in found.refused[0][1]
        assert "--time-index 0 to 6" in found.refused[0][1]

    def test_the_table_shows_the_fourth_axis(self, tmp_path: Path):
        found = find(self.folder(tmp_path), channel=1)
        assert row(found, "imagesTr/prostate_00.nii.gz").size == "3 x 4 x 5 x 2"
        assert "volume 1 of 2" in row(found, "imagesTr/prostate_00.nii.gz").why


class TestWhatIsOfAnotherKind:
    """Nothing that lies below images/ is left out in silence."""

    def test_a_series_below_images_is_taken_beside_labels_of_its_name(self, tmp_path: Path):
        write_series(tmp_path / "images/p0")
        nifti(tmp_path / "labels/p0.nii.gz")
        found = find(tmp_path)
        assert [source.shown for source in found.sources] == ["images/p0"]
        assert [shown for shown, _ in found.refused] == ["labels/p0.nii.gz"]
        assert not any("labels and no images" in note for note in found.notes)

    def test_a_segmentation_below_labels_finds_its_series_below_images(self, tmp_path: Path):
        answer = write_series(tmp_path / "images/p0")
        write_seg(tmp_path / "labels/p0.dcm", answer, {"liver": np.ones(answer.values.shape, bool)})
        nifti(tmp_path / "images/other.nii.gz", tmp_path / "labels/other.nii.gz")
        found = find(tmp_path)
        assert {source.shown for source in found.sources if source.label} == {"images/p0", "images/other.nii.gz"}

    def test_pictures_beside_a_scan_are_told_as_left_out(self, tmp_path: Path):
        for number in range(5):
            picture(tmp_path / f"images/p{number}.png", tmp_path / f"labels/p{number}.png")
        nifti(tmp_path / "images/stray.nii.gz")
        found = find(tmp_path)
        assert [source.shown for source in found.sources] == ["images/stray.nii.gz"]
        assert any("5 picture(s) beside scans left out" in note and "images/p0.png" in note for note in found.notes)

    def test_pictures_alone_are_no_previews(self, tmp_path: Path):
        picture(tmp_path / "images/p0.png", tmp_path / "labels/p0.png")
        assert not any("previews" in note for note in find(tmp_path).notes)

    def test_h5_volumes_below_images_are_taken(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
        h5(tmp_path / "images/b.h5", "image", "label")
        assert [source.shown for source in find(tmp_path).sources] == ["images/a.nii.gz", "images/b.h5"]

    def test_a_text_beside_the_images_is_none_of_it(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
        (tmp_path / "images/README.txt").write_text("from the hospital")
        found = find(tmp_path)
        assert (found.layout, len(found.sources), found.refused) == ("images and labels", 1, [])

    def test_a_file_that_dataset_json_rules_out_is_refused_by_name(self, tmp_path: Path):
        nifti(tmp_path / "imagesTr/a_0000.nii.gz", tmp_path / "labelsTr/a.nii.gz")
        nrrd(tmp_path / "imagesTr/b_0000.nrrd")
        (tmp_path / "dataset.json").write_text(json.dumps(NNUNET))
        ((shown, reason),) = find(tmp_path).refused
        assert shown == "imagesTr/b_0000.nrrd"
        assert "dataset.json says that the files end in .nii.gz" in reason


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

    def test_version_1_describes_itself_as_the_decathlon_does(self, tmp_path: Path):
        found = find(self.folder(tmp_path, channels=1, description=DECATHLON))
        assert found.layout == "nnU-Net raw"
        assert pairs(found) == {"p_001": "p_001.nii.gz"}
        assert found.label_names == {0: "background", 1: "spleen"}
        assert found.sources[0].modality == "CT"

    def test_several_channels_must_be_chosen_from_by_name(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"0 \(T2\), 1 \(ADC\).*--channel 0"):
            find(self.folder(tmp_path, channels=2))

    def test_the_channel_chosen_is_taken(self, tmp_path: Path):
        (source,) = find(self.folder(tmp_path, channels=2), channel=1).sources
        assert source.image[0].name == "p_001_0001.nii.gz"
        assert source.volume_index is None

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

    @pytest.mark.parametrize("ending", [".nrrd", ".mha", ".png", ".tif"])
    def test_other_formats_are_read_by_their_readers(self, tmp_path: Path, ending: str):
        write = nrrd if ending in {".nrrd", ".mha"} else picture
        write(tmp_path / f"imagesTr/p_001_0000{ending}", tmp_path / f"labelsTr/p_001{ending}")
        (tmp_path / "dataset.json").write_text(json.dumps({**NNUNET, "file_ending": ending}))
        (source,) = find(tmp_path).sources
        assert source.label is not None
        assert source.reader == source.label.reader == ("itk" if write is nrrd else "picture")

    def test_an_ending_that_no_file_has_stops(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"\.png"):
            find(self.folder(tmp_path, channels=1, description={**NNUNET, "file_ending": ".png"}))

    def test_an_ending_that_nobody_reads_stops(self, tmp_path: Path):
        root = self.folder(tmp_path, channels=1, description={**NNUNET, "file_ending": ".b2nd"})
        (root / "imagesTr/p_001_0000.b2nd").write_bytes(b"x")
        with pytest.raises(InputError, match=r"\.b2nd.*samkit reads"):
            find(root)


class TestImagesAndLabels:
    def test_ids_are_hashed_because_the_files_may_be_called_after_patients(self, tmp_path: Path):
        nifti(tmp_path / "images/Doe_Jane.nii.gz", tmp_path / "labels/Doe_Jane.nii.gz")
        found = find(tmp_path)
        (source,) = found.sources
        assert (source.id[0], source.subject[0]) == ("v", "s")
        assert source.label is not None
        assert any("--ids stem" in note for note in found.notes)

    def test_hashed_frames_of_a_patient_are_one_subject_and_other_files_are_not(self, tmp_path: Path):
        nifti(*(tmp_path / f"images/{name}.nii.gz" for name in ("a_frame01", "a_frame12", "b_frame01", "c")))
        assert len({source.subject for source in find(tmp_path).sources}) == 3

    def test_hashed_frames_with_channels_behind_are_one_subject(self, tmp_path: Path):
        names = ("images/a_frame01_0000", "images/a_frame12_0000", "labels/a_frame01", "labels/a_frame12")
        nifti(*(tmp_path / f"{name}.nii.gz" for name in names))
        assert len({source.subject for source in find(tmp_path).sources}) == 1

    def test_channels_of_a_case_are_of_one_subject(self, tmp_path: Path):
        nifti(*(tmp_path / f"images/{name}.nii.gz" for name in ("a_0000", "a_0001", "b_0000", "b_0001")))
        nifti(tmp_path / "labels/a.nii.gz", tmp_path / "labels/b.nii.gz")
        first, second = (find(tmp_path, channel=channel).sources for channel in (0, 1))
        assert [source.subject for source in first] == [source.subject for source in second]
        assert len({source.subject for source in first}) == 2
        assert {source.id for source in first}.isdisjoint(source.id for source in second)

    def test_volumes_of_a_file_are_of_one_subject(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "images/b.nii.gz", shape=(2, 3, 4, 2))
        first, second = (find(tmp_path, volume=VolumeChoice(time_index=index)).sources for index in (0, 1))
        assert [source.subject for source in first] == [source.subject for source in second]
        assert len({source.subject for source in first}) == 2

    def test_the_same_name_in_two_datasets_is_two_subjects(self, tmp_path: Path):
        nifti(tmp_path / "x/images/case1.nii.gz", tmp_path / "y/images/case1.nii.gz")
        assert len({find(tmp_path / name).sources[0].subject for name in "xy"}) == 2

    def test_names_are_kept_when_asked_and_nothing_is_said(self, tmp_path: Path):
        nifti(tmp_path / "images/case1.nii.gz")
        found = find(tmp_path, ids="stem")
        assert (found.sources[0].id, found.sources[0].subject) == ("case1", "case1")
        assert found.notes == ()

    def test_pairs_go_by_stem(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "images/b.nii.gz", tmp_path / "labels/b.nii")
        found = find(tmp_path, ids="stem")
        assert found.layout == "images and labels"
        assert pairs(found) == {"a": None, "b": "b.nii"}

    def test_a_channel_after_the_stem_is_understood(self, tmp_path: Path):
        nifti(tmp_path / "images/a_0000.nii.gz", tmp_path / "labels/a.nii.gz")
        assert pairs(find(tmp_path, ids="stem")) == {"a": "a.nii.gz"}

    def test_frames_of_a_patient_are_one_subject(self, tmp_path: Path):
        nifti(tmp_path / "images/patient001_frame01.nii.gz", tmp_path / "images/patient001_frame12.nii.gz")
        assert {source.subject for source in find(tmp_path, ids="stem").sources} == {"patient001"}

    def test_a_channel_that_is_only_preferred_leaves_images_without_channels_as_they_are(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
        assert len(find(tmp_path, channel=1, channel_is_preferred=True).sources) == 1

    def test_a_channel_that_is_only_preferred_is_taken_of_those_there_are(self, tmp_path: Path):
        nifti(tmp_path / "images/a_0000.nii.gz", tmp_path / "images/a_0001.nii.gz", tmp_path / "labels/a.nii.gz")
        (source,) = find(tmp_path, channel=1, channel_is_preferred=True).sources
        assert source.image[0].name == "a_0001.nii.gz"

    def test_channel_without_channels_is_a_usage_error(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
        with pytest.raises(UsageError, match="no channels"):
            find(tmp_path, channel=0)

    @pytest.mark.parametrize("labels", ["labels", "masks"])
    def test_pictures_and_their_masks_are_volumes(self, tmp_path: Path, labels: str):
        picture(tmp_path / "images/a.jpg", tmp_path / "images/b.png", tmp_path / labels / "a.png")
        found = find(tmp_path, ids="stem")
        assert pairs(found) == {"a": "a.png", "b": None}
        assert {source.reader for source in found.sources} == {"picture"}
        assert row(found, "images/a.jpg").size == "4 x 3"

    @pytest.mark.parametrize(
        ("images", "labels"), [("Images", "Labels"), ("img", "seg"), ("imgs", "gts"), ("scans", "Segmentations")]
    )
    def test_other_words_for_the_two_folders_are_understood(self, tmp_path: Path, images: str, labels: str):
        nifti(tmp_path / images / "a.nii.gz", tmp_path / labels / "a.nii.gz")
        assert pairs(find(tmp_path, ids="stem")) == {"a": "a.nii.gz"}

    def test_scans_without_a_folder_of_labels_are_loose(self, tmp_path: Path):
        nifti(tmp_path / "scans/a.nii.gz", tmp_path / "b.nii.gz")
        assert find(tmp_path).layout == "NIfTI files"

    def test_of_labels_and_masks_the_labels_are_taken_and_a_note_says_so(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz", tmp_path / "masks/a.nii.gz")
        found = find(tmp_path, ids="stem")
        assert [source.label.paths[0].parent.name for source in found.sources if source.label] == ["labels"]
        assert any("masks/ are left aside" in note for note in found.notes)

    def test_an_empty_folder_of_masks_beside_labels_needs_no_note(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
        (tmp_path / "masks").mkdir()
        assert not any("masks/" in note for note in find(tmp_path, ids="stem").notes)

    @pytest.mark.parametrize("ending", ["_mask", "_segmentation", "_gt"])
    def test_masks_may_say_that_they_are_some(self, tmp_path: Path, ending: str):
        picture(tmp_path / "images/ISIC_0000000.jpg", tmp_path / f"masks/ISIC_0000000{ending}.png")
        assert pairs(find(tmp_path, ids="stem")) == {"ISIC_0000000": f"ISIC_0000000{ending}.png"}

    def test_pictures_beside_scans_are_previews(self, tmp_path: Path):
        nifti(tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
        picture(tmp_path / "images/overview.png")
        assert pairs(find(tmp_path, ids="stem")) == {"a": "a.nii.gz"}

    def test_slicers_segmentation_belongs_to_the_image_of_its_name(self, tmp_path: Path):
        nrrd(tmp_path / "images/a.nrrd")
        segmentation(tmp_path / "labels/a.seg.nrrd", "liver", "spleen")
        found = find(tmp_path, ids="stem")
        (source,) = found.sources
        assert source.label is not None
        assert source.label.names == ("liver", "spleen")
        assert found.labels is not None
        assert found.labels.names == {1: "liver", 2: "spleen"}

    def test_subfolders_are_paired_with_their_own(self, tmp_path: Path):
        nifti(tmp_path / "images/x/a.nii.gz", tmp_path / "images/y/b.nii.gz", tmp_path / "labels/x/a.nii.gz")
        nifti(tmp_path / "labels/x/b.nii.gz")
        found = find(tmp_path, ids="stem")
        assert pairs(found) == {"a": "a.nii.gz", "b": None}
        assert [shown for shown, _ in found.refused] == ["labels/x/b.nii.gz"]


class TestPairsBelow:
    """Folders of images and of labels that lie further down than the folder that is named."""

    def test_of_two_parts_are_paired_each_in_its_own(self, tmp_path: Path):
        for part in ("train", "test"):
            picture(*(tmp_path / f"{part}/{kind}/{part}1.png" for kind in ("images", "masks")))
        found = find(tmp_path, ids="stem")
        assert pairs(found) == {"test1": "test1.png", "train1": "train1.png"}
        assert found.refused == []

    def test_of_two_tasks_are_paired_and_told_to_mean_different_things(self, tmp_path: Path):
        for task, organ in (("Task02_Heart", "atrium"), ("Task09_Spleen", "spleen")):
            nifti(*(tmp_path / task / f"{kind}/{organ}_1.nii.gz" for kind in ("imagesTr", "labelsTr")))
            (tmp_path / task / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": organ}}))
        found = find(tmp_path)
        assert pairs(found) == {"atrium_1": "atrium_1.nii.gz", "spleen_1": "spleen_1.nii.gz"}
        assert any("labels of several kinds" in note for note in found.notes)

    def test_leave_scans_beside_them_what_they_are(self, tmp_path: Path):
        nifti(*(tmp_path / f"train/{kind}/a.nii.gz" for kind in ("images", "labels")), tmp_path / "more/b.nii.gz")
        assert pairs(find(tmp_path, ids="stem")) == {"a": "a.nii.gz", "b": None}
