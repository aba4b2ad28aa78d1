"""Heads that are not trained are scored by the command line as any head, and are one run of no subject."""

from __future__ import annotations

import pytest

import samkit as package


@pytest.mark.parametrize("head", ["sam-box", "sam-auto"])
def test_it_is_scored_without_any_subject_drawn(samkit, job, head):
    ended = samkit("train-head", head, "--volumes", "0", *job.flag)
    assert ended.code == 0
    assert "not trained, scored on 1 test subject" in ended.said
    run = package.open_workspace(job.workspace).runs.find(f"{head}@0#0")
    assert (run.settings.drawn, run.steps, run.record["trainable_parameters"]) == ((), [], 0)
    assert run.scores
    assert head in samkit("report", *job.flag).said


def test_boxes_of_the_reference_are_owned_up_to(samkit, job):
    assert "a bound to compare with, no method" in samkit("train-head", "sam-box", "--volumes", "0", *job.flag).said


def test_prompted_with_boxes_a_slice_shows_the_classes_that_it_has_and_no_other(samkit, job):
    assert samkit("train-head", "sam-box", "--volumes", "0", *job.flag).code == 0
    workspace = package.open_workspace(job.workspace)
    run = workspace.runs.find("sam-box@0#0")
    for scored in run.scores:
        label = workspace.volumes[scored["volume_id"]].read_label()
        for found, reference in zip(run.predictions[scored["volume_id"]], label, strict=True):
            assert set(found.ravel().tolist()) <= {0, *reference.ravel().tolist()}


def test_a_grid_has_it_once(samkit, job):
    grid = ("experiment", "--heads", "sam-box,ridge", "--volumes", "1,2", "--draws", "2", *job.flag)
    ended = samkit(*grid)
    assert ended.code == 0
    assert "5 runs, 0 of them there already" in ended.said
    assert "5 runs, 5 of them there already" in samkit(*grid).said


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--volumes", "1"), "give --volumes 0"),
        (("--volumes", "0", "--draws", "2"), "leave --draws out"),
        (("--volumes", "0", "--steps", "5"), "--steps: sam-box is not trained"),
        (("--volumes", "0", "--tiles"), "boxes, which may lie across tiles"),
        (("--volumes", "0", "--views", "reflections"), "leave --count, --views and --draws out"),
    ],
)
def test_what_means_nothing_without_training_is_refused(samkit, job, flags, told):
    ended = samkit("train-head", "sam-box", *flags, *job.flag)
    assert ended.code == 2
    assert told in ended.said


def test_files_without_a_reference_cannot_be_prompted(samkit, job, tmp_path):
    assert samkit("train-head", "sam-box", "--volumes", "0", *job.flag).code == 0
    ended = samkit("predict", "sam-box@0#0", job.data / "images", "--output", tmp_path / "masks", *job.flag)
    assert ended.code == 2
    assert "is prompted from the reference, which files to be predicted do not have" in ended.said


def test_trained_heads_need_a_subject(samkit, job):
    ended = samkit("train-head", "ridge", "--volumes", "0", *job.flag)
    assert ended.code == 2
    assert "--volumes 0: give at least 1" in ended.said
