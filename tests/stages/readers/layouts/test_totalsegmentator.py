"""TotalSegmentator: an image a case, and a folder with a mask a structure."""

from __future__ import annotations

from pathlib import Path

from examples.scan_folders import find, nifti, row


def case(folder: Path, *structures: str, image: str = "ct") -> Path:
    nifti(folder / f"{image}.nii.gz", *(folder / f"segmentations/{name}.nii.gz" for name in structures))
    return folder


def test_structures_are_the_masks_by_name(tmp_path: Path):
    folder = case(tmp_path / "s0011", "rib_10", "rib_2", "aorta")
    found = find(tmp_path)
    (source,) = found.sources
    assert found.layout == "TotalSegmentator"
    assert (source.id, source.subject, source.modality) == ("s0011", "s0011", "CT")
    assert source.label is not None
    assert source.label.reader == "mask-files"
    assert source.label.structures == tuple(
        (name, (folder / f"segmentations/{name}.nii.gz",)) for name in ("aorta", "rib_2", "rib_10")
    )


def test_classes_are_the_structures_of_the_whole_dataset_in_natural_order(tmp_path: Path):
    case(tmp_path / "s0011", "rib_10", "aorta")
    case(tmp_path / "s0012", "rib_2", "aorta")
    labels = find(tmp_path).labels
    assert labels is not None
    assert labels.names == {1: "aorta", 2: "rib_2", 3: "rib_10"}


def test_a_case_without_masks_is_an_unlabelled_volume(tmp_path: Path):
    case(tmp_path / "s0011", "aorta")
    case(tmp_path / "s0012")
    assert {source.id: source.label is not None for source in find(tmp_path).sources} == {"s0011": True, "s0012": False}


def test_an_image_of_any_name_is_the_only_one_there(tmp_path: Path):
    case(tmp_path / "scan of somebody", "aorta", image="20190317")
    (source,) = find(tmp_path).sources
    assert source.label is not None
    assert source.id.startswith("v")  # the folder's name is not the dataset's own, so it does not get out
    assert source.subject.startswith("s")
    assert "somebody" not in source.id + source.subject


def test_masks_of_two_images_are_nobodys(tmp_path: Path):
    folder = case(tmp_path / "s0011", "aorta")
    nifti(folder / "mri.nii.gz")
    found = find(tmp_path)
    assert {source.id: source.label for source in found.sources} == {"s0011_ct": None, "s0011_mri": None}
    assert row(found, "s0011/segmentations").decision == "refused"


def test_the_authors_test_cases_are_a_named_split(tmp_path: Path):
    for name in ("s0011", "s0012", "s0013"):
        case(tmp_path / name, "aorta")
    table = "image_id;age;gender;split\ns0011;51;m;train\ns0012;62;f;test\ns0013;40;m;val\n"
    (tmp_path / "meta.csv").write_text("\ufeff" + table, encoding="utf-8")
    assert find(tmp_path).splits == {"totalsegmentator": ("s0012",)}
