"""`unet-simclr` learns without labels once for all draws, from nobody who is scored."""

from __future__ import annotations

import samkit as package

TRAIN = ("train-head", "unet-simclr", "--volumes", "1", "--steps", "2", "--pretraining-steps", "2")


def pretrainings(job):
    return package.open_workspace(job.workspace).pretrainings


def test_all_draws_begin_from_one_pretraining(samkit, job):
    ended = samkit(*TRAIN, "--draws", "2", *job.flag)
    assert ended.code == 0, ended.said
    assert "without their labels, once for all draws" in ended.said
    (made,) = pretrainings(job)
    runs = package.open_workspace(job.workspace).runs.values()
    begun = [run.settings.head_config["pretrained"] for run in runs if run.settings.head == "unet-simclr"]
    assert begun == [made, made]


def test_nobody_who_is_scored_is_learned_from(samkit, job):
    assert samkit(*TRAIN, *job.flag).code == 0
    ((_, made),) = pretrainings(job).items()
    workspace = package.open_workspace(job.workspace)
    subjects = {workspace.volumes[volume_id].subject for volume_id in made.settings.slices}
    assert subjects == set(workspace.split().pool)


def test_it_is_not_learned_again(samkit, job):
    assert samkit(*TRAIN, *job.flag).code == 0
    ((_, before),) = pretrainings(job).items()
    assert samkit(*TRAIN, "--seed", "0", "--draws", "2", *job.flag).code == 0
    ((_, after),) = pretrainings(job).items()
    assert after.record == before.record


def test_a_grid_makes_it_before_its_workers_begin(samkit, job):
    grid = ("--heads", "unet,unet-simclr", "--volumes", "1", "--draws", "2", "--steps", "2", "--pretraining-steps", "2")
    ended = samkit("experiment", *grid, *job.flag)
    assert ended.code == 0, ended.said
    assert len(pretrainings(job)) == 1


def test_a_damaged_one_is_refused_and_verify_names_it(samkit, job):
    assert samkit(*TRAIN, *job.flag).code == 0
    (name,) = pretrainings(job)
    (job.workspace / "pretrained" / name / "weights.safetensors").write_bytes(b"torn")
    ended = samkit(*TRAIN, "--draws", "2", *job.flag)
    assert ended.code == 1
    assert "weights.safetensors: missing, or not what was written" in ended.said
    assert name in samkit("verify", *job.flag).said


def test_one_that_no_run_began_from_is_taken_away(samkit, job):
    assert samkit(*TRAIN, *job.flag).code == 0
    assert "pretraining" not in samkit("gc", "--older-than", "0", *job.flag).said
    for run in package.open_workspace(job.workspace).runs.values():
        if run.settings.head == "unet-simclr":
            run.folder.remove()
    assert "pretraining" in samkit("gc", "--older-than", "0", *job.flag).said
    assert len(pretrainings(job)) == 0


def test_other_heads_have_no_steps_before(samkit, job):
    ended = samkit("train-head", "unet", "--volumes", "1", "--pretraining-steps", "2", *job.flag)
    assert ended.code == 2
    assert "unet learns nothing without labels" in ended.said
