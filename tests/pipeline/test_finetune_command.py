"""`train-head autosam --finetune-encoder` trains a live encoder, and reads no row that is kept."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import samkit as package

TRAIN = ("train-head", "autosam", "--finetune-encoder", "--volumes", "1", "--steps", "2")


def of_workspace(job):
    return package.open_workspace(job.workspace).runs.find("autosam-finetuned@1#0")


def test_it_is_trained_and_says_that_no_row_is_read(samkit, job):
    ended = samkit(*TRAIN, *job.flag)
    assert ended.code == 0, ended.said
    assert "the encoder runs in every step, live; rows that are embedded are not read" in ended.said
    assert of_workspace(job).settings.encoder == "nano"


def test_rows_that_are_gone_are_not_missed(samkit, job):
    (folder,) = (job.workspace / "embeddings").iterdir()
    for name in ("features", "journal"):
        shutil.rmtree(folder / name)
    assert samkit(*TRAIN, *job.flag).code == 0


def test_it_is_another_head_than_the_frozen_one(samkit, job):
    assert samkit(*TRAIN, *job.flag).code == 0
    assert samkit("train-head", "autosam", "--volumes", "1", "--steps", "2", *job.flag).code == 0
    heads = {run.settings.head for run in package.open_workspace(job.workspace).runs.values()}
    assert {"autosam", "autosam-finetuned"} <= heads


def test_the_kept_head_predicts_files_without_an_encoder_beside_it(samkit, job, tmp_path):
    assert samkit(*TRAIN, *job.flag).code == 0
    run = of_workspace(job)
    ended = samkit("predict", run.id, job.data, "--output", tmp_path / "masks", *job.flag)
    assert ended.code == 0, ended.said
    import nibabel as nib

    for volume_id, prediction in run.predictions.items():
        (mask,) = (tmp_path / "masks").glob(f"*{volume_id}*")
        assert np.count_nonzero(nib.load(mask).get_fdata()) == np.count_nonzero(prediction)


def test_views_need_not_be_embedded(samkit, job):
    assert samkit(*TRAIN, "--views", "reflections", *job.flag).code == 0


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("train-head", "linear", "--finetune-encoder", "--volumes", "1"), "--finetune-encoder: of autosam alone"),
        ((*TRAIN, "--tiles"), "sees slices whole"),
    ],
)
def test_what_cannot_be_is_refused(samkit, job, command, told):
    ended = samkit(*command, *job.flag)
    assert ended.code == 2
    assert told in ended.said
