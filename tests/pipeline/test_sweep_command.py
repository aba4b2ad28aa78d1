"""`samkit train-head --sweep` makes a run of each value, and tells them apart."""

from __future__ import annotations

import samkit as package

TRAIN = ("train-head", "linear", "--volumes", "1", "--steps", "4")


def test_each_value_is_a_run_that_the_table_tells_apart(samkit, job):
    ended = samkit(*TRAIN, "--sweep", "learning-rate=1e-2,1e-3", "--draws", "2", *job.flag)
    assert ended.code == 0
    runs = [run for run in package.open_workspace(job.workspace).runs.values() if run.record["steps"] == 4]
    assert sorted((run.settings.training["learning_rate"], run.settings.draw) for run in runs) == [
        (1e-3, 0),
        (1e-3, 1),
        (1e-2, 0),
        (1e-2, 1),
    ]
    for rate in ("0.01", "0.001"):
        assert f"linear (learning rate {rate})" in ended.said


def test_a_value_of_a_sweep_is_the_run_that_asking_for_it_alone_finds(samkit, job):
    assert samkit(*TRAIN, "--sweep", "learning-rate=1e-2,1e-3", *job.flag).code == 0
    assert "was there already" in samkit(*TRAIN, "--learning-rate", "0.01", *job.flag).said


def test_a_head_that_takes_no_steps_has_nothing_to_sweep(samkit, job):
    ended = samkit("train-head", "ridge", "--volumes", "1", "--sweep", "learning-rate=1e-2", *job.flag)
    assert ended.code == 2
    assert "--sweep: ridge is solved in one pass" in ended.said
