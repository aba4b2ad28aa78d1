"""CHAOS: one PNG mask a slice, in the order of the slices, by name or by the order of the names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from examples.scan_folders import find, label_paths, picture
from synthetic.challenges import CaseAnswer, write_chaos

from samkit.stages.readers.base import read_image, read_label
from samkit.stages.readers.labels import chosen_labels


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, CaseAnswer]]:
    root = tmp_path_factory.mktemp("chaos")
    return root, {case.id.replace("/", "_"): case for case in write_chaos(root)}


def test_every_series_has_the_name_of_its_place(tree):
    found = find(tree[0])
    assert found.layout == "CHAOS"
    assert {source.id: source.subject for source in found.sources} == {
        name: case.subject.replace("/", "_") for name, case in tree[1].items()
    }
    assert {source.id: source.modality for source in found.sources} == {name: name[:2] for name in tree[1]}
    assert found.refused == []


def test_masks_are_in_the_order_of_the_slices(tree):
    root, cases = tree
    assert label_paths(find(root)) == {name: case.label for name, case in cases.items()}


def test_images_are_in_that_order_too(tree):
    root, cases = tree
    for source in find(root).sources:
        np.testing.assert_array_equal(read_image(source).values, cases[source.id].values)


def test_the_two_phases_are_two_sources_of_one_patient(tree):
    phases = [source for source in find(tree[0]).sources if source.id.startswith("MR_1_T1DUAL")]
    assert [source.id for source in phases] == ["MR_1_T1DUAL_InPhase", "MR_1_T1DUAL_OutPhase"]
    assert phases[0].identity != phases[1].identity
    assert phases[0].label == phases[1].label


def test_phases_of_one_series_uid_are_two_sources(tmp_path: Path):
    from pydicom import dcmread

    write_chaos(tmp_path, ct=(), mr=(1,))
    for path in (tmp_path / "Train_Sets/MR/1/T1DUAL/DICOM_anon").rglob("*.dcm"):
        slice_ = dcmread(path)
        slice_.SeriesInstanceUID = "1.2.3"
        slice_.save_as(path)
    found = find(tmp_path, ids="hash")
    assert len({source.id for source in found.sources}) == 3
    assert len({source.identity for source in found.sources}) == 3


def test_liver_is_one_class_in_both_modalities(tree):
    root, cases = tree
    found = find(root)
    assert found.labels is not None
    assert found.labels.names == {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
    for source in found.sources:
        annotation = read_label(source, grid=read_image(source).grid)
        assert annotation is not None
        chosen = chosen_labels(annotation, found.labels, file_names=found.label_names, place="x")
        case = cases[source.id]
        assert case.labels is not None
        numbers = {name: number for number, name in found.labels.names.items()}
        for value, name in case.names.items():
            np.testing.assert_array_equal(chosen.values == numbers[name], case.labels == value)


def test_pairing_by_order_is_told(tree):
    (note,) = [note for note in find(tree[0]).notes if "order of the names" in note]
    assert "4 series" in note  # two CT, two out of phase


def test_numbers_without_zeros_are_in_their_natural_order(tmp_path: Path):
    ct, *_ = write_chaos(tmp_path, ct=(2,), mr=())
    for n, (image, mask) in enumerate(zip(ct.image, ct.label, strict=True)):
        image.rename(image.with_name(f"slice {n + 7}.dcm"))  # 7 to 12: by letters 10 comes before 7
        mask.rename(mask.with_name(f"mask {n + 97}.png"))
    (source,) = find(tmp_path).sources
    assert source.label is not None
    assert [path.name for path in source.image] == [f"slice {n + 7}.dcm" for n in range(6)]
    assert [path.name for path in source.label.paths] == [f"mask {n + 97}.png" for n in range(6)]


def test_a_ct_alone_has_a_liver_alone(tmp_path: Path):
    write_chaos(tmp_path, ct=(1,), mr=())
    labels = find(tmp_path).labels
    assert labels is not None
    assert labels.names == {1: "liver"}


def test_masks_of_another_number_are_refused_and_the_image_taken(tmp_path: Path):
    write_chaos(tmp_path, ct=(1,), mr=())
    picture(tmp_path / "Train_Sets/CT/1/Ground/liver_GT_006.png", size=(24, 20))
    found = find(tmp_path)
    assert [source.label for source in found.sources] == [None]
    ((shown, reason),) = found.refused
    assert shown == "Train_Sets/CT/1/Ground"
    assert "7 masks for the 6 slices" in reason


def test_one_missing_name_refuses_the_masks(tmp_path: Path):
    write_chaos(tmp_path, ct=(), mr=(1,))
    sorted((tmp_path / "Train_Sets/MR/1/T2SPIR/Ground").iterdir())[0].unlink()
    found = find(tmp_path)
    assert {source.id for source in found.sources if source.label is None} == {"MR_1_T2SPIR"}
    assert "1 of the 6 slices" in found.refused[0][1]


def test_test_sets_are_unlabelled_volumes(tmp_path: Path):
    write_chaos(tmp_path, ct=(3,), mr=())
    (tmp_path / "Train_Sets").rename(tmp_path / "Test_Sets")
    ground = tmp_path / "Test_Sets/CT/3/Ground"
    for path in ground.iterdir():
        path.unlink()
    found = find(tmp_path)
    assert found.layout == "CHAOS"
    assert [(source.id, source.label) for source in found.sources] == [("CT_3", None)]


def test_one_patients_folder_may_be_given(tree):
    root, _ = tree
    assert [source.id for source in find(root / "Train_Sets/CT/2").sources] == ["CT_2"]
    assert len(find(root / "Train_Sets/MR/3").sources) == 3


def test_folders_that_are_not_the_datasets_own_give_hashed_ids(tmp_path: Path):
    write_chaos(tmp_path, ct=(1,), mr=())
    (tmp_path / "Train_Sets/CT/1").rename(tmp_path / "Train_Sets/CT/4711081")
    (source,) = find(tmp_path).sources
    assert source.label is not None
    assert (source.id[0], source.subject[0]) == ("v", "s")
