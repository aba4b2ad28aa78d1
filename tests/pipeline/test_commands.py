"""The verbs on a healthy dataset: nothing is computed twice, growth costs what is new, and what is stale is said."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import samkit as package
from samkit.pipeline import console
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair

TRAIN = ("train-head", "linear", "--volumes", "1", "--steps", "3")
EMBED = ("embed", "--size", "64")


# -- embed -----------------------------------------------------------------------------------------


def test_embedding_twice_computes_nothing(samkit, job, files_of):
    before = files_of(job.workspace)
    ended = samkit(*EMBED, *job.flag)
    assert ended.code == 0
    assert "16 slices: 16 have a row, 0 to compute" in ended.said
    assert files_of(job.workspace) == before


def test_a_dry_run_says_what_embedding_costs_and_writes_nothing(samkit, ingested, files_of):
    before = files_of(ingested.workspace)
    ended = samkit(*EMBED, "--dry-run", *ingested.flag)
    assert ended.code == 0
    assert "8 slices: 0 have a row, 8 to compute (65.5 kB in 1 shard)" in ended.said
    assert "2 files, 65.5 kB in float16;" in ended.said
    assert "GB free" in ended.said or "TB free" in ended.said
    assert "on cpu:" in ended.said
    assert "slices/s, from 8 slices encoded on cpu" in ended.said
    assert "nothing was written" in ended.said
    assert files_of(ingested.workspace) == before


def test_another_window_is_told_with_both_and_only_the_volumes_it_touched_are_computed(samkit, tmp_path, write_pair):
    for seed, name in enumerate(("a", "b", "c")):
        write_pair(tmp_path / "data", name, seed=seed)
    flag = ("--workspace", tmp_path / "w")
    samkit("ingest", tmp_path / "data", "--window", "400/40", *flag)
    samkit(*EMBED, *flag)
    for name in ("b", "c"):
        (tmp_path / "data" / "imagesTr" / f"{name}.nii.gz").unlink()
        (tmp_path / "data" / "labelsTr" / f"{name}.nii.gz").unlink()
    samkit("ingest", tmp_path / "data", "--window", "350/40", *flag)
    for ended in (samkit(*EMBED, "--dry-run", *flag), samkit(*EMBED, *flag)):
        assert "window 400/40 -> 350/40 in 1 of 3 volumes: 4 slices to compute for it" in ended.said
        assert "12 slices: 8 have a row, 4 to compute" in ended.said
    assert "350/40" not in samkit(*EMBED, *flag).said


def test_a_dry_run_counts_only_what_is_missing(samkit, job, tmp_path):
    write_nifti_pair(tmp_path / "more", "later", draw_subject(9, shape=(5, 36, 32), spacing_mm=(10.0, 6.0, 6.0)))
    samkit("ingest", tmp_path / "more", *job.flag)
    assert "16 have a row, 5 to compute" in samkit(*EMBED, "--dry-run", *job.flag).said
    samkit(*EMBED, *job.flag)
    assert "0 files, 0 B in float16" in samkit(*EMBED, "--dry-run", *job.flag).said


def test_the_cost_of_the_dry_run_is_the_cost(samkit, ingested):
    samkit(*EMBED, "--dry-run", *ingested.flag)
    assert not (ingested.workspace / "embeddings").exists()
    samkit(*EMBED, *ingested.flag)
    (folder,) = (ingested.workspace / "embeddings").iterdir()
    files = [file for name in ("features", "journal") for file in (folder / name).rglob("*") if file.is_file()]
    assert len(files) == 3
    assert 65_536 <= sum(file.stat().st_size for file in files) < 65_536 + 10_000


def test_embedding_after_growth_computes_only_what_is_new(samkit, job, write_pair, tmp_path, rows_of):
    before = rows_of(job.workspace)
    write_nifti_pair(tmp_path / "more", "later", draw_subject(9, shape=(5, 36, 32), spacing_mm=(10.0, 6.0, 6.0)))
    samkit("ingest", tmp_path / "more", *job.flag)
    ended = samkit(*EMBED, *job.flag)
    assert "21 slices: 16 have a row, 5 to compute" in ended.said
    after = rows_of(job.workspace)
    assert len(after["later"]) == 5
    assert all(np.array_equal(after[name], rows) for name, rows in before.items())


def test_a_slice_that_occurs_in_two_volumes_is_embedded_once(samkit, ingested):
    shutil.copy(ingested.data / "imagesTr/a.nii.gz", ingested.data / "imagesTr/twin.nii.gz")
    samkit("ingest", ingested.data, *ingested.flag)
    assert "8 slices: 0 have a row, 8 to compute" in samkit(*EMBED, *ingested.flag).said
    features = package.open_workspace(ingested.workspace).embeddings()
    assert np.array_equal(features["twin"], features["a"])


def test_another_size_is_another_recipe_beside_the_first_and_the_difference_is_said(samkit, job):
    ended = samkit("embed", "--size", "32", *job.flag)
    assert "is another recipe and is kept" in ended.said
    assert "input_px: 64 -> 32" in ended.said
    assert sorted(kept.recipe.input_px for kept in package.open_workspace(job.workspace).recipes().values()) == [32, 64]


def test_a_recipe_can_be_gone_on_with_by_its_id(samkit, job):
    recipe_id = package.open_workspace(job.workspace).embeddings("nano").recipe.id
    samkit("embed", "--size", "32", *job.flag)
    assert f"recipe {recipe_id}" in samkit("embed", "--recipe", recipe_id, *job.flag).said


def test_the_features_are_finite_and_of_the_stated_shape(finished):
    features = package.open_workspace(finished.workspace).embeddings("nano")["patient0"]
    assert features.shape == (4, 256, 4, 4)
    assert np.isfinite(features).all()


def test_the_encoder_that_nobody_chose_says_what_it_is_and_which_to_choose(samkit, ingested):
    said = samkit(*EMBED, *ingested.flag).said
    assert "nano comes with samkit and was trained on drawn pictures alone" in said
    assert f"samkit weights get sam_vit_b, then samkit embed --encoder sam_vit_b {' '.join(ingested.flag)}" in said


def test_an_encoder_that_does_not_come_with_samkit_is_not_said_to(samkit, job):
    assert "comes with samkit" not in samkit(*EMBED, "--weights", "seeded", *job.flag).said


def test_weights_from_a_seed_are_called_so_everywhere(samkit, job):
    for verb in ((*EMBED, "--weights", "seeded"), TRAIN, ("report",), ("status",)):
        assert "seeded" in samkit(*verb, *job.flag).said.lower(), verb


# -- train-head ------------------------------------------------------------------------------------


def test_training_again_finds_the_run_there_already(samkit, job, files_of):
    before = files_of(job.workspace / "runs")
    ended = samkit(*TRAIN, *job.flag)
    assert ended.code == 0
    assert "was there already" in ended.said
    assert files_of(job.workspace / "runs") == before


def test_draws_are_runs_of_their_own(samkit, job):
    assert samkit(*TRAIN, "--draws", "2", *job.flag).code == 0
    assert [run.alias for run in package.open_workspace(job.workspace).runs.values()] == ["linear@1#0", "linear@1#1"]


@pytest.mark.parametrize("head", ["linear", "autosam"])
def test_a_head_that_is_loaded_answers_on_four_times_the_grid(samkit, job, head):
    import torch

    samkit("train-head", head, "--volumes", "1", "--steps", "3", *job.flag)
    run = package.open_workspace(job.workspace).runs.find(f"{head}@1#0")
    assert package.load_head(run.folder)(torch.zeros(2, 256, 4, 4)).shape == (2, 5, 16, 16)


def test_streamed_features_give_the_very_run_that_kept_ones_give(samkit, job):
    """--memory changes where features wait, not what is learnt; it is no part of the run's id."""
    workspace = package.open_workspace(job.workspace)
    (kept,) = workspace.runs.values()
    weights = (kept.folder / "head.safetensors").read_bytes()
    shutil.rmtree(kept.folder)
    assert samkit(*TRAIN, "--memory", "0", *job.flag).code == 0
    (streamed,) = workspace.runs.values()
    assert streamed.record["features_streamed"]
    assert streamed.id == kept.id
    assert (streamed.folder / "head.safetensors").read_bytes() == weights


def test_a_run_records_what_it_cost_and_by_what_code(finished):
    (run,) = package.open_workspace(finished.workspace).runs.values()
    assert set(run.record["seconds"]) >= {"features", "fitting", "scoring"}
    assert run.record["peak_memory_bytes"] > 0
    assert run.record["code_version"]


def test_training_before_the_new_volumes_are_embedded_says_what_to_type(samkit, job, tmp_path):
    write_nifti_pair(tmp_path / "more", "later", draw_subject(9, shape=(5, 36, 32), spacing_mm=(10.0, 6.0, 6.0)))
    samkit("ingest", tmp_path / "more", *job.flag)
    ended = samkit("train-head", "linear", "--volumes", "4", "--steps", "3", *job.flag)
    assert ended.code == 1
    assert "have no embedding" in ended.said
    assert "samkit embed" in ended.said


def test_training_after_a_removal_counts_those_who_are_left_and_names_the_others(samkit, job):
    split = package.open_workspace(job.workspace).split()
    samkit("remove", split.pool[0], *job.flag)
    ended = samkit(*TRAIN, *job.flag)
    assert ended.code == 0
    assert f"1 of {len(split.pool) - 1} subjects (1 labelled volume in the first draw)" in ended.said
    assert f"neither drawn nor scored: {split.pool[0]}" in ended.err


def test_training_without_a_test_subject_left_is_refused_with_their_names(samkit, job):
    split = package.open_workspace(job.workspace).split()
    samkit("remove", *split.test, *job.flag)
    ended = samkit(*TRAIN, *job.flag)
    assert ended.code == 2
    assert f"every test subject of split 'default' was removed, or has no label now ({', '.join(split.test)})" in (
        ended.said
    )
    assert "samkit ingest SOURCE" in ended.said


# -- samkit alone ----------------------------------------------------------------------------------


def test_alone_it_lists_its_verbs_and_says_how_to_begin(samkit):
    ended = samkit()
    assert ended.code == 0
    assert "train-head" in ended.out
    assert "next: samkit ingest FOLDER" in ended.said


def test_alone_in_a_folder_with_a_workspace_it_says_what_comes_next(samkit, job, monkeypatch):
    monkeypatch.setenv("SAMKIT_WORKSPACE", str(job.workspace))
    ended = samkit()
    assert ended.code == 0
    assert "4 volumes, 1 recipe embedded, 1 run" in ended.said
    assert f"next: samkit report --workspace {job.workspace}" in ended.said


def test_alone_it_does_not_look_behind_a_url(samkit, monkeypatch):
    monkeypatch.setenv("SAMKIT_WORKSPACE", "s3://bucket/workspace")
    assert "next: samkit status --workspace s3://bucket/workspace" in samkit().said


# -- how much is said ------------------------------------------------------------------------------


def test_a_refusal_says_where_it_came_from_when_that_is_asked_for(samkit, job):
    wrong = ("train-head", "nothing", "--volumes", "1", *job.flag)
    assert "check_name" not in samkit(*wrong).err
    told = samkit("-v", *wrong)
    assert told.code == 2
    assert "check_name" in told.err
    assert "check_name" not in samkit(*wrong).err, "the next command is as it always is"


def test_quietly_there_are_results_and_no_lines_of_progress(samkit, job, monkeypatch):
    monkeypatch.setattr("samkit.pipeline.console._SECONDS_BETWEEN_LINES", 0.0)
    train = ("train-head", "linear", "--volumes", "1", "--steps", "2", "--seed")
    assert "fitting: 2 of 2 steps" in samkit(*train, "5", *job.flag).err
    quiet = samkit("-q", *train, "6", *job.flag)
    assert quiet.err == ""
    assert "linear" in quiet.out


@pytest.mark.parametrize(("asked", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_without_colour_nothing_is_coloured(asked, coloured):
    ended = subprocess.run(
        [sys.executable, "-m", "samkit.pipeline.cli", "status", "--workspace", "nowhere"],
        capture_output=True,
        text=True,
        env={**os.environ, "FORCE_COLOR": "1", **asked},
        check=False,
    )
    assert "error" in ended.stderr
    assert ("31m" in ended.stderr) is coloured, "red"


# -- status and report -----------------------------------------------------------------------------


def test_status_as_json_parses_and_counts(samkit, finished):
    status = json.loads(samkit("status", "--json", *finished.flag).out)
    assert status["dataset"] | {"labels": ""} == {
        "volumes": 4,
        "subjects": 4,
        "labelled": 4,
        "slices": 16,
        "geometry_unknown": 0,
        "labels": "",
    }
    (embeddings,) = status["embeddings"]
    assert (embeddings["rows"], embeddings["missing"], embeddings["orphaned"]) == (16, 0, 0)
    assert [run["alias"] for run in status["runs"]] == ["linear@1#0"]


def test_status_says_what_comes_next(samkit, ingested):
    assert "next: samkit embed" in samkit("status", *ingested.flag).said
    samkit(*EMBED, *ingested.flag)
    assert "next: samkit train-head" in samkit("status", *ingested.flag).said
    samkit(*TRAIN, *ingested.flag)
    assert "next: samkit report" in samkit("status", *ingested.flag).said


def test_what_is_trained_first_is_what_is_quick_with_the_encoder(samkit, ingested, tmp_path):
    said = samkit(*EMBED, *ingested.flag).said
    assert "next: samkit train-head linear --volumes 1 --draws 3" in said
    assert "next: samkit train-head linear --volumes 1 --draws 3" in samkit("status", *ingested.flag).said


def test_status_says_how_a_recipe_goes_on_beside_one_that_is_whole(samkit, job):
    samkit("embed", "--size", "48", *job.flag)
    begun = package.open_workspace(job.workspace).embeddings("nano")
    begun.retire(list(begun.journal.records)[:1])
    said = samkit("status", *job.flag).said
    assert re.search(rf"{begun.folder.name}: \d+ slices? without a row; samkit embed --recipe {begun.recipe.id}", said)
    assert "next: samkit report" in said


def test_a_log_has_a_line_for_each_tenth_of_a_long_work_at_most(monkeypatch, capsys):
    now = iter(range(0, 100_000, 7))  # seconds
    monkeypatch.setattr("samkit.pipeline.console.time.monotonic", lambda: next(now))
    monkeypatch.setattr("samkit.pipeline.console._LONGEST_SILENCE_SECONDS", 1e9)
    with console.progress_bar("fitting", 300, "steps") as bar:
        for _ in range(300):
            bar.advance()
    assert capsys.readouterr().err.count("fitting: ") == 10


def test_a_long_silence_of_a_slow_work_is_broken(monkeypatch, capsys):
    now = iter(range(0, 100_000, 61))
    monkeypatch.setattr("samkit.pipeline.console.time.monotonic", lambda: next(now))
    with console.progress_bar("fitting", 300, "steps") as bar:
        for _ in range(3):
            bar.advance()
    assert capsys.readouterr().err.count("fitting: ") == 3


def test_what_is_printed_as_next_can_be_typed(samkit, ingested):
    samkit("embed", "--size", "64", *ingested.flag)
    said = samkit("status", *ingested.flag).said
    command = said.rpartition("next: samkit ")[2].split()
    assert command[command.index("--workspace") + 1] == str(ingested.workspace)


def test_a_mask_without_a_reference_is_told_by_how_much_of_each_class_it_holds(samkit, finished, tmp_path, write_pair):
    write_pair(tmp_path / "new", "someone", seed=8, label=False)
    ended = samkit("predict", "linear@1#0", tmp_path / "new/imagesTr", "--output", tmp_path / "masks", *finished.flag)
    assert ended.code == 0, ended.said
    assert "Dice" not in ended.out
    (mask,) = (tmp_path / "masks").iterdir()
    found = nib.load(mask)
    voxels = np.count_nonzero(np.asanyarray(found.dataobj) == 1)
    assert f"{voxels * np.prod(found.header.get_zooms()) / 1000:.1f} ml" in ended.out


def test_no_command_writes_outside_the_workspace_and_what_was_named(samkit, finished, files_of, tmp_path):
    before = files_of(finished.data)
    samkit("predict", "latest", "--output", tmp_path / "masks", *finished.flag)
    assert files_of(finished.data) == before


# -- going on --------------------------------------------------------------------------------------


def test_embed_without_flags_goes_on_with_the_recipe_that_is_there(samkit, job):
    ended = samkit("embed", *job.flag)
    assert ended.code == 0
    assert "0 to compute" in ended.said
    assert len(package.open_workspace(job.workspace).recipes()) == 1


def test_a_recipe_that_was_begun_and_left_is_not_taken_for_training(samkit, job):
    complete = package.open_workspace(job.workspace).embeddings("nano").recipe.id
    samkit("embed", "--size", "48", *job.flag)
    begun = package.open_workspace(job.workspace).embeddings("nano")
    begun.retire(list(begun.journal.records))
    assert package.open_workspace(job.workspace).embeddings("nano").recipe.id == complete


def test_status_names_the_recipe_that_lacks_rows(samkit, job):
    embeddings = package.open_workspace(job.workspace).embeddings("nano")
    embeddings.retire(list(embeddings.journal.records)[:1])
    assert f"next: samkit embed --recipe {embeddings.recipe.id}" in samkit("status", *job.flag).said


def test_a_slice_that_cannot_be_read_costs_its_shard_and_is_named(samkit, job):
    workspace = package.open_workspace(job.workspace)
    volume = next(iter(workspace.volumes.values()))
    (workspace.path / volume.record.pixels / "image" / "0.0.0.0").remove()
    ended = samkit("embed", "--size", "48", *job.flag)
    assert ended.code == 3
    assert volume.id in ended.err
    assert "Traceback" not in ended.said


def test_a_fit_that_diverges_says_at_which_step_and_what_to_try(samkit, job):
    ended = samkit(*TRAIN[:-1], "40", "--learning-rate", "1e18", *job.flag)
    assert ended.code == 1
    assert "the fit has diverged" in ended.err
    assert "--learning-rate 1e+17" in ended.err


def test_a_refusal_names_the_workspace_for_the_command_it_suggests(samkit, ingested):
    ended = samkit("train-head", "linear", "--volumes", "1", *ingested.flag)
    assert ended.code == 1
    assert f"--workspace {ingested.workspace}" in ended.err


@pytest.mark.parametrize("head", ["hybrid", "ladder"])
def test_grey_and_colour_pictures_of_one_folder_are_trained_on_together(samkit, coloured, head):
    ended = samkit("train-head", head, "--volumes", "2", "--steps", "2", *coloured)
    assert ended.code == 0, ended.said


def test_a_network_on_slices_refuses_grey_and_colour_before_the_fit(samkit, coloured):
    samkit("remove", "film0", "film1", *coloured)  # so that one is drawn and the other scored
    ended = samkit("train-head", "unet", "--volumes", "1", "--steps", "2", *coloured)
    assert ended.code == 1
    assert "1 (as film" in ended.said
    assert "linear" in ended.said


@pytest.fixture
def coloured(samkit, tmp_path) -> tuple[str, ...]:
    """The workspace of a folder in which every second picture has colours, embedded."""
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for number in range(4):
        pixels = random.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels if number % 2 else pixels[..., 0]).save(tmp_path / f"data/images/film{number}.png")
        Image.fromarray((pixels[..., 0] > 128).astype(np.uint8)).save(tmp_path / f"data/labels/film{number}.png")
    flags = ("--workspace", str(tmp_path / "coloured"))
    for command in (("ingest", tmp_path / "data", "--ids", "stem"), ("embed", "--size", "64")):
        assert samkit(*command, *flags).code == 0
    return flags
