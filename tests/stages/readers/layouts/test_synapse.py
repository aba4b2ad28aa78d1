"""Synapse multi-organ CT (BTCV): pairs by number, thirteen names, eight organs by default, the 18/12 split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from examples.scan_folders import find, h5, label_paths, nifti, pairs
from synthetic.challenges import SYNAPSE_NAMES, write_synapse

from samkit.stages.readers.base import read_label
from samkit.stages.readers.labels import chosen_labels

# TransUNet's split and order of classes, as SAMed's preprocessing states them.
TEST_CASES = {1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38}
EIGHT = ["spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"]
VALUES_OF_EIGHT = [1, 2, 3, 4, 6, 7, 8, 11]


def test_images_and_labels_are_paired_by_number(tmp_path: Path):
    cases = write_synapse(tmp_path)
    found = find(tmp_path)
    assert found.layout == "Synapse multi-organ (BTCV)"
    assert label_paths(found) == {f"img{case.id}": case.label for case in cases}
    assert {source.modality for source in found.sources} == {"CT"}


@pytest.mark.parametrize(("images", "labels"), [("imagesTr", "labelsTr"), ("img", "label"), ("image", "label")])
def test_the_folders_may_be_called_otherwise(tmp_path: Path, images: str, labels: str):
    nifti(tmp_path / images / "img0003.nii.gz", tmp_path / labels / "label0003.nii.gz")
    assert pairs(find(tmp_path)) == {"img0003": "label0003.nii.gz"}


def test_the_averaged_scans_are_paired_too_and_belong_to_no_split(tmp_path: Path):
    nifti(
        tmp_path / "averaged-training-images/DET0000101_avg.nii.gz",
        tmp_path / "averaged-training-labels/DET0000101_avg_seg.nii.gz",
    )
    found = find(tmp_path)
    assert pairs(found) == {"DET0000101_avg": "DET0000101_avg_seg.nii.gz"}
    assert found.splits == {}


def test_values_have_the_challenges_names(tmp_path: Path):
    write_synapse(tmp_path)
    names = find(tmp_path).label_names
    assert names is not None
    assert {value: name.rstrip("s") for value, name in names.items() if value} == {
        value: name.rstrip("s") for value, name in SYNAPSE_NAMES.items()
    }


def test_the_eight_organs_come_out_in_transunets_order(tmp_path: Path):
    cases = write_synapse(tmp_path, numbers=(3,), test=())
    found = find(tmp_path)
    (source,) = found.sources
    annotation = read_label(source)
    assert found.labels is not None
    assert list(found.labels.names.values()) == EIGHT
    assert annotation is not None
    chosen = chosen_labels(annotation, found.labels, file_names=found.label_names, place="x")
    assert cases[0].labels is not None
    for new, old in enumerate(VALUES_OF_EIGHT, start=1):
        assert ((chosen.values == new) == (cases[0].labels == old)).all()
    assert any("TransUNet" in note for note in found.notes)


def test_the_split_names_the_test_cases_that_are_there(tmp_path: Path):
    write_synapse(tmp_path, numbers=range(1, 41), test=())
    (test,) = find(tmp_path).splits.values()
    assert set(test) == {f"img{number:04d}" for number in TEST_CASES}
    write_synapse(tmp_path / "few", numbers=(5, 8), test=())
    assert find(tmp_path / "few").splits == {"synapse-18-12": ("img0008",)}


def test_a_label_without_image_is_refused(tmp_path: Path):
    nifti(tmp_path / "img/img0001.nii.gz", tmp_path / "label/label0001.nii.gz", tmp_path / "label/label0002.nii.gz")
    assert [shown for shown, _ in find(tmp_path).refused] == ["label/label0002.nii.gz"]


def test_a_description_goes_before_the_challenges_names(tmp_path: Path):
    nifti(tmp_path / "imagesTr/img0001.nii.gz", tmp_path / "labelsTr/label0001.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "liver"}}))
    found = find(tmp_path)
    assert found.label_names == {0: "background", 1: "liver"}
    assert found.labels is not None
    assert found.labels.names == {1: "liver"}


class TestTransunetsCopies:
    def test_their_numbers_stay_numbers_and_a_note_says_why(self, tmp_path: Path):
        h5(tmp_path / "case0001.npy.h5", "image", "label")
        found = find(tmp_path)
        assert (found.labels, found.label_names) == (None, None)
        assert any("--labels 1=NAME" in note for note in found.notes)

    def test_they_are_split_as_the_originals(self, tmp_path: Path):
        for number in range(1, 41):
            h5(tmp_path / f"case{number:04d}.npy.h5", "image", "label")
        (test,) = find(tmp_path).splits.values()
        assert set(test) == {f"case{number:04d}" for number in TEST_CASES}
