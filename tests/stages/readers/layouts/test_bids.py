"""BIDS: labels are derivatives that begin with the name of their image."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples.scan_folders import find, nifti, pairs

from samkit.store.errors import UsageError


def folder(root: Path) -> Path:
    nifti(
        root / "sub-01/anat/sub-01_T1w.nii.gz",
        root / "sub-02/ct/sub-02_ct.nii.gz",
        root / "derivatives/labels/sub-01/anat/sub-01_T1w_seg-manual.nii.gz",
    )
    return root


def test_labels_are_the_derivatives_that_begin_with_the_images_name(tmp_path: Path):
    found = find(folder(tmp_path))
    assert found.layout == "BIDS"
    assert pairs(found) == {"sub-01_T1w": "sub-01_T1w_seg-manual.nii.gz", "sub-02_ct": None}
    assert found.label_suffix == "seg-manual"


def test_subject_and_modality_are_in_the_path(tmp_path: Path):
    first, second = find(folder(tmp_path)).sources
    assert (first.subject, first.modality) == ("sub-01", "MR")
    assert (second.subject, second.modality) == ("sub-02", "CT")


def test_several_labels_are_refused_listing_them(tmp_path: Path):
    root = folder(tmp_path)
    nifti(root / "derivatives/labels/sub-01/anat/sub-01_T1w_seg-auto.nii.gz")
    found = find(root)
    assert pairs(found) == {"sub-02_ct": None}
    ((shown, reason),) = found.refused
    assert shown == "sub-01/anat/sub-01_T1w.nii.gz"
    assert "seg-auto" in reason
    assert "seg-manual" in reason


def test_the_label_suffix_chooses(tmp_path: Path):
    root = folder(tmp_path)
    nifti(root / "derivatives/labels/sub-01/anat/sub-01_T1w_seg-auto.nii.gz")
    assert pairs(find(root, label_suffix="_seg-auto"))["sub-01_T1w"] == "sub-01_T1w_seg-auto.nii.gz"


def test_a_label_suffix_that_is_nowhere_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match=r"_lesion.*seg-manual"):
        find(folder(tmp_path), label_suffix="lesion")


def test_the_longest_name_wins(tmp_path: Path):
    root = folder(tmp_path)
    nifti(root / "sub-01/anat/sub-01_T1w_run2.nii.gz")
    nifti(root / "derivatives/x/sub-01_T1w_run2_seg.nii.gz")
    assert pairs(find(root, label_suffix="seg"))["sub-01_T1w_run2"] == "sub-01_T1w_run2_seg.nii.gz"


def test_a_label_of_nobody_is_refused_and_a_map_is_not(tmp_path: Path):
    root = folder(tmp_path)
    nifti(root / "derivatives/x/sub-09_T1w_dseg.nii.gz", root / "derivatives/x/sub-09_T1map.nii.gz")
    assert [shown for shown, _ in find(root).refused] == ["derivatives/x/sub-09_T1w_dseg.nii.gz"]


def test_a_label_beside_its_image_is_its_label(tmp_path: Path):
    nifti(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", tmp_path / "sub-01/anat/sub-01_T1w_seg.nii.gz")
    assert pairs(find(tmp_path)) == {"sub-01_T1w": "sub-01_T1w_seg.nii.gz"}


def test_a_derivative_that_is_named_by_entities_belongs_to_the_image_that_has_them(tmp_path: Path):
    nifti(
        tmp_path / "sub-01/ses-1/dwi/sub-01_ses-1_dwi.nii.gz",
        tmp_path / "sub-01/ses-2/dwi/sub-01_ses-2_dwi.nii.gz",
        tmp_path / "sub-02/anat/sub-02_acq-iso_T1w.nii.gz",
        tmp_path / "derivatives/sub-01/ses-1/sub-01_ses-1_msk.nii.gz",
        tmp_path / "derivatives/sub-02/sub-02_acq-iso_desc-lesion_mask.nii.gz",
    )
    assert pairs(find(tmp_path)) == {
        "sub-01_ses-1_dwi": "sub-01_ses-1_msk.nii.gz",
        "sub-01_ses-2_dwi": None,
        "sub-02_acq-iso_T1w": "sub-02_acq-iso_desc-lesion_mask.nii.gz",
    }


def test_of_several_images_it_belongs_to_the_one_on_whose_grid_it_lies(tmp_path: Path):
    nifti(tmp_path / "sub-01/dwi/sub-01_adc.nii.gz", tmp_path / "derivatives/sub-01_msk.nii.gz", shape=(3, 4, 5))
    nifti(tmp_path / "sub-01/anat/sub-01_FLAIR.nii.gz", shape=(6, 7, 8))
    assert pairs(find(tmp_path)) == {"sub-01_adc": "sub-01_msk.nii.gz", "sub-01_FLAIR": None}


def test_where_several_images_have_its_entities_and_its_grid_a_label_is_refused(tmp_path: Path):
    nifti(*(tmp_path / f"sub-01/dwi/sub-01_{kind}.nii.gz" for kind in ("adc", "dwi")))
    nifti(tmp_path / "derivatives/sub-01_msk.nii.gz")
    found = find(tmp_path)
    assert pairs(found) == {"sub-01_adc": None, "sub-01_dwi": None}
    ((shown, reason),) = found.refused
    assert shown == "derivatives/sub-01_msk.nii.gz"
    assert "not one alone has its entities" in reason


def test_a_label_in_another_space_belongs_to_no_image(tmp_path: Path):
    nifti(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", tmp_path / "derivatives/sub-01_space-MNI_desc-brain_mask.nii.gz")
    assert pairs(find(tmp_path)) == {"sub-01_T1w": None}


def test_masks_of_defacing_are_left_aside(tmp_path: Path):
    nifti(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", tmp_path / "sub-01/anat/sub-01_mod-T1w_defacemask.nii.gz")
    found = find(tmp_path)
    assert pairs(found) == {"sub-01_T1w": None}
    assert found.refused == []
    assert any("1 file of defacing left aside" in note for note in found.notes)


def test_labels_of_entities_are_chosen_by_what_they_have_of_their_own(tmp_path: Path):
    nifti(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    nifti(*(tmp_path / f"derivatives/sub-01_desc-{kind}_mask.nii.gz" for kind in ("brain", "lesion")))
    assert pairs(find(tmp_path, label_suffix="desc-lesion_mask")) == {"sub-01_T1w": "sub-01_desc-lesion_mask.nii.gz"}


def test_a_functional_scan_is_refused_until_a_volume_is_chosen(tmp_path: Path):
    root = folder(tmp_path)
    nifti(root / "sub-01/func/sub-01_bold.nii.gz", shape=(2, 2, 2, 9))
    ((shown, reason),) = find(root).refused
    assert shown == "sub-01/func/sub-01_bold.nii.gz"
    assert "9 volumes" in reason
