"""A baseline without an encoder goes through the verbs like any head: no embeddings asked for, none touched."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

TRAIN = ("train-head", "unet", "--volumes", "1", "--steps", "2", "--batch-size", "2")


@pytest.fixture
def trained(samkit, job):
    """The finished job with a run of the baseline beside that of `linear`."""
    samkit(*TRAIN, *job.flag)
    return job


def test_it_is_trained_in_a_workspace_without_embeddings(samkit, ingested):
    ended = samkit(*TRAIN, *ingested.flag)
    assert ended.code == 0
    assert "unet on the slices themselves: 1 of 1 subjects" in ended.said
    assert "No encoder, the slices themselves; distances in mm" in ended.said
    assert not (ingested.workspace / "embeddings").exists()


def test_an_encoder_is_refused(samkit, job):
    ended = samkit(*TRAIN, "--encoder", "nano", *job.flag)
    assert ended.code == 2
    assert "--encoder nano: unet sees the slices themselves" in ended.said


def test_tiles_are_refused(samkit, job):
    ended = samkit(*TRAIN, "--tiles", *job.flag)
    assert ended.code == 2
    assert "without tiles" in ended.said


def test_status_lists_it_without_a_recipe(samkit, trained):
    runs = json.loads(samkit("status", "--json", *trained.flag).said)["runs"]
    assert [run["recipe"] for run in runs if run["alias"] == "unet@1#0"] == ["none"]


def test_the_report_shows_it_beside_the_heads(samkit, trained):
    ended = samkit("report", *trained.flag)
    assert ended.code == 0
    assert "nano" in ended.said
    assert "No encoder" in ended.said
    page = (trained.workspace / "report" / "index.html").read_text()
    assert "unet@1#0" in page


def test_it_predicts_the_volumes_of_the_workspace(samkit, trained, tmp_path):
    ended = samkit("predict", "unet@1#0", "--output", tmp_path / "masks", *trained.flag)
    assert ended.code == 0
    assert "4 masks" in ended.said


def test_it_predicts_files_as_it_predicts_their_volumes(samkit, trained, tmp_path):
    samkit("predict", "unet@1#0", "--output", tmp_path / "volumes", *trained.flag)
    images = trained.data / "imagesTr"
    ended = samkit("predict", "unet@1#0", images, "--output", tmp_path / "files", *trained.flag)
    assert ended.code == 0
    assert "encoder" not in ended.said
    of_volumes, of_files = (
        [nib.load(path) for path in sorted((tmp_path / name).iterdir())] for name in ("volumes", "files")
    )
    assert len(of_volumes) == len(of_files) == 4
    for one, other in zip(of_volumes, of_files, strict=True):
        assert np.array_equal(np.asanyarray(one.dataobj), np.asanyarray(other.dataobj))
        assert np.allclose(one.affine, other.affine)


def test_weights_of_an_encoder_are_refused(samkit, trained, tmp_path):
    images = trained.data / "imagesTr"
    ended = samkit("predict", "unet@1#0", images, "--weights", "seeded", "--output", tmp_path / "masks", *trained.flag)
    assert ended.code == 2
    assert "sees the slices themselves, without an encoder" in ended.said
