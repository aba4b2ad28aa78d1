"""`samkit experiment` trains what is missing of a grid, and says how heads compare."""

from __future__ import annotations

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from examples.own_package import shell_with_package

import samkit as package

GRID = ("experiment", "--heads", "ridge,prototype,linear", "--volumes", "1,2", "--draws", "2", "--steps", "2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, finished):
    """A grid that one worker trained."""
    from samkit.pipeline.cli import run

    place = tmp_path_factory.mktemp("whole") / "workspace"
    shutil.copytree(finished.workspace, place)
    assert run([*GRID, "--workers", "1", "--workspace", str(place)]) == 0
    return place


def heads_of(place):
    """Digests of all heads of a grid, by alias."""
    runs = package.open_workspace(place).runs.values()
    return {run.alias: run.record["head_sha256"] for run in runs if run.settings.training.get("steps", 2) == 2}


def test_every_head_is_trained_on_every_draw(whole):
    expected = {f"{head}@{n}#{draw}" for head in ("ridge", "prototype", "linear") for n in (1, 2) for draw in (0, 1)}
    assert set(heads_of(whole)) == expected


def test_two_workers_train_the_same_heads_as_one(samkit, job, whole):
    assert samkit(*GRID, "--workers", "2", *job.flag).code == 0
    assert heads_of(job.workspace) == heads_of(whole)


def test_what_is_there_is_not_trained_again(samkit, whole):
    before = {run.id: run.record["finished"] for run in package.open_workspace(whole).runs.values()}
    ended = samkit(*GRID, "--workspace", str(whole))
    assert ended.code == 0
    assert "12 runs, 12 of them there already" in ended.said
    assert {run.id: run.record["finished"] for run in package.open_workspace(whole).runs.values()} == before


def test_a_larger_grid_goes_on_from_a_smaller_one(samkit, whole):
    ended = samkit(*GRID[:-4], "--draws", "3", "--steps", "2", "--dry-run", "--workspace", str(whole))
    assert "18 runs, 12 of them there already" in ended.said


def test_a_dry_run_writes_nothing_not_even_the_split(samkit, ingested, files_of):
    samkit("embed", "--size", "64", *ingested.flag)
    before = files_of(ingested.workspace)
    assert samkit(*GRID[:4], "1", "--draws", "1", "--dry-run", *ingested.flag).code == 0
    assert files_of(ingested.workspace) == before


def test_draws_of_the_same_subjects_are_told(samkit, job):
    ended = samkit(
        "experiment", "--heads", "ridge", "--volumes", "1,3", "--draws", "4", "--dry-run", *job.flag
    )  # of a pool of three
    assert re.search(r"draws \d and \d.* \(1 subject each\) drew the same: \w+", ended.said)
    assert re.search(r"draws 0 and 1 and 2 and 3 \(3 subjects each\) drew the same: \w+, \w+, \w+", ended.said)


def test_draws_of_the_same_subjects_count_once_in_the_table_as_in_the_comparison(samkit, job):
    grid = ("--heads", "ridge,prototype", "--volumes", "1", "--draws", "5")  # of a pool of three
    said = samkit("experiment", *grid, *job.flag).said
    assert "unlike" in said
    table, comparison = said.split("behind the best head, on the same draws")
    for head in ("ridge", "prototype"):
        (mean,) = re.findall(rf"{head} +all classes +1 +1 +5 \(\d unlike\) +([\d.]+)", table)
        assert re.findall(rf"{head} +1 +\d +\d +([\d.]+)", comparison) == [mean]


def test_draws_of_the_same_frames_are_told_as_frames(samkit, job):
    frames = ("--volumes", "3", "--count", "frames", "--draws", "2")
    ended = samkit("experiment", "--heads", "ridge", *frames, "--dry-run", *job.flag)  # of a pool of three
    assert "draws 0 and 1 (3 frames each) drew the same" in ended.said


def test_heads_are_compared_with_the_best(samkit, whole):
    said = samkit(*GRID, "--workspace", str(whole)).said
    assert "behind the best head, on the same draws and test subjects" in said
    for head in ("ridge", "prototype", "linear"):
        assert head in said


def test_a_dry_run_trains_nothing(samkit, job):
    before = len(package.open_workspace(job.workspace).runs)
    assert samkit(*GRID, "--dry-run", *job.flag).code == 0
    assert len(package.open_workspace(job.workspace).runs) == before


def test_the_baseline_without_an_encoder_is_a_head_like_any_other(samkit, job):
    ended = samkit("experiment", "--heads", "unet,ridge", "--volumes", "1", "--draws", "1", "--steps", "1", *job.flag)
    assert ended.code == 0
    assert {run.alias for run in package.open_workspace(job.workspace).runs.values()} >= {"unet@1#0", "ridge@1#0"}


def test_draws_that_lack_a_class_are_named(samkit, job, tmp_path):
    (tmp_path / "labels").mkdir()
    for path in sorted((job.data / "labelsTr").iterdir())[1:]:
        label = nib.load(path)
        voxels = np.asanyarray(label.dataobj).copy()
        voxels[voxels == 2] = 0
        nib.save(nib.Nifti1Image(voxels, label.affine), tmp_path / "labels" / path.name)
    assert samkit("ingest", "--labels-from", tmp_path / "labels", *job.flag).code == 0
    name = package.open_workspace(job.workspace).label_names[2]
    for command in (("train-head", "ridge"), ("experiment", "--heads", "ridge")):
        said = samkit(*command, "--volumes", "1", "--draws", "6", *job.flag).said
        assert re.search(rf"draw \d \(1 subject\): no voxel of {name} is labelled in \w+; a head cannot learn", said)


def test_test_volumes_in_other_planes_than_the_drawn_ones_are_told(samkit, job, tmp_path):
    workspace = package.open_workspace(job.workspace)
    (test,) = workspace.split("default").test
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / "one" / kind).mkdir(parents=True)
        shutil.copy(job.data / kind / f"{test}.nii.gz", tmp_path / "one" / kind)
    assert samkit("ingest", tmp_path / "one", "--axis", "sagittal", "--replace", *job.flag).code == 0
    assert samkit("embed", "--size", "64", *job.flag).code == 0
    for command in (("train-head", "ridge"), ("experiment", "--heads", "ridge,prototype")):
        said = samkit(*command, "--volumes", "1", "--draws", "2", *job.flag).said
        assert "in 2 draws: 1 of 1 test volumes were ingested with axis sagittal" in " ".join(said.split())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--heads", "ridge,ridge"), "name each once"),
        (("--heads", "rigde"), "Did you mean 'ridge'?"),
        (("--heads", "ladder:gate"), "give options as ladder:OPTION=VALUE"),
        (("--heads", "ladder:gate=ajar"), "gate=ajar: ladder knows learned"),
        (("--heads", "ridge:gate=fixed"), "ridge has no option of that name"),
        (("--heads", "ridge", "--volumes", "1,,5"), "give whole numbers joined by commas"),
        (("--heads", "ridge", "--volumes", "0"), "--volumes 0: give at least 1"),
        (("--heads", "ridge", "--volumes", "1,99"), "--volumes 99: the pool of split 'default' has 3"),
        (("--heads", "ridge", "--draws", "0"), "--draws 0: give at least 1"),
        (("--heads", "ridge", "--workers", "0"), "--workers 0: give at least 1"),
        (("--heads", "unet", "--encoder", "nano"), "unet sees the slices themselves"),
        (("--heads", "ridge", "--recipe", "autosam"), "Did you mean 'autosam-paper'?"),
        (("--heads", "ridge", "--views", "reflections"), "Run `samkit embed --views reflections"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(samkit, job, flags, told):
    before = len(package.open_workspace(job.workspace).runs)
    ended = samkit("experiment", *flags, *job.flag)
    assert ended.code in (1, 2)
    assert told in ended.said
    assert len(package.open_workspace(job.workspace).runs) == before


def test_a_head_with_other_options_is_another_head_of_the_grid(samkit, job):
    grid = ("--heads", "ladder,ladder:gate=fixed:faithful=yes", "--volumes", "1", "--draws", "1", "--steps", "1")
    ended = samkit("experiment", *grid, *job.flag)
    assert ended.code == 0
    assert "ladder:gate=fixed:faithful=yes" in ended.said
    runs = [run for run in package.open_workspace(job.workspace).runs.values() if run.settings.head == "ladder"]
    assert {run.settings.head_config["gate"] for run in runs} == {"learned", "fixed"}


@pytest.mark.parametrize("convention", ["autosam", "transunet"])
def test_a_report_can_count_as_a_paper_does(samkit, whole, convention):
    ended = samkit("report", "--convention", convention, "--workspace", str(whole))
    assert ended.code == 0
    assert f"As {convention} counts" in ended.said
    assert "HD95 voxels" in ended.said


def test_a_format_that_a_convention_is_not_told_in_is_refused_before_anything_is_scored(samkit, whole, monkeypatch):
    monkeypatch.setattr("samkit.pipeline.commands.report.tabulate_by", None)  # not reached
    ended = samkit("report", "--convention", "autosam", "--format", "latex", "--workspace", str(whole))
    assert ended.code == 2
    assert "not as latex. Leave --format out, or give --format json" in ended.said


def test_scores_by_a_paper_s_rules_are_json_for_scripts(samkit, whole):
    rows = json.loads(samkit("report", "--convention", "autosam", "--json", "--workspace", str(whole)).said)
    runs = package.open_workspace(whole).runs.values()
    assert {row["cases"] for row in rows} == {len({one["subject"] for one in next(iter(runs)).scores})}
    assert all(0 <= row["dice"] <= 1 for row in rows)


def test_draws_of_the_same_subjects_count_once_by_a_paper_s_rules_too(samkit, job):
    train = ("train-head", "ridge", "--volumes", "1", "--draws", "5")  # of a pool of three
    assert samkit(*train, *job.flag).code == 0
    table, by_paper = (
        [row for row in json.loads(samkit("report", "--json", *flags, *job.flag).out) if row["head"] == "ridge"]
        for flags in ((), ("--convention", "autosam"))
    )
    assert {row["draws"] for row in by_paper} == {row["unlike_draws"] for row in table} != {5}


def test_frames_are_counted_where_that_is_asked(samkit, job):
    grid = ("--heads", "ridge,prototype", "--volumes", "2", "--count", "frames", "--draws", "1")
    ended = samkit("experiment", *grid, *job.flag)
    assert ended.code == 0, ended.said
    assert "on 2 labelled frames" in ended.said
    runs = package.open_workspace(job.workspace).runs.values()
    assert {run.settings.amount for run in runs if run.settings.head == "ridge"} == {"2 frames"}


FAULTY = """
from samkit.heads.linear import Linear


class Faulty(Linear):
    name = "faulty"

    def forward(self, features):
        raise LookupError("no such weight")
"""


def test_a_head_with_a_fault_costs_its_own_runs_alone(job, tmp_path):
    shell = shell_with_package(tmp_path / "site", {"samkit.heads": "faulty = own_package:Faulty"}, FAULTY)
    code, said = shell("experiment", "--heads", "faulty,ridge", "--volumes", "1", "--draws", "1", *job.flag)
    assert code == 3, said
    assert "faulty@1#0: LookupError: no such weight. That is a fault of the head or of samkit" in said
    assert "1 run failed" in said
    assert "ridge@1#0" in {run.alias for run in package.open_workspace(job.workspace).runs.values()}


def test_as_many_runs_are_trained_at_once_as_there_are_cores(samkit, job, monkeypatch):
    monkeypatch.setattr("samkit.pipeline.commands.experiment.usable_cores", lambda: 1)
    ended = samkit("experiment", "--heads", "ridge,prototype", "--volumes", "1", "--draws", "1", *job.flag)
    assert "1 worker, each run by one thread" in ended.said
