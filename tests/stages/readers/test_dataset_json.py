"""dataset.json in both dialects, and what is refused of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samkit.stages.readers.dataset_json import read_dataset_json
from samkit.store.errors import UnreadableFile, UnusableLabel


def save(folder: Path, content: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_decathlon_names_values(tmp_path: Path):
    content = {"labels": {"1": "spleen", "0": "background"}, "modality": {"0": "CT"}}
    described = read_dataset_json(save(tmp_path, content))
    assert described.dialect == "decathlon"
    assert described.label_names == {0: "background", 1: "spleen"}
    assert described.modality(0) == "CT"


def test_nnunet_values_names(tmp_path: Path):
    content = {"labels": {"background": 0, "PZ": 1}, "channel_names": {"0": "T2", "1": "ADC"}, "file_ending": ".nii.gz"}
    described = read_dataset_json(save(tmp_path, content))
    assert described.dialect == "nnunet"
    assert described.label_names == {0: "background", 1: "PZ"}
    assert described.channel_names == {0: "T2", 1: "ADC"}
    assert described.modality(0) is None
    assert described.file_ending == ".nii.gz"


@pytest.mark.parametrize("ending", [None, 7, "", "."])
def test_without_an_ending_files_may_have_any(tmp_path: Path, ending: object):
    content = {"labels": {"0": "background", "1": "x"}, **({} if ending is None else {"file_ending": ending})}
    assert read_dataset_json(save(tmp_path, content)).file_ending is None


def test_a_message_may_call_it_something_else(tmp_path: Path):
    with pytest.raises(UnreadableFile, match=r"^typed\.zip/dataset\.json: not readable"):
        read_dataset_json(save(tmp_path, "{"), place="typed.zip/dataset.json")


def test_mri_is_called_mr(tmp_path: Path):
    content = {"labels": {"0": "background", "1": "x"}, "modality": {"0": "MRI"}}
    assert read_dataset_json(save(tmp_path, content)).modality(0) == "MR"


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "{}", '{"labels": []}', '{"labels": {}}', '{"name": "x"}'])
def test_a_broken_file_is_named_with_a_way_out(tmp_path: Path, content: str):
    with pytest.raises(UnreadableFile, match=r"dataset\.json.*--labels 1=NAME"):
        read_dataset_json(save(tmp_path, content))


def test_regions_are_refused_by_name(tmp_path: Path):
    content = {"labels": {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3]}, "regions_class_order": [1, 2]}
    with pytest.raises(UnusableLabel, match=r"regions \(whole tumor, core\)"):
        read_dataset_json(save(tmp_path, content))


def test_an_ignore_label_is_refused(tmp_path: Path):
    with pytest.raises(UnusableLabel, match="ignore"):
        read_dataset_json(save(tmp_path, {"labels": {"background": 0, "x": 1, "ignore": 2}}))


def test_a_value_with_two_names_is_refused(tmp_path: Path):
    with pytest.raises(UnusableLabel, match="several names"):
        read_dataset_json(save(tmp_path, {"labels": {"background": 0, "x": 1, "y": 1}}))


def test_values_that_are_no_numbers_are_refused(tmp_path: Path):
    with pytest.raises(UnreadableFile, match="whole numbers"):
        read_dataset_json(save(tmp_path, {"labels": {"background": 0, "x": "one"}}))
