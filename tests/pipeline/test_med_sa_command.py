"""`embed --tap` keeps what enters a block, and `train-head med-sa` trains the blocks after it beside other heads."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

import samkit as package
from samkit.heads.comparison import standings

TAP = ("embed", "--tap", "block:3")
TRAIN = ("train-head", "med-sa", "--volumes", "1", "--steps", "2")


@pytest.fixture
def tapped(samkit, job):
    """The workspace with what enters block 3 beside what the encoder ends with."""
    assert samkit(*TAP, *job.flag).code == 0
    return job


def newest_run(job):
    return list(package.open_workspace(job.workspace).runs.values())[-1]


def taps_of(job):
    return [kept for kept in package.open_workspace(job.workspace).recipes().values() if kept.recipe.block is not None]


def test_a_tap_is_embedded_beside_what_is_there_once(samkit, job):
    first = samkit(*TAP, *job.flag)
    assert first.code == 0, first.said
    assert "is another recipe and is kept: tap: neck -> block:3" in first.said
    assert "192x4x4 a slice in float16 of what enters its block 3" in first.said
    assert " 0 to compute" in samkit(*TAP, *job.flag).said
    assert {kept.recipe.tap for kept in package.open_workspace(job.workspace).recipes().values()} == {"neck", "block:3"}


def test_without_a_tap_what_the_encoder_ends_with_goes_on(samkit, tapped):
    said = samkit("embed", *tapped.flag).said
    assert "256x4x4 a slice" in said
    assert " 0 to compute" in said


def test_rows_that_were_begun_elsewhere_go_on_at_another_tap_by_their_recipe(samkit, job):
    (kept,) = package.open_workspace(job.workspace).recipes().values()
    assert samkit("embed", "--recipe", kept.recipe.id, "--tap", "block:1", *job.flag).code == 0
    taps = [one.recipe for one in package.open_workspace(job.workspace).recipes().values()]
    assert [one.differences(kept.recipe) for one in taps if one.tap != "neck"] == [["tap: block:1 -> neck"]]


def test_other_heads_are_trained_on_what_the_encoder_ends_with_as_before(samkit, tapped):
    assert "rows in float16" in samkit("train-head", "linear", "--volumes", "1", "--steps", "2", *tapped.flag).said
    assert package.open_workspace(tapped.workspace).embeddings().recipe.tap == "neck"


def test_it_is_trained_on_the_tap_and_says_what_is_trained(samkit, tapped):
    ended = samkit(*TRAIN, *tapped.flag)
    assert ended.code == 0, ended.said
    assert "rows of block:3 in float16" in ended.said
    assert "Numbers that are trained:" in ended.said
    parts = newest_run(tapped).record["parameters"]
    assert parts["space_adapters"] == {"trained": 3 * (2 * 192 * 48 + 48 + 192), "frozen": 0}
    assert parts["tail"]["trained"] == parts["prefix"]["trained"] == 0
    # All of the encoder is told of, that part too which is only in the cache.
    encoder = package.load_encoder("nano", size=64)
    whole = sum(parameter.numel() for parameter in encoder.model.parameters())
    assert parts["tail"]["frozen"] + parts["prefix"]["frozen"] == whole


def test_the_last_tap_that_its_blocks_can_begin_from_is_taken(samkit, tapped):
    assert samkit("embed", "--tap", "block:1", *tapped.flag).code == 0
    assert "rows of block:3" in samkit(*TRAIN, *tapped.flag).said
    assert "rows of block:1" in samkit(*TRAIN, "--adapted-blocks", "last:4", *tapped.flag).said


def test_a_tap_of_the_same_weights_and_size_goes_before_another(samkit, tapped):
    assert samkit("embed", "--size", "128", "--tap", "block:3", *tapped.flag).code == 0
    assert samkit(*TRAIN, *tapped.flag).code == 0
    assert newest_run(tapped).record["encoder_recipe"]["input_px"] == 64


def test_a_tap_that_was_begun_and_left_is_not_taken(samkit, tapped):
    assert samkit("embed", "--tap", "block:4", *tapped.flag).code == 0
    begun = next(kept for kept in taps_of(tapped) if kept.recipe.block == 4)
    shutil.rmtree(begun.folder.path / "journal")
    (begun.folder.path / "journal").mkdir()
    assert "rows of block:3" in samkit(*TRAIN, "--adapted-blocks", "last:2", *tapped.flag).said


def test_a_recipe_that_is_named_is_the_one(samkit, tapped):
    assert samkit("embed", "--tap", "block:1", *tapped.flag).code == 0
    early = next(kept for kept in taps_of(tapped) if kept.recipe.block == 1)
    for name in (early.recipe.id, early.folder.name):
        assert "rows of block:1" in samkit(*TRAIN, "--encoder", name, *tapped.flag).said


@pytest.mark.parametrize("block", [0, 3, 5])
def test_what_it_says_to_type_next_works(samkit, job, block):
    said = samkit("embed", "--tap", f"block:{block}", *job.flag).said
    _, _, command = said.rpartition("next: samkit ")
    assert samkit(*command.split(), "--steps", "1").code == 0


def test_where_only_a_tap_is_there_an_embedding_is_made_with_its_size(samkit, ingested):
    assert samkit("embed", "--size", "64", "--tap", "block:2", *ingested.flag).code == 0
    assert samkit("embed", *ingested.flag).code == 0
    recipes = [kept.recipe for kept in package.open_workspace(ingested.workspace).recipes().values()]
    assert [(recipe.tap, recipe.input_px) for recipe in recipes] == [("block:2", 64), ("neck", 64)]


def test_where_only_a_tap_is_there_other_heads_say_what_to_embed(samkit, ingested):
    assert samkit("embed", "--size", "64", "--tap", "block:2", *ingested.flag).code == 0
    ended = samkit("train-head", "linear", "--volumes", "1", *ingested.flag)
    assert ended.code == 1
    assert "Make that: samkit embed --encoder nano" in ended.said


def test_tapped_rows_are_verified_by_encoding_them_again(samkit, tapped):
    recipe = taps_of(tapped)[0].recipe.id
    assert samkit("verify", "--recompute", "3", "--recipe", recipe, *tapped.flag).code == 0


def test_without_a_tap_it_says_which_to_embed(samkit, job):
    ended = samkit(*TRAIN, *job.flag)
    assert ended.code == 1
    assert "Make it: samkit embed --encoder nano --tap block:3" in ended.said


def test_it_sits_in_one_table_with_other_heads(samkit, tapped):
    grid = ("experiment", "--heads", "med-sa,med-sa:sd-trans=off,med-sa:prompt=point:1:hyp=off,linear,sam-box")
    amounts = ("--volumes", "1", "--draws", "1", "--steps", "2")
    ended = samkit(*grid, *amounts, *tapped.flag)
    assert ended.code == 0, ended.said
    for head in ("med-sa:sd-trans=off", "med-sa:hyp=off:prompt=point:1", "linear", "sam-box"):
        assert head in ended.said
    assert "5 runs, 5 of them there already" in samkit(*grid, *amounts, *tapped.flag).said


@pytest.mark.parametrize("prompt", ["point:1", "point:3", "clicks:3", "box:tight", "box:jittered", "box:0.5"])
def test_asked_with_any_prompt_it_says_that_the_reference_asked(samkit, tapped, prompt):
    ended = samkit(*TRAIN, "--prompt", prompt, *tapped.flag)
    assert ended.code == 0, ended.said
    assert f"med-sa:prompt={prompt} is asked with prompts that are made from the test" in ended.said
    assert f"med-sa:prompt={prompt}" in samkit("report", *tapped.flag).said


def test_all_blocks_are_adapted_live_without_any_row(samkit, job):
    ended = samkit(*TRAIN, "--adapted-blocks", "all", *job.flag)
    assert ended.code == 0, ended.said
    assert "rows that are embedded are not read" in ended.said
    assert newest_run(job).settings.head == "med-sa-live"


def test_the_same_command_gives_the_same_head(samkit, tapped):
    assert samkit(*TRAIN, *tapped.flag).code == 0
    first = newest_run(tapped).record["head_sha256"]
    shutil.rmtree(tapped.workspace / "runs" / newest_run(tapped).id)
    assert samkit(*TRAIN, *tapped.flag).code == 0
    assert newest_run(tapped).record["head_sha256"] == first


def test_a_run_predicts_files_that_were_never_embedded(samkit, tapped, tmp_path):
    assert samkit(*TRAIN, *tapped.flag).code == 0
    run = newest_run(tapped)
    fresh = tmp_path / "elsewhere"
    ended = samkit("predict", run.id, tapped.data, "--output", fresh, *tapped.flag)
    assert ended.code == 0, ended.said
    for volume_id, prediction in run.predictions.items():
        (mask,) = fresh.glob(f"*{volume_id}*")
        assert np.count_nonzero(nib.load(mask).get_fdata()) == np.count_nonzero(prediction)


def test_a_prompted_run_predicts_no_files_and_says_so_before_any_work(samkit, tapped, tmp_path):
    assert samkit(*TRAIN, "--prompt", "point:1", *tapped.flag).code == 0
    run = newest_run(tapped)
    ended = samkit("predict", run.id, tapped.data, "--output", tmp_path / "masks", *tapped.flag)
    assert ended.code == 2
    assert "is prompted from the reference, which files to be predicted do not have" in ended.said
    assert samkit("predict", run.id, "--output", tmp_path / "own", *tapped.flag).code == 0


def test_heads_that_are_told_by_the_reference_are_compared_among_themselves(samkit, tapped):
    heads = "linear,ridge,med-sa:prompt=box:tight,med-sa:prompt=box:tight:hyp=off"
    ended = samkit("experiment", "--heads", heads, "--volumes", "1", "--draws", "1", "--steps", "2", *tapped.flag)
    assert "told by the test subjects' reference where things are, and compared with each other alone" in ended.said
    found = standings(package.open_workspace(tapped.workspace).runs.values())
    assert {(one.head.startswith("med-sa"), one.best.startswith("med-sa")) for one in found} == {
        (True, True),
        (False, False),
    }


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("embed", "--tap", "block:6"), "nano has neck, what it ends with, and block:0 to block:5"),
        ((*TRAIN, "--adapted-blocks", "last:7"), "the encoder has 6 blocks"),
        ((*TRAIN, "--adapted-blocks", "three"), "adapted-blocks=three: med-sa knows last:3, last:N"),
        ((*TRAIN, "--prompt", "point:2"), "prompt=point:2: med-sa knows none, point:1"),
        ((*TRAIN, "--chunk", "99"), "so that no 99 follow each other"),
        ((*TRAIN, "--tiles"), "sees slices whole"),
        (("train-head", "linear", "--volumes", "1", "--prompt", "point:1"), "linear has no option of that name"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(samkit, tapped, command, told):
    ended = samkit(*command, *tapped.flag)
    assert ended.code in (1, 2)
    assert told in ended.said


def test_a_head_that_begins_from_the_mask_decoder_refuses_an_inner_tap(samkit, tapped):
    recipes = package.open_workspace(tapped.workspace).recipes().values()
    inner = next(kept.recipe.id for kept in recipes if kept.recipe.block is not None)
    ended = samkit("train-head", "autosam", "--volumes", "1", "--encoder", inner, *tapped.flag)
    assert ended.code == 2
    assert "reads what the encoder ends with, and the rows of" in ended.said


def test_a_probe_may_look_at_an_inner_layer(samkit, tapped):
    recipes = package.open_workspace(tapped.workspace).recipes().values()
    inner = next(kept.recipe.id for kept in recipes if kept.recipe.block is not None)
    assert samkit("train-head", "ridge", "--volumes", "1", "--encoder", inner, *tapped.flag).code == 0
