"""Scans in no particular order: NIfTI, NRRD, pictures and their labels by ending, and mixtures."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from examples.scan_folders import find, h5, nifti, nrrd, pairs, picture, row, segmentation
from synthetic.series import write_series

from samkit.stages.readers.dicom_series import VolumeChoice


class TestChannelsInAFileEach:
    def test_the_channel_asked_for_is_taken_as_the_case(self, tmp_path: Path):
        nifti(*(tmp_path / f"{case}_{channel:04d}.nii.gz" for case in ("q1", "q2") for channel in (0, 1)))
        found = find(tmp_path, channel=1, ids="stem")
        assert {source.id: source.image[0].name for source in found.sources} == {
            "q1": "q1_0001.nii.gz",
            "q2": "q2_0001.nii.gz",
        }
        assert {source.chosen for source in found.sources} == {(("channel", 1),)}

    def test_what_is_left_out_is_told(self, tmp_path: Path):
        nifti(tmp_path / "q1_0000.nii.gz", tmp_path / "q1_0001.nii.gz")
        assert any(
            "channel 0" in note and "1 file of others left out" in note for note in find(tmp_path, channel=0).notes
        )

    def test_nrrd_and_pictures_have_them_too(self, tmp_path: Path):
        nrrd(tmp_path / "a/q1_0000.nrrd", tmp_path / "a/q1_0001.nrrd")
        picture(tmp_path / "b/q2_0000.png", tmp_path / "b/q2_0001.png")
        assert [source.shown for source in find(tmp_path, channel=1).sources] == ["a/q1_0001.nrrd", "b/q2_0001.png"]

    def test_a_file_without_one_stays_as_it_is(self, tmp_path: Path):
        nifti(tmp_path / "q1_0000.nii.gz", tmp_path / "q1_0001.nii.gz", tmp_path / "scan.nii.gz")
        shown = [source.shown for source in find(tmp_path, channel=0).sources]
        assert shown == ["q1_0000.nii.gz", "scan.nii.gz"]

    def test_numbers_are_no_channels_where_none_is_asked_for(self, tmp_path: Path):
        nifti(tmp_path / "scan_0000.nii.gz", tmp_path / "scan_0001.nii.gz")
        assert len(find(tmp_path).sources) == 2

    def test_numbers_of_files_with_several_volumes_are_no_channels(self, tmp_path: Path):
        nifti(tmp_path / "scan_0000.nii.gz", tmp_path / "scan_0001.nii.gz", shape=(2, 3, 4, 5))
        assert [source.volume_index for source in find(tmp_path, channel=3).sources] == [3, 3]

    @pytest.mark.parametrize("name", ["q1_seg.nii.gz", "q1_0000_seg.nii.gz", "q1_0001_seg.nii.gz"])
    def test_the_label_of_a_case_is_that_of_the_channel_that_was_taken(self, tmp_path: Path, name: str):
        nifti(tmp_path / "q1_0000.nii.gz", tmp_path / "q1_0001.nii.gz", tmp_path / name)
        assert pairs(find(tmp_path, channel=1, ids="stem")) == {"q1": name}

    def test_a_case_without_the_channel_is_refused_with_those_it_has(self, tmp_path: Path):
        nifti(tmp_path / "q1_0000.nii.gz", tmp_path / "q1_0002.nii.gz", tmp_path / "q2_0001.nii.gz")
        found = find(tmp_path, channel=1)
        assert [source.shown for source in found.sources] == ["q2_0001.nii.gz"]
        ((shown, reason),) = found.refused
        assert shown == "q1_0000.nii.gz"
        assert "no channel 1 of this case (_0001); it has 0, 2" in reason

    def test_a_single_file_of_another_channel_is_refused(self, tmp_path: Path):
        nifti(tmp_path / "q1_0000.nii.gz")
        assert len(find(tmp_path / "q1_0000.nii.gz", channel=0).sources) == 1
        ((_, reason),) = find(tmp_path / "q1_0000.nii.gz", channel=1).refused
        assert "no channel 1 of this case" in reason


class TestChannelsThatAreOnlyPreferred:
    """As predict does, with the channel that its run was trained on."""

    def test_the_preferred_one_is_taken_where_a_case_has_channels(self, tmp_path: Path):
        nifti(tmp_path / "q1_0000.nii.gz", tmp_path / "q1_0001.nii.gz")
        (source,) = find(tmp_path, channel=1, channel_is_preferred=True).sources
        assert source.shown == "q1_0001.nii.gz"

    def test_a_case_that_has_other_channels_alone_is_refused(self, tmp_path: Path):
        nifti(tmp_path / "q1_0000.nii.gz")
        ((_, reason),) = find(tmp_path, channel=1, channel_is_preferred=True).refused
        assert "no channel 1 of this case" in reason

    def test_numbers_of_patients_are_no_channels(self, tmp_path: Path):
        nifti(tmp_path / "scan_0001.nii.gz", tmp_path / "scan_0002.nii.gz")
        assert len(find(tmp_path, channel=1, channel_is_preferred=True).sources) == 2


class TestNifti:
    @pytest.mark.parametrize("ending", ["gt", "seg", "label", "labels", "mask", "segmentation", "seg-manual", "GT"])
    def test_labels_lie_beside_their_image(self, tmp_path: Path, ending: str):
        nifti(tmp_path / "p1/scan.nii.gz", tmp_path / f"p1/scan_{ending}.nii.gz")
        (source,) = find(tmp_path).sources
        assert source.label is not None
        assert source.label.paths == (tmp_path / f"p1/scan_{ending}.nii.gz",)

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

    def test_frames_of_a_patient_share_a_hashed_subject(self, tmp_path: Path):
        nifti(tmp_path / "p/patient001_frame01.nii.gz", tmp_path / "p/patient001_frame12.nii.gz", tmp_path / "p/x.nii")
        assert len({source.subject for source in find(tmp_path).sources}) == 2

    def test_a_label_without_image_is_refused(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "b_seg.nii.gz")
        assert [shown for shown, _ in find(tmp_path).refused] == ["b_seg.nii.gz"]

    def test_an_unusual_suffix_can_be_named(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "a_liver.nii.gz")
        (source,) = find(tmp_path, label_suffix="liver").sources
        assert source.label is not None
        assert source.label.paths == (tmp_path / "a_liver.nii.gz",)

    def test_several_labels_are_refused_listing_them(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz", tmp_path / "a_mask.nii.gz")
        found = find(tmp_path)
        assert found.sources == []
        assert "a_mask.nii.gz, a_seg.nii.gz" in found.refused[0][1]

    def test_macos_shadows_are_not_seen(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", tmp_path / "__MACOSX/a.nii.gz", tmp_path / "x/._a.nii.gz", tmp_path / ".x/a.nii")
        assert [source.shown for source in find(tmp_path).sources] == ["a.nii.gz"]

    def test_a_linked_folder_is_one_of_the_dataset_and_once(self, tmp_path: Path):
        """As cohorts on clusters are put together."""
        nifti(tmp_path / "data/p1/scan.nii.gz", tmp_path / "far/p2/scan.nii.gz")
        write_series(tmp_path / "far/p3")
        for name, target in {"p2": "far/p2", "p2 again": "far/p2", "p3": "far/p3", "alias": "data/p1"}.items():
            (tmp_path / "data" / name).symlink_to(tmp_path / target)
        found = find(tmp_path / "data")
        assert sorted(source.shown for source in found.sources) == ["p1/scan.nii.gz", "p2/scan.nii.gz", "p3"]
        assert found.refused == []

    def test_a_series_of_volumes_is_refused_with_the_choices(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", shape=(2, 3, 4, 5))
        found = find(tmp_path)
        assert found.sources == []
        assert "--time-index 0 to 4" in found.refused[0][1]
        assert row(found, "a.nii.gz").size == "2 x 3 x 4 x 5"

    @pytest.mark.parametrize("options", [{"channel": 3}, {"volume": VolumeChoice(time_index=3)}])
    def test_the_volume_chosen_is_taken_of_image_and_label(self, tmp_path: Path, options: dict[str, object]):
        nifti(tmp_path / "a.nii.gz", tmp_path / "a_seg.nii.gz", shape=(2, 3, 4, 5))
        (source,) = find(tmp_path, **options).sources
        assert source.label is not None
        assert (source.volume_index, source.label.volume_index) == (3, 3)

    def test_of_two_files_of_one_name_the_second_is_refused_and_not_dropped(self, tmp_path: Path):
        nifti(tmp_path / "scan.nii", tmp_path / "scan.nii.gz")
        found = find(tmp_path)
        assert [source.shown for source in found.sources] == ["scan.nii"]
        assert found.refused == [("scan.nii.gz", "scan.nii has the same name; rename one of them")]

    def test_two_volumes_of_a_file_have_two_ids(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", shape=(2, 3, 4, 5))
        first, second = (find(tmp_path, volume=VolumeChoice(time_index=index)).sources[0] for index in (0, 1))
        assert first.id != second.id

    def test_two_volumes_and_two_channels_of_a_case_are_of_one_subject(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", shape=(2, 3, 4, 5))
        nifti(tmp_path / "b/q1_0000.nii.gz", tmp_path / "b/q1_0001.nii.gz")
        options = [{"volume": VolumeChoice(time_index=index), "channel": index} for index in (0, 1)]
        first, second = (find(tmp_path, **one).sources for one in options)
        assert [source.subject for source in first] == [source.subject for source in second]

    def test_a_trailing_axis_of_one_is_no_axis(self, tmp_path: Path):
        nifti(tmp_path / "a.nii.gz", shape=(2, 3, 4, 1))
        found = find(tmp_path)
        assert found.sources[0].volume_index is None
        assert row(found, "a.nii.gz").size == "2 x 3 x 4"


class TestLabelsThatNameNoImage:
    """example_ct.nii.gz and example_seg.nii.gz: what pairs them is their grid."""

    def write(self, path: Path, *, spacing: float = 1.0, shape: tuple[int, int, int] = (6, 5, 4)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), np.diag([spacing, 1, 1, 1])), path)

    def test_it_belongs_to_the_only_image_on_its_grid(self, tmp_path: Path):
        for name, spacing in (("case_ct", 1.0), ("case_seg", 1.0), ("case_mr", 2.0), ("case_seg_mr", 2.0)):
            self.write(tmp_path / f"{name}.nii.gz", spacing=spacing)
        found = find(tmp_path)
        assert {one.shown: one.label.paths[0].name for one in found.sources} == {
            "case_ct.nii.gz": "case_seg.nii.gz",
            "case_mr.nii.gz": "case_seg_mr.nii.gz",
        }
        assert all("the only one here on its grid" in row.why for row in found.table)

    def test_of_two_images_on_its_grid_it_is_neithers(self, tmp_path: Path):
        for name in ("all_t1", "all_t2", "all_mask_final"):
            self.write(tmp_path / f"{name}.nii.gz")
        assert all(one.label is None for one in find(tmp_path).sources)

    def test_an_image_that_has_a_label_by_name_gets_no_second_one(self, tmp_path: Path):
        for name in ("a", "a_seg", "a_seg_old"):
            self.write(tmp_path / f"{name}.nii.gz")
        labels = {one.shown: one.label for one in find(tmp_path).sources}
        assert labels["a.nii.gz"].paths[0].name == "a_seg.nii.gz"
        assert labels["a_seg_old.nii.gz"] is None

    def test_an_image_of_another_name_is_not_taken_for_its_own(self, tmp_path: Path):
        for name in ("lost_seg_1", "other"):
            self.write(tmp_path / f"{name}.nii.gz")
        assert all(one.label is None for one in find(tmp_path).sources)


class TestNrrd:
    def test_nrrd_and_metaimage_are_found(self, tmp_path: Path):
        nrrd(tmp_path / "a.nrrd", tmp_path / "b.mha", shape=(2, 3, 4))
        found = find(tmp_path)
        assert found.layout == "NRRD files and MetaImage files"
        assert [source.reader for source in found.sources] == ["itk", "itk"]
        assert {row.size for row in found.table} == {"2 x 3 x 4"}

    def test_slicers_segmentation_is_the_label_of_the_image_of_its_name(self, tmp_path: Path):
        nrrd(tmp_path / "scan.nrrd")
        segmentation(tmp_path / "scan.seg.nrrd", "tumour", "liver")
        found = find(tmp_path)
        (source,) = found.sources
        assert source.label is not None
        assert source.label.names == ("tumour", "liver")
        assert found.labels is not None
        assert found.labels.names == {1: "liver", 2: "tumour"}

    def test_segments_in_several_layers_are_not_volumes_to_choose_from(self, tmp_path: Path):
        nrrd(tmp_path / "scan.nrrd", shape=(2, 2, 2, 5))
        segmentation(tmp_path / "scan.seg.nrrd", "liver", "tumour", shape=(2, 2, 2, 3))
        (source,) = find(tmp_path, channel=2).sources
        assert source.label is not None
        assert (source.volume_index, source.label.volume_index) == (2, None)

    def test_a_label_may_be_of_another_format_than_its_image(self, tmp_path: Path):
        nifti(tmp_path / "scan.nii.gz")
        nrrd(tmp_path / "scan_seg.nrrd")
        (source,) = find(tmp_path).sources
        assert source.label is not None
        assert (source.reader, source.label.reader) == ("nifti", "itk")

    def test_names_in_one_label_and_numbers_in_another_are_not_mixed(self, tmp_path: Path):
        nrrd(tmp_path / "a.nrrd", tmp_path / "b.nrrd", tmp_path / "b_seg.nrrd")
        segmentation(tmp_path / "a.seg.nrrd", "liver")
        found = find(tmp_path)
        assert found.labels is None
        assert any("--labels" in note for note in found.notes)

    def test_a_damaged_file_is_left_to_its_reader(self, tmp_path: Path):
        (tmp_path / "a.nrrd").write_text("NRRD0004\n")
        (source,) = find(tmp_path).sources
        assert source.reader == "itk"


class TestPictures:
    def test_a_folder_of_pictures_is_a_folder_of_volumes(self, tmp_path: Path):
        picture(tmp_path / "x/a.png", tmp_path / "x/b.tif", tmp_path / "x/a_mask.png")
        found = find(tmp_path)
        assert found.layout == "pictures"
        assert [source.label is not None for source in found.sources] == [True, False]

    def test_pictures_beside_or_above_scans_are_previews(self, tmp_path: Path):
        write_series(tmp_path / "study/ct")
        picture(tmp_path / "study/ct/preview.png", tmp_path / "logo.png", tmp_path / "xrays/a.png")
        found = find(tmp_path)
        assert [source.shown for source in found.sources] == ["study/ct", "xrays/a.png"]
        assert found.refused == []
        assert any("2 picture(s)" in note for note in found.notes)


class TestMixtures:
    def test_a_folder_gives_all_it_holds(self, tmp_path: Path):
        write_series(tmp_path / "series")
        nifti(tmp_path / "other.nii.gz")
        found = find(tmp_path)
        assert found.layout == "DICOM series and NIfTI files"
        assert len(found.sources) == 2

    def test_what_labels_mean_is_kept_where_one_kind_has_some(self, tmp_path: Path):
        h5(tmp_path / "patient001_frame01.h5", "image", "label")
        nifti(tmp_path / "x/scan.nii.gz")
        found = find(tmp_path)
        assert found.layout == "h5 volumes and NIfTI files"
        assert found.labels is not None

    def test_what_labels_mean_is_not_guessed_where_several_have(self, tmp_path: Path):
        h5(tmp_path / "patient001_frame01.h5", "image", "label")
        nifti(tmp_path / "x/scan.nii.gz", tmp_path / "x/scan_seg.nii.gz")
        found = find(tmp_path)
        assert (found.labels, found.label_names) == (None, None)
        assert any("--labels" in note for note in found.notes)


class TestMapsBesideSeries:
    @pytest.mark.parametrize("name", ["mask.nii.gz", "liver_seg.nii.gz", "Segmentation.seg.nrrd", "label_2.nrrd"])
    @pytest.mark.parametrize("place", ["p1/ct", "p1"])
    def test_a_map_in_the_folder_or_above_is_the_label(self, tmp_path: Path, place: str, name: str):
        write_series(tmp_path / "p1/ct", seed=1)
        write_series(tmp_path / "p2/ct", seed=2)
        (nifti if name.endswith("nii.gz") else nrrd)(tmp_path / place / name)
        found = find(tmp_path)
        assert pairs(found) == {found.sources[0].id: name, found.sources[1].id: None}
        assert "does not name it" in row(found, "p1/ct").why

    def test_a_map_over_two_series_is_nobodys(self, tmp_path: Path):
        write_series(tmp_path / "p1/ct", seed=1)
        write_series(tmp_path / "p1/mr", seed=2, modality="MR")
        nifti(tmp_path / "p1/liver_seg.nii.gz")
        found = find(tmp_path)
        assert [source.label for source in found.sources] == [None, None]
        assert [shown for shown, _ in found.refused] == ["p1/liver_seg.nii.gz"]

    def test_an_image_beside_a_series_is_an_image(self, tmp_path: Path):
        write_series(tmp_path / "ct")
        nifti(tmp_path / "ct/converted.nii.gz")
        assert len(find(tmp_path).sources) == 2

    def test_any_name_can_be_asked_for(self, tmp_path: Path):
        write_series(tmp_path / "ct")
        nifti(tmp_path / "ct/liver.nii.gz")
        (source,) = find(tmp_path, label_suffix="liver").sources
        assert source.label is not None
        assert source.label.paths[0].name == "liver.nii.gz"

    def test_several_are_refused_until_one_is_chosen(self, tmp_path: Path):
        write_series(tmp_path / "ct")
        nifti(tmp_path / "ct/liver_seg.nii.gz", tmp_path / "ct/tumour_seg.nii.gz")
        found = find(tmp_path)
        assert found.sources == []
        assert "--label-suffix liver_seg" in found.refused[0][1]
        assert list(pairs(find(tmp_path, label_suffix="tumour_seg")).values()) == ["tumour_seg.nii.gz"]


class TestFilesThatAreCalledLabels:
    """`mask`, `segmentation-7`: a label without its image's name."""

    @pytest.mark.parametrize("names", [("image", "mask"), ("imaging", "segmentation"), ("scan", "label")])
    def test_are_labels_of_the_only_image_in_their_folder(self, tmp_path: Path, names: tuple[str, str]):
        image, label = names
        nifti(*(tmp_path / f"case_{number}/{name}.nii.gz" for number in (0, 1) for name in names))
        found = find(tmp_path)
        there = {source.image[0]: source.label.paths for source in found.sources if source.label is not None}
        cases = [tmp_path / f"case_{number}" for number in (0, 1)]
        assert there == {case / f"{image}.nii.gz": (case / f"{label}.nii.gz",) for case in cases}
        assert found.refused == []

    def test_are_labels_of_the_image_with_their_number(self, tmp_path: Path):
        nifti(*(tmp_path / f"{kind}-{number}.nii.gz" for kind in ("volume", "segmentation") for number in (0, 1, 10)))
        found = find(tmp_path, ids="stem")
        assert pairs(found) == {f"volume-{number}": f"segmentation-{number}.nii.gz" for number in (0, 1, 10)}

    def test_are_refused_where_none_alone_can_be_theirs(self, tmp_path: Path):
        nifti(*(tmp_path / f"p1/{name}.nii.gz" for name in ("t1", "t2", "mask")))
        found = find(tmp_path, ids="stem")
        assert pairs(found) == {"t1": None, "t2": None}
        assert [shown for shown, _ in found.refused] == ["p1/mask.nii.gz"]

    def test_are_files_like_any_other_where_there_is_nothing_else(self, tmp_path: Path):
        nifti(tmp_path / "mask.nii.gz")
        assert len(find(tmp_path).sources) == 1
