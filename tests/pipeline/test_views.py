"""`samkit embed --views`, as a user types it: a bank of the training pool beside the slices as they are."""

from __future__ import annotations

import numpy as np
import torch

import samkit as package
from samkit.heads.views import View
from samkit.store.keys import RowKey

EMBED = ("embed", "--size", "64", "--precision", "float32")


def rows_by_view(workspace):
    """How many rows there are of each view of each volume."""
    opened = package.open_workspace(workspace)
    volume_of = {digest: volume.id for volume in opened.volumes.values() for digest in volume.slice_digests}
    counts = {}
    for key in opened.embeddings().journal:
        place = volume_of[key.slice_digest], key.view
        counts[place] = counts.get(place, 0) + 1
    return counts


def test_the_training_pool_has_the_bank_and_the_others_their_slices(samkit, ingested):
    ended = samkit(*EMBED, "--views", "flip-rows,gamma0.8", *ingested.flag)
    assert ended.code == 0
    split = package.open_workspace(ingested.workspace).split()
    (pool,), (test,) = split.pool, split.test
    found = rows_by_view(ingested.workspace)
    slices = found[pool, "identity"]
    assert found == {
        (pool, "identity"): slices,
        (test, "identity"): slices,
        (pool, "flip-rows"): slices,
        (pool, "gamma0.80"): slices,
    }
    assert f"2 more views of {slices} slices of the training pool (1 subject, split 'default')" in ended.said


def test_a_row_of_a_view_is_the_features_of_the_transformed_slice(samkit, ingested):
    samkit(*EMBED, "--views", "rotate90,rotate+7-bilinear:gamma0.80", "--views-for", "all", *ingested.flag)
    opened = package.open_workspace(ingested.workspace)
    embeddings = opened.embeddings()
    encoder = package.load_encoder("nano", size=64)
    for volume in opened.volumes.values():
        for view in ("identity", "rotate90", "rotate+7-bilinear:gamma0.80"):
            plane = View.parse(view).apply_to_image(volume.read_slice(1))
            expected = encoder(torch.from_numpy(plane[None])).numpy()
            found = embeddings.read([RowKey(slice_digest=volume.slice_digests[1], view=view)])
            assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_a_bank_that_is_there_is_not_computed_again_and_a_larger_one_adds_its_own(samkit, ingested):
    samkit(*EMBED, "--views", "reflections", *ingested.flag)
    before = rows_by_view(ingested.workspace)
    assert "0 to compute" in samkit(*EMBED, "--views", "reflections", *ingested.flag).said
    ended = samkit(*EMBED, "--views", "dihedral", *ingested.flag)
    slices = max(before.values())
    assert f"{3 * slices} to compute" in ended.said
    assert before.items() <= rows_by_view(ingested.workspace).items()


def test_the_draws_after_a_bank_are_of_the_pool_that_has_it(samkit, ingested):
    samkit(*EMBED, "--views", "flip-rows", *ingested.flag)
    before = package.open_workspace(ingested.workspace).split()
    ended = samkit("train-head", "linear", "--volumes", "1", "--steps", "3", *ingested.flag)
    assert ended.code == 0
    (run,) = package.open_workspace(ingested.workspace).runs.values()
    assert run.settings.drawn == before.pool
    assert run.settings.split_digest == before.digest


def test_rows_of_views_are_derived_in_another_precision_without_the_encoder(samkit, ingested):
    bank = ("--views", "flip-rows", "--views-for", "all")
    samkit(*EMBED, "--store", "float32", *bank, *ingested.flag)
    before = rows_by_view(ingested.workspace)
    ended = samkit("embed", "--store", "int8", *bank, *ingested.flag)
    assert f"{sum(before.values())} rows of nano" in ended.said
    assert "without the encoder" in ended.said
    assert rows_by_view(ingested.workspace) == before


def test_a_dry_run_says_what_a_bank_costs_and_writes_nothing(samkit, ingested, files_of):
    before = files_of(ingested.workspace)
    ended = samkit(*EMBED, "--views", "sam-lst", "--views-for", "all", "--dry-run", *ingested.flag)
    assert ended.code == 0
    assert "views sam-lst: 43 more views of every slice" in ended.said
    assert "44.0 times as many" in ended.said
    assert files_of(ingested.workspace) == before


def test_rows_of_views_are_verified_with_the_others(samkit, ingested):
    samkit(*EMBED, "--views", "flip-rows,rotate-5-nearest", "--views-for", "all", *ingested.flag)
    rows = sum(rows_by_view(ingested.workspace).values())
    ended = samkit("verify", "--recompute", "1000", *ingested.flag)
    assert ended.code == 0
    assert f"{rows} rows of nano" in ended.said


def test_an_unknown_word_in_a_file_of_views_ends_it_before_anything_is_computed(samkit, ingested, files_of, tmp_path):
    before = files_of(ingested.workspace)
    file = tmp_path / "ours.txt"
    file.write_text("flip-rows\nflip-colums\n")
    ended = samkit(*EMBED, "--views", str(file), *ingested.flag)
    assert ended.code == 1
    assert "ours.txt, line 2: the view 'flip-colums': did you mean 'flip-columns'?" in ended.said
    assert files_of(ingested.workspace) == before


def test_without_labels_views_want_to_be_told_whose(samkit, write_pair, tmp_path):
    write_pair(tmp_path / "data", "a", label=False)
    flag = ("--workspace", str(tmp_path / "workspace"))
    assert samkit("ingest", tmp_path / "data", *flag).code == 0
    ended = samkit(*EMBED, "--views", "reflections", *flag)
    assert ended.code == 2
    assert "no volume has a label" in ended.said
    assert "--views-for all" in ended.said
    assert samkit(*EMBED, "--views", "reflections", "--views-for", "all", *flag).code == 0


# -- training on a bank ------------------------------------------------------------------------------------------------

TRAIN = ("train-head", "linear", "--volumes", "1", "--steps", "4")


def test_a_head_is_fitted_to_the_views_that_are_asked_for(samkit, ingested):
    samkit(*EMBED, "--views", "reflections", *ingested.flag)
    ended = samkit(*TRAIN, "--views", "reflections", *ingested.flag)
    assert ended.code == 0
    assert "views reflections: every slice that the head is fitted to, in 5 views" in ended.said
    (run,) = package.open_workspace(ingested.workspace).runs.values()
    assert run.settings.views == ("identity", "flip-rows", "flip-columns", "transpose", "anti-transpose")


def test_views_that_nobody_asked_for_are_pointed_out_and_left(samkit, ingested):
    samkit(*EMBED, "--views", "flip-rows,gamma0.80", *ingested.flag)
    ended = samkit(*TRAIN, *ingested.flag)
    assert "embedded in 3 views, and the head is fitted to one of them: add --views flip-rows,gamma0.80" in ended.said
    (run,) = package.open_workspace(ingested.workspace).runs.values()
    assert run.settings.views == ("identity",)


def test_runs_with_views_and_without_are_two_and_the_report_tells_them_apart(samkit, ingested):
    samkit(*EMBED, "--views", "flip-rows", *ingested.flag)
    for flags in ((), ("--views", "flip-rows"), ("--views", "flip-rows")):
        assert samkit(*TRAIN, *flags, *ingested.flag).code == 0
    assert len(package.open_workspace(ingested.workspace).runs) == 2
    told = samkit("report", *ingested.flag).said
    assert "views none" in told
    assert "views flip-rows" in told


def test_views_that_are_not_embedded_are_refused_with_a_command_that_helps(samkit, ingested):
    samkit(*EMBED, *ingested.flag)
    ended = samkit(*TRAIN, "--views", "transpose,gamma0.80", *ingested.flag)
    assert ended.code == 1
    recipe = package.open_workspace(ingested.workspace).embeddings().recipe.id
    assert f"samkit embed --views transpose,gamma0.80 --recipe {recipe}" in ended.said
    assert samkit("embed", "--views", "transpose,gamma0.80", "--recipe", recipe, *ingested.flag).code == 0
    assert samkit(*TRAIN, "--views", "transpose,gamma0.80", *ingested.flag).code == 0


def test_views_of_a_split_of_ones_own_are_refused_with_a_command_that_helps(samkit, ingested):
    samkit(*EMBED, *ingested.flag)
    assert samkit("split", "mine", "--seed", "1", *ingested.flag).code == 0
    ended = samkit(*TRAIN, "--split", "mine", "--views", "gamma0.80", *ingested.flag)
    recipe = package.open_workspace(ingested.workspace).embeddings().recipe.id
    assert f"samkit embed --views gamma0.80 --split mine --recipe {recipe}" in ended.said
    embed = ("embed", "--views", "gamma0.80", "--split", "mine", "--recipe", recipe)
    assert samkit(*embed, *ingested.flag).code == 0
    assert samkit(*TRAIN, "--split", "mine", "--views", "gamma0.80", *ingested.flag).code == 0


def test_an_unknown_view_is_refused_before_anything_is_trained(samkit, ingested):
    samkit(*EMBED, *ingested.flag)
    ended = samkit(*TRAIN, "--views", "flip-row", *ingested.flag)
    assert ended.code == 2
    assert "did you mean 'flip-rows'" in ended.said


def test_a_head_that_sees_slices_is_shown_views_that_nobody_embedded(samkit, ingested):
    ended = samkit("train-head", "unet", "--volumes", "1", "--steps", "2", "--views", "reflections", *ingested.flag)
    assert ended.code == 0
    assert "each patch is of a slice in one of 5 views" in ended.said


def test_an_experiment_shows_all_heads_the_same_views(samkit, ingested):
    samkit(*EMBED, "--views", "reflections", *ingested.flag)
    grid = ["experiment", "--heads", "linear,unet", "--volumes", "1", "--draws", "1", "--steps", "2"]
    assert samkit(*grid, "--views", "reflections", *ingested.flag).code == 0
    runs = package.open_workspace(ingested.workspace).runs.values()
    assert {(run.settings.head, len(run.settings.views)) for run in runs} == {("linear", 5), ("unet", 5)}
