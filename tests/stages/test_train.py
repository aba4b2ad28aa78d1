"""A run repeats bitwise, learns, and never sees what it is scored on."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples.tiles import DISKS, embed_tiles, workspace_of_disks
from examples.tiny_sam import TINY, checkpoint, tensors
from examples.workspaces import LABEL_NAMES, add_volume, boxes, embed, embed_rows, workspace_of_boxes

import samkit as package
from samkit.heads.autosam import AutoSam
from samkit.heads.base import find_head, load_head
from samkit.heads.feeding import LabelledSlices
from samkit.heads.frame import Frame
from samkit.heads.inference import segment, segment_volume
from samkit.heads.linear import Linear
from samkit.heads.recipes import FitOptions
from samkit.heads.sampling import draw_subjects
from samkit.heads.tiling import Tiling, row_keys
from samkit.stages.encoders.nano import NANO
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.train import train, train_together
from samkit.stages.training.plan import TrainOptions, draw_of, labelled_volumes, plan_run, split_of
from samkit.store.errors import DeviceError, InputError, MissingEmbeddings, StoreError, UsageError
from samkit.store.runs import stale_because
from samkit.store.splits import Split
from samkit.store.workspace import Workspace


@pytest.fixture(scope="module")
def tiny():
    return TINY.load(None)


def options(head="linear", subjects=1, steps=6, memory_bytes=None, **more):
    fit = FitOptions(steps=steps, batch_size=2, validate_every=3)
    return TrainOptions(head=head, subjects=subjects, draw=0, fit=fit, memory_bytes=memory_bytes, **more)


def trained(workspace, embeddings, **choices):
    chosen = options(**choices)
    return train(workspace, embeddings, find_head(chosen.head), chosen)


def head_file(run):
    return (run.folder / "head.safetensors").read_bytes()


def whole_run(path, tiny, **choices):
    workspace = workspace_of_boxes(path, subjects=5)
    return trained(workspace, embed(workspace, tiny), **choices)


# Repeating -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "autosam", "cnn", "ladder", "ridge", "prototype"])
@pytest.mark.parametrize("subjects", [1, 3])
def test_the_same_seed_in_two_workspaces_gives_the_same_head_and_scores(tmp_path, tiny, head, subjects):
    first, second = (whole_run(tmp_path / name, tiny, head=head, subjects=subjects) for name in ("one", "two"))
    assert head_file(first) == head_file(second)
    assert first.scores == second.scores
    assert first.id == second.id


@pytest.mark.parametrize("head", ["ridge", "prototype"])
def test_a_solved_head_uses_every_drawn_subject_and_takes_no_step(tmp_path, tiny, head):
    run = whole_run(tmp_path / "workspace", tiny, head=head, subjects=3)
    assert run.settings.validation is None
    assert len(run.record["training_volumes"]) == 3
    assert (run.steps, run.record["steps"], run.record["trainable_parameters"]) == ([], 0, 0)


def test_steps_make_no_other_run_of_a_solved_head(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    embeddings = embed(workspace, tiny)
    assert (
        trained(workspace, embeddings, head="ridge", steps=6).id
        == trained(workspace, embeddings, head="ridge", steps=7).id
    )


@pytest.mark.parametrize("head", ["linear", "cnn", "unet"])
def test_heads_trained_together_are_bitwise_those_trained_alone(tmp_path, tiny, head):
    together, alone = (workspace_of_boxes(tmp_path / name, subjects=5) for name in ("together", "alone"))
    chosen = [
        replace(options(head=head, subjects=3), fit=FitOptions(steps=steps, batch_size=2, learning_rate=rate))
        for steps, rate in ((4, 1e-2), (6, 1e-3), (6, 1e-2))
    ]
    seen = {place: None if head == "unet" else embed(place, tiny) for place in (together, alone)}
    runs = train_together(together, seen[together], find_head(head), chosen)
    expected = [train(alone, seen[alone], find_head(head), one) for one in chosen]
    assert [head_file(run) for run in runs] == [head_file(run) for run in expected]
    assert [run.id for run in runs] == [run.id for run in expected]
    assert len({head_file(run) for run in runs}) == 3


def test_a_head_that_stops_early_leaves_those_trained_with_it_as_they_are(tmp_path, tiny):
    together, alone = (workspace_of_boxes(tmp_path / name, subjects=5) for name in ("together", "alone"))
    fits = [
        FitOptions(steps=24, batch_size=2, learning_rate=rate, validate_every=2, patience=2) for rate in (3e-1, 1e-3)
    ]
    chosen = [replace(options(subjects=3), fit=fit) for fit in fits]
    seen = {place: embed(place, tiny) for place in (together, alone)}
    runs = train_together(together, seen[together], Linear, chosen)
    expected = [train(alone, seen[alone], Linear, one) for one in chosen]
    assert len(runs[0].steps) < len(runs[1].steps) == 24
    assert [head_file(run) for run in runs] == [head_file(run) for run in expected]
    assert [len(run.steps) for run in runs] == [len(run.steps) for run in expected]


def test_heads_trained_together_read_each_batch_once(tmp_path, tiny, monkeypatch):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    embeddings = embed(workspace, tiny)
    read = []
    batches = LabelledSlices.batches

    def counted(self, *arguments):
        for batch in batches(self, *arguments):
            read.append(batch)
            yield batch

    monkeypatch.setattr(LabelledSlices, "batches", counted)
    chosen = [replace(options(), fit=FitOptions(steps=5, batch_size=2, learning_rate=rate)) for rate in (1e-2, 1e-3)]
    train_together(workspace, embeddings, Linear, chosen)
    assert len(read) == 5


def test_what_is_trained_together_shares_its_batches(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    chosen = [options(), replace(options(), fit=FitOptions(steps=6, batch_size=4))]
    with pytest.raises(UsageError, match="on the same batches"):
        train_together(workspace, embed(workspace, tiny), Linear, chosen)


def test_what_is_trained_together_keeps_the_same_subject_to_stop_by_or_none(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    three = options(subjects=3)
    chosen = [replace(three, fit=replace(three.fit, validate_every=every)) for every in (None, 3)]
    with pytest.raises(UsageError, match="one subject to stop by or none"):
        train_together(workspace, embed(workspace, tiny), Linear, chosen)
    assert not workspace.runs


def test_another_seed_gives_another_head(tmp_path, tiny):
    assert head_file(whole_run(tmp_path / "a", tiny, seed=0)) != head_file(whole_run(tmp_path / "b", tiny, seed=1))


@pytest.mark.parametrize("head", ["linear", "ladder"])
@pytest.mark.parametrize("subjects", [1, 3])
def test_streamed_features_give_bitwise_the_head_that_features_in_memory_give(tmp_path, tiny, head, subjects):
    kept = whole_run(tmp_path / "kept", tiny, head=head, subjects=subjects)
    streamed = whole_run(tmp_path / "streamed", tiny, head=head, subjects=subjects, memory_bytes=0)
    assert (kept.record["features_streamed"], streamed.record["features_streamed"]) == (False, True)
    assert head_file(kept) == head_file(streamed)
    assert kept.scores == streamed.scores


def test_a_run_that_exists_is_returned_as_it_is(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    embeddings = embed(workspace, tiny)
    first = trained(workspace, embeddings)
    changed = (first.folder / "run.json").modified()
    assert trained(workspace, embeddings).id == first.id
    assert (first.folder / "run.json").modified() == changed


def test_the_random_numbers_and_settings_of_the_caller_are_left_alone(tmp_path, tiny):
    before = torch.random.get_rng_state()
    whole_run(tmp_path / "workspace", tiny)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


# What reaches training -------------------------------------------------------------------------------------------


def test_nothing_of_the_labels_of_test_subjects_reaches_training(tmp_path, tiny):
    heads = []
    for name, spoil in (("plain", False), ("spoilt", True)):
        workspace = workspace_of_boxes(tmp_path / name, subjects=5)
        for subject in split_of(workspace).test if spoil else ():
            image, label = boxes(int(subject.removeprefix("subject")))
            add_volume(workspace, subject, image, np.where(label == 3, 42, 3).astype(np.uint8))
        heads.append(trained(workspace, embed(workspace, tiny), subjects=3))
    assert head_file(heads[0]) == head_file(heads[1])
    assert heads[0].scores != heads[1].scores  # the change did reach the score


def test_a_run_names_what_it_was_trained_on_and_scores_only_test_subjects(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    run = trained(workspace, embed(workspace, tiny), subjects=3)
    split = split_of(workspace)
    assert {scored["subject"] for scored in run.scores} == set(split.test)
    assert set(run.settings.drawn) <= set(split.pool)
    assert run.settings.validation not in run.record["training_volumes"]
    assert set(run.record["training_volumes"]) < set(run.settings.drawn)
    assert run.record["training_slices"] == 2 * 3  # three drawn, of which one validates


@pytest.mark.parametrize(("head", "every", "kept"), [("linear", 3, True), ("linear", None, False), ("ridge", 3, False)])
def test_a_draw_keeps_a_subject_to_stop_by_where_a_fit_asks_for_one(tmp_path, head, every, kept):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    three = options(head=head, subjects=3)
    chosen = replace(three, fit=replace(three.fit, validate_every=every))
    draw = draw_of(workspace, split_of(workspace), find_head(head), chosen)
    assert (draw.validation is not None) is kept
    assert len(draw.training) == 3 - kept


def test_views_of_every_subject_that_is_fitted_to_have_to_be_there_before_anything_is_fitted(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    three = options(subjects=3)
    chosen = replace(three, fit=replace(three.fit, validate_every=None), views=("identity", "transpose"))
    last = draw_of(workspace, split_of(workspace), Linear, chosen).subjects[-1]
    keys = [
        key
        for volume in workspace.volumes.values()
        for view in (("identity",) if volume.subject == last else chosen.views)
        for key in row_keys(volume, view=view)
    ]
    with pytest.raises(MissingEmbeddings, match="--views"):
        plan_run(workspace, embed_rows(workspace, tiny, keys), Linear, chosen)


def test_a_copy_of_a_test_scan_without_its_label_is_not_learned_from_before_the_fit(tmp_path):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    simclr = find_head("unet-simclr")
    chosen = replace(options(head=simclr.name), fit=simclr.own_fit)
    (test, *_) = split_of(workspace).test
    add_volume(workspace, "copy", workspace.volumes[test].image[:], None)
    add_volume(workspace, "another", np.asarray(workspace.volumes[test].image)[::-1], None)
    pretraining = plan_run(workspace, None, simclr, chosen).pretraining
    assert "another" in pretraining.slices
    assert not {test, "copy"} & pretraining.slices.keys()


def test_a_subject_without_a_class_is_not_taken_to_stop_by(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    chosen = options(subjects=3)
    subject = draw_of(workspace, split_of(workspace), find_head(chosen.head), chosen).validation
    image, label = boxes(int(subject.removeprefix("subject")))
    add_volume(workspace, subject, image, np.zeros_like(label))
    with pytest.raises(UsageError, match=rf"kept to stop by, {subject}, shows none of .*Leave out --validation"):
        train(workspace, embed(workspace, tiny), find_head(chosen.head), chosen)


def test_a_subject_whose_classes_are_thinner_than_a_cell_is_not_taken_to_stop_by(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    chosen = options(subjects=3)
    subject = draw_of(workspace, split_of(workspace), find_head(chosen.head), chosen).validation
    image, label = boxes(int(subject.removeprefix("subject")))
    thin = np.zeros_like(label)
    thin[0, 0, 0] = 3  # the 16 cells of 40 pixels take those in their middles
    add_volume(workspace, subject, image, thin)
    with pytest.raises(UsageError, match=rf"{subject}, shows none of .* on the grid of cells that heads answer on"):
        train(workspace, embed(workspace, tiny), find_head(chosen.head), chosen)


def test_rows_of_the_subject_to_stop_by_take_no_more_memory_than_the_others_leave(tmp_path, tiny, monkeypatch):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    embeddings = embed(workspace, tiny)
    there = list(workspace.volumes.values())
    whole = LabelledSlices(embeddings, there[:1], memory_bytes=10**9).kept_bytes
    kept = []

    class Remembered(LabelledSlices):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            kept.append(self.kept_bytes)

    monkeypatch.setattr("samkit.stages.train.LabelledSlices", Remembered)
    for least, expected in ((3 * whole, [2 * whole, whole]), (3 * whole - 1, [2 * whole, 0]), (0, [0, 0])):
        kept.clear()
        trained(workspace, embeddings, subjects=3, memory_bytes=least, seed=least)
        assert kept == expected


def test_the_validation_score_is_the_dice_of_the_validation_subject_on_the_training_grid(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    embeddings = embed(workspace, tiny)
    run = trained(workspace, embeddings, subjects=3, steps=30)
    told = max(step["validation_dice"] or 0.0 for step in run.steps)
    volume = workspace.volumes[run.settings.validation]
    label = Frame(rows=40, columns=40, input_px=64).label_to_grid(np.asarray(volume.label), 16)
    features = torch.from_numpy(embeddings[volume.id])
    predicted = np.array([0, 3, 42])[load_head(run.folder)(features).argmax(dim=1).numpy()]
    dice = [
        2 * ((predicted == v) & (label == v)).sum() / ((predicted == v).sum() + (label == v).sum()) for v in (3, 42)
    ]
    assert told == pytest.approx(np.mean(dice), abs=1e-5)
    assert told > 0


def test_the_validation_score_of_a_network_on_slices_is_of_what_it_answers_in_windows(tmp_path):
    workspace = Workspace.create(tmp_path / "workspace", LABEL_NAMES)
    for number in range(5):
        image, label = boxes(number, slices=1)  # enlarged to 280 pixels: more than a window
        add_volume(
            workspace, f"subject{number}", *(np.kron(one, np.ones((1, 7, 7), one.dtype)) for one in (image, label))
        )
    chosen = options("unet", subjects=3, steps=3)
    run = train(workspace, None, find_head("unet"), chosen)
    told = max(step["validation_dice"] or 0.0 for step in run.steps)
    volume = workspace.volumes[run.settings.validation]
    answered = segment_volume(load_head(run.folder), volume, LABEL_NAMES, None)
    label = np.asarray(volume.label)
    dice = [2 * ((answered == v) & (label == v)).sum() / ((answered == v).sum() + (label == v).sum()) for v in (3, 42)]
    assert told == pytest.approx(np.mean(dice), abs=1e-5)
    assert told > 0


def test_both_frames_of_a_subject_are_trained_on(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=3)
    for number, subject in enumerate(split_of(workspace).pool):
        add_volume(workspace, f"{subject}-second", *boxes(50 + number), subject=subject)
    run = trained(workspace, embed(workspace, tiny))
    (drawn,) = run.settings.drawn
    assert run.record["training_volumes"] == [drawn, f"{drawn}-second"]
    assert run.record["training_slices"] == 6


@pytest.fixture(scope="module")
def in_frames(tmp_path_factory, tiny):
    workspace = workspace_of_boxes(tmp_path_factory.mktemp("frames") / "workspace", subjects=5)
    for number, subject in enumerate(split_of(workspace).pool):
        add_volume(workspace, f"{subject}-second", *boxes(50 + number), subject=subject)
    return workspace, embed(workspace, tiny)


def by_frame(in_frames, subjects, **choices):
    chosen = options(subjects=subjects, counted="frames", **choices)
    chosen = replace(chosen, fit=replace(chosen.fit, validate_every=None))
    return train(*in_frames, find_head(chosen.head), chosen)


def test_frames_are_trained_on_one_by_one(in_frames):
    run = by_frame(in_frames, 3)
    assert len(run.record["training_volumes"]) == 3
    assert set(run.settings.drawn_volumes) == set(run.record["training_volumes"])
    assert run.settings.amount == "3 frames"


def test_frames_and_subjects_are_experiments_of_their_own(in_frames):
    by_subject = train(*in_frames, find_head("ridge"), options(head="ridge"))
    assert by_frame(in_frames, 1, head="ridge").settings.experiment != by_subject.settings.experiment


def test_with_frames_no_subject_can_be_kept_to_stop_by(in_frames):
    with pytest.raises(UsageError, match=r"--count frames: .*Leave out --validation"):
        train(*in_frames, find_head("linear"), options(subjects=3, counted="frames"))


def test_every_slice_comes_once_before_any_comes_again(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    slices = LabelledSlices(embed(workspace, tiny), labelled_volumes(workspace, ["subject0", "subject1"]), 1 << 30)
    batches = slices.batches(4, seed=0, device=torch.device("cpu"))
    epoch = torch.cat([next(batches)[0], next(batches)[0]])
    everything = slices.features(range(len(slices)))
    assert sorted(map(hash_of, epoch)) == sorted(map(hash_of, everything))


def hash_of(features):
    return features.numpy().tobytes()


def test_features_and_labels_of_a_batch_belong_together(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    slices = LabelledSlices(embed(workspace, tiny), labelled_volumes(workspace, ["subject1", "subject0"]), 1 << 30)
    label_of = {hash_of(slices.features([number])[0]): slices.labels([number])[0] for number in range(len(slices))}
    features, labels = next(slices.batches(6, seed=3, device=torch.device("cpu")))
    for one, label in zip(features, labels, strict=True):
        assert torch.equal(label_of[hash_of(one)].long(), label)


# What is kept ----------------------------------------------------------------------------------------------------


def test_label_values_that_are_not_consecutive_come_back(tmp_path, tiny):
    run = whole_run(tmp_path / "workspace", tiny, steps=60)
    values = {int(value) for prediction in run.predictions.values() for value in np.unique(np.asarray(prediction))}
    assert values == {0, 3, 42}
    assert {score["class_value"] for scored in run.scores for score in scored["scores"]} == set(LABEL_NAMES)


def test_a_run_says_what_it_cost_and_what_made_it(tmp_path, tiny):
    run = whole_run(tmp_path / "workspace", tiny)
    assert set(run.record["seconds"]) == {"features", "fitting", "scoring"}
    assert all(seconds >= 0 for seconds in run.record["seconds"].values())
    assert run.record["peak_memory_bytes"] > 1_000_000
    assert run.record["code_version"]
    assert run.record["threads"] == torch.get_num_threads()
    assert 0 <= time.time() - run.record["finished"] < 60
    assert run.record["encoder_trained"] is False
    assert len(run.steps) == run.record["steps"] == 6


def test_the_kept_head_makes_the_kept_predictions(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    embeddings = embed(workspace, tiny)
    run = trained(workspace, embeddings)
    head = load_head(run.folder)
    frame = Frame(rows=40, columns=40, input_px=64)
    for volume_id, kept in run.predictions.items():
        np.testing.assert_array_equal(segment(head, embeddings[volume_id], frame, LABEL_NAMES), np.asarray(kept))


def test_autosam_starts_from_the_mask_decoder_that_embed_kept(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    embeddings = embed(workspace, tiny)
    run = train(workspace, embeddings, AutoSam, options(head="autosam", steps=1))
    kept = load_head(run.folder).position.positional_encoding_gaussian_matrix
    assert torch.equal(kept, tiny.mask_decoder.position_matrix)


def test_autosam_is_refused_where_the_checkpoint_was_an_image_encoder_alone(tmp_path):
    alone = {name: tensor for name, tensor in tensors().items() if name.startswith("image_encoder.")}
    encoder = TINY.load(checkpoint(tmp_path, alone))
    workspace = workspace_of_boxes(tmp_path / "workspace")
    with pytest.raises(UsageError, match=r"starts from SAM's mask decoder.*train-head linear"):
        train(workspace, embed(workspace, encoder), AutoSam, options(head="autosam", steps=1))
    assert not list(workspace.runs)


def test_progress_is_told_to_the_end(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    told = []
    train(workspace, embed(workspace, tiny), Linear, options(), progress=lambda *said: told.append(said))
    assert ("fitting", 6, 6) in told
    assert told[-1] == ("scoring", 1, 1)


# Tiles -----------------------------------------------------------------------------------------------------------

TILING = Tiling(input_px=64)
# Two planes that are cut, into six tiles and into two, and two that fit.
SIZES = ((130, 100), (60, 90), (50, 60), (64, 64))


@pytest.fixture(scope="module")
def in_tiles(tmp_path_factory, tiny):
    """Planes with rows of their tiles, and rows of them whole. Runs of it are told apart by their settings."""
    workspace = workspace_of_disks(tmp_path_factory.mktemp("in-tiles") / "workspace", *SIZES)
    embed_tiles(workspace, tiny, TILING)
    return workspace, embed_tiles(workspace, tiny, None)


def test_a_run_on_tiles_says_so_and_keeps_masks_of_whole_planes(in_tiles):
    run = trained(*in_tiles, tiles=0.25)
    workspace, _ = in_tiles
    assert run.settings.tiles == 0.25
    assert run.predictions
    for volume_id, prediction in run.predictions.items():
        assert prediction.shape == workspace.volumes[volume_id].read_label().shape


def test_every_tile_of_the_drawn_subjects_is_trained_on(in_tiles):
    workspace, embeddings = in_tiles
    pool = split_of(workspace).pool
    run = trained(workspace, embeddings, subjects=len(pool), tiles=0.25)
    used = [workspace.volumes[volume_id] for volume_id in run.record["training_volumes"]]
    assert run.record["training_slices"] == len(used)
    assert run.record["training_rows"] == sum(len(row_keys(volume, TILING)) for volume in used)
    assert run.record["training_rows"] > len(used)


def test_a_run_on_tiles_is_another_run_than_one_on_resized_planes(in_tiles):
    tiled, resized = (trained(*in_tiles, subjects=2, tiles=tiles) for tiles in (0.25, None))
    assert tiled.id != resized.id
    assert head_file(tiled) != head_file(resized)


def test_the_kept_head_makes_the_kept_predictions_of_planes_that_were_cut(in_tiles):
    workspace, embeddings = in_tiles
    run = trained(workspace, embeddings, tiles=0.25)
    head = load_head(run.folder)
    for volume_id, kept in run.predictions.items():
        rows, columns = kept.shape[1:]
        features = embeddings.read(row_keys(workspace.volumes[volume_id], TILING))
        frame = Frame(rows=rows, columns=columns, input_px=64)
        np.testing.assert_array_equal(segment(head, features, frame, DISKS, TILING), kept)


def test_validation_looks_at_every_tile_once(in_tiles):
    workspace, embeddings = in_tiles
    run = trained(workspace, embeddings, subjects=3, tiles=0.25, steps=30)
    volume = workspace.volumes[run.settings.validation]
    slices = LabelledSlices(embeddings, [volume], 1 << 30, TILING)
    everything = range(len(slices))
    predicted, labels = load_head(run.folder)(slices.features(everything)).argmax(dim=1), slices.labels(everything)
    dice = []
    for number in (1, 2):
        mine, theirs = (predicted == number) & (labels != 255), labels == number
        dice.append(2 * int((mine & theirs).sum()) / int(mine.sum() + theirs.sum()))
    assert max(step["validation_dice"] or 0.0 for step in run.steps) == pytest.approx(np.mean(dice), abs=1e-5)


def test_where_nothing_is_cut_tiles_change_nothing(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    embeddings = embed(workspace, tiny)
    tiled, whole = (trained(workspace, embeddings, subjects=3, tiles=tiles) for tiles in (0.25, None))
    assert head_file(tiled) == head_file(whole)
    assert tiled.scores == whole.scores


def test_tiles_that_are_not_embedded_are_refused_before_anything_is_fitted(tmp_path, tiny):
    workspace = workspace_of_disks(tmp_path / "workspace", *SIZES[:2])
    embeddings = embed_tiles(workspace, tiny, None)
    told = []
    with pytest.raises(MissingEmbeddings, match=f"samkit embed --tiles --recipe {tiny.recipe.id}"):
        train(workspace, embeddings, Linear, options(tiles=0.25), progress=lambda *said: told.append(said))
    assert told == []
    assert len(workspace.runs) == 0


@pytest.mark.parametrize("overlap", [1.5, -0.1])
def test_an_overlap_that_cannot_be_is_refused(in_tiles, overlap):
    with pytest.raises(UsageError, match="--tile-overlap"):
        trained(*in_tiles, tiles=overlap)


def test_small_things_on_a_large_plane_are_learnt_from_tiles_and_lost_without(tmp_path, tiny):
    # Squares of 16 pixels, a patch of the encoder: less than three when 400 pixels become 64.
    random = np.random.default_rng(0)
    workspace = Workspace.create(tmp_path / "workspace", {1: "square"})
    for subject in ("one", "two"):
        label = np.zeros((1, 400, 400), np.uint8)
        for row, column in random.integers(0, 384, (60, 2)):
            label[0, row : row + 16, column : column + 16] = 1
        image = np.where(label == 1, 0.95, 0.2) + random.normal(0, 0.02, label.shape)
        add_volume(workspace, subject, np.clip(image, 0, 1).astype(np.float16)[:, None], label)
    embed_tiles(workspace, tiny, TILING)
    embeddings = embed_tiles(workspace, tiny, None)
    dice = []
    for tiles in (0.25, None):
        fit = FitOptions(steps=100, batch_size=8, learning_rate=1e-2)
        chosen = TrainOptions(head="linear", subjects=1, draw=0, fit=fit, tiles=tiles)
        run = train(workspace, embeddings, Linear, chosen)
        dice.append(run.scores[0]["scores"][0]["dice"])
    assert dice[0] > dice[1] + 0.4, dice  # measured: 0.89 and 0.06


# Refusals --------------------------------------------------------------------------------------------------------


def test_more_subjects_than_the_pool_has_are_refused(tmp_path, tiny):
    with pytest.raises(UsageError, match="--volumes 9"):
        whole_run(tmp_path / "workspace", tiny, subjects=9)


def test_a_split_that_was_never_made_is_refused(tmp_path, tiny):
    with pytest.raises(UsageError, match="no split 'official'"):
        whole_run(tmp_path / "workspace", tiny, split="official")


@pytest.mark.parametrize("part", ["pool", "test"])
def test_slices_that_are_not_embedded_are_refused_before_anything_is_fitted(tmp_path, tiny, part):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=3)
    split = split_of(workspace)
    embeddings = embed(workspace, tiny)
    for number, subject in enumerate(getattr(split, part)):
        add_volume(workspace, subject, *boxes(70 + number))
    told = []
    with pytest.raises(MissingEmbeddings, match=f"samkit embed --recipe {tiny.recipe.id}"):
        train(workspace, embeddings, Linear, options(), progress=lambda *said: told.append(said))
    assert told == []
    assert len(workspace.runs) == 0


def test_a_run_that_was_interrupted_leaves_nothing_that_counts(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    embeddings = embed(workspace, tiny)

    def stop(what, done, _total):
        if (what, done) == ("fitting", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(workspace, embeddings, Linear, options(), progress=stop)
    assert len(workspace.runs) == 0
    assert trained(workspace, embeddings).record["steps"] == 6


def test_a_new_subject_joins_the_pool_and_moves_nobody(tmp_path):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    before = split_of(workspace)
    add_volume(workspace, "newcomer", *boxes(9))
    after = split_of(workspace)
    assert after.test == before.test
    assert set(after.pool) == {*before.pool, "newcomer"}


# Subjects that were removed -------------------------------------------------------------------------------------


@pytest.fixture
def five(tmp_path, tiny):
    """A workspace of five subjects with a split, and their embeddings."""
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    embeddings = embed(workspace, tiny)
    trained(workspace, embeddings)
    return workspace, embeddings, workspace.split()


def test_a_removed_subject_is_not_drawn(five):
    workspace, embeddings, _ = five
    first = trained(workspace, embeddings).settings.drawn
    workspace.remove_volumes(first)
    run = trained(workspace, embeddings)
    assert run.record["training_volumes"] == list(run.settings.drawn)
    assert not set(run.settings.drawn) & set(first)


def test_as_many_subjects_are_trained_on_as_the_run_says(five):
    workspace, embeddings, split = five
    workspace.remove_volumes([draw_subjects(split, 1, 0, split.pool).subjects[0]])
    run = trained(workspace, embeddings, subjects=2)
    assert run.settings.subjects == len(run.settings.drawn) == len(run.settings.drawn_volumes) == 2
    assert run.record["training_slices"] == 2 * 3


def test_more_subjects_than_are_left_are_refused_with_those_who_were_removed(five):
    workspace, embeddings, split = five
    workspace.remove_volumes([split.pool[0]])
    with pytest.raises(UsageError, match=rf"--volumes {len(split.pool)}: .*without a label now: {split.pool[0]};"):
        trained(workspace, embeddings, subjects=len(split.pool))


def test_without_a_test_subject_nothing_is_trained(five):
    workspace, embeddings, split = five
    workspace.remove_volumes(split.test)
    before = set(workspace.runs)
    with pytest.raises(UsageError, match=rf"every test subject .*{split.test[0]}"):
        trained(workspace, embeddings)
    assert set(workspace.runs) == before


def test_the_test_subjects_that_are_left_are_scored(five):
    workspace, embeddings, split = five
    workspace.remove_volumes(split.test[:1])
    run = trained(workspace, embeddings)
    assert {scored["subject"] for scored in run.scores} == set(run.settings.scored_volumes) == set(split.test[1:])


def test_the_split_keeps_the_name_of_a_removed_subject_so_that_it_comes_back_to_its_place(five):
    workspace, embeddings, split = five
    first = trained(workspace, embeddings)
    (gone,) = first.settings.drawn
    workspace.remove_volumes([gone])
    trained(workspace, embeddings)
    assert workspace.split() == split
    add_volume(workspace, gone, *boxes(int(gone.removeprefix("subject"))))
    assert trained(workspace, embeddings).id == first.id


# Two first trainings at once ------------------------------------------------------------------------------------


def test_a_split_that_another_command_made_meanwhile_is_the_one_that_is_used(tmp_path, tiny, monkeypatch):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    embeddings = embed(workspace, tiny)
    mine = split_of(workspace)
    theirs = Split(name="default", seed=0, pool=tuple(sorted(mine.test + mine.pool[2:])), test=mine.pool[:2])
    keep_split = Workspace.keep_split

    def keep_after_the_other(self, split):
        keep_split(self, theirs)
        return keep_split(self, split)

    monkeypatch.setattr(Workspace, "keep_split", keep_after_the_other)
    run = trained(workspace, embeddings, subjects=len(mine.pool))
    assert workspace.split() == theirs
    assert run.settings.split_digest == theirs.digest
    assert set(run.settings.scored_volumes) == set(theirs.test)
    assert set(run.settings.drawn) == set(theirs.pool)


def test_a_scan_that_is_there_under_two_subjects_is_not_drawn_and_scored(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=2)
    twin = next(iter(workspace.volumes.values()))
    for name in list(workspace.volumes):
        if name != twin.id:
            workspace.remove_volumes([name])
    add_volume(workspace, "moved", twin.image[:], twin.read_label())
    with pytest.raises(InputError, match=r"have the same slices: one scan that was ingested twice.* samkit remove"):
        trained(workspace, embed(workspace, tiny), subjects=1)


def with_a_twin(path, tiny, of):
    """A run that drew the whole pool, and a scan of the pool or of the test part once more, under a subject of its own.

    Return the workspace, its embeddings and the split from before.
    """
    workspace = workspace_of_boxes(path, subjects=5)
    split = split_of(workspace)
    trained(workspace, embed(workspace, tiny), subjects=len(split.pool))
    (twin,) = labelled_volumes(workspace, getattr(split, of)[:1])
    add_volume(workspace, "moved", twin.image[:], twin.read_label())
    return workspace, embed(workspace, tiny), split


@pytest.mark.parametrize("of", ["pool", "test"])
def test_of_a_scan_that_is_there_twice_the_one_goes_that_no_run_knows(tmp_path, tiny, of):
    workspace, embeddings, split = with_a_twin(tmp_path / "workspace", tiny, of)
    with pytest.raises(InputError, match=r"have the same slices.*Keep one: samkit remove moved$"):
        trained(workspace, embeddings, subjects=len(split.pool) + 1)
    workspace.remove_volumes(["moved"])
    (run,) = workspace.runs.values()
    assert stale_because(run, workspace.volumes) is None
    trained(workspace, embeddings, subjects=len(split.pool))


def test_a_run_is_stale_when_a_drawn_and_a_scored_volume_turn_out_to_be_of_one_subject(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=4)
    run = trained(workspace, embed(workspace, tiny), subjects=1)
    (drawn,), (scored,) = run.settings.drawn_volumes, run.settings.scored_volumes
    assert stale_because(run, workspace.volumes) is None
    workspace.commit_volumes([replace(workspace.volumes[scored].record, subject=drawn)])
    told = stale_because(run, package.open_workspace(workspace.path).volumes)
    assert told == f"it was trained on {drawn} and scored on it, as subjects are now"


def test_nothing_is_fitted_where_it_could_not_be_kept(tmp_path, tiny, monkeypatch):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=2)
    embeddings = embed(workspace, tiny)
    kept = trained(workspace, embeddings, subjects=1)
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)  # as a file system that is read-only says
    monkeypatch.setattr("samkit.stages.train.fit", None)  # not reached
    with pytest.raises(StoreError, match=r"runs cannot be written to, and a run is kept there: nothing was fitted"):
        trained(workspace, embeddings, subjects=1, seed=5)
    assert trained(workspace, embeddings, subjects=1).id == kept.id  # what is there is read all the same


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("_fitted", "fitting linear: the memory of this machine .* ran out.* --batch-size 1,.* or fewer --workers"),
        ("_score_and_keep", "scoring linear: the memory of this machine .* ran out.* give fewer --workers"),
    ],
)
def test_memory_that_runs_out_is_told_with_what_to_type(tmp_path, tiny, monkeypatch, where, told):
    def runs_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=2)
    monkeypatch.setattr(f"samkit.stages.train.{where}", runs_out)
    with pytest.raises(DeviceError, match=told):
        trained(workspace, embed(workspace, tiny))
    assert list(workspace.runs) == []


def test_what_is_refused_makes_no_split(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    embeddings = embed(workspace, tiny)
    with pytest.raises(UsageError):
        trained(workspace, embeddings, subjects=9)
    assert workspace.split() is None


# The whole thing learns ------------------------------------------------------------------------------------------


def a_small_body(path):
    """A workspace of two subjects of the same pixels but one: what a head is scored on is what it was trained on."""
    phantom = draw_subject(3, shape=(6, 64, 64), spacing_mm=(20.0, 5.0, 5.0))
    image = np.clip(phantom.image / np.percentile(phantom.image, 99.5), 0, 1).astype(np.float16)[:, None]
    workspace = Workspace.create(path, dict(phantom.label_names))
    for subject in ("one", "two"):
        add_volume(workspace, subject, image, phantom.label)
        image = image.copy()
        image[0, 0, 0, 0] += np.float16(1e-3)  # or it would be refused as one scan that is there twice
    return workspace


def overfitted(workspace, embeddings, head, **fit):
    """The mean Dice of a head on the volume that it was trained on."""
    options = TrainOptions(head=head, subjects=1, draw=0, fit=FitOptions(**fit))
    run = train(workspace, embeddings, find_head(head), options)
    return np.mean([score["dice"] for score in run.scores[0]["scores"]])


def test_a_head_on_the_seeded_encoder_overfits_a_small_body(tmp_path):
    workspace = a_small_body(tmp_path / "workspace")
    embeddings = embed(workspace, NANO.load(None))
    assert overfitted(workspace, embeddings, "linear", steps=150, batch_size=6, learning_rate=1e-2) > 0.8


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    workspace = a_small_body(tmp_path_factory.mktemp("body") / "workspace")
    return workspace, embed(workspace, NANO.load(NANO.own_weights))


@pytest.mark.parametrize(
    ("head", "steps", "rate"),
    [
        ("cnn", 200, 5e-3),
        ("hybrid", 150, 5e-3),
        ("linear", 300, 1e-2),
        # Minutes each on two cores.
        pytest.param("autosam", 150, 1e-3, marks=pytest.mark.soak),
        pytest.param("ladder", 60, 1e-3, marks=pytest.mark.soak),
        pytest.param("unet", 600, 3e-3, marks=pytest.mark.soak),
    ],
)
def test_each_head_overfits_one_volume(body, head, steps, rate):
    workspace, embeddings = body
    seen = None if head == "unet" else embeddings
    assert overfitted(workspace, seen, head, steps=steps, batch_size=6, learning_rate=rate) > 0.95


@pytest.mark.parametrize(("head", "steps", "least"), [("probe", 300, 0.5), ("ridge", 1, 0.5), ("prototype", 1, 0.25)])
def test_what_is_no_more_than_a_weighted_sum_a_class_finds_organs_too(body, head, steps, least):
    assert overfitted(*body, head, steps=steps, batch_size=6, learning_rate=1e-2) > least


# Without an encoder ----------------------------------------------------------------------------------------------


def unet_run(path, **choices):
    workspace = workspace_of_boxes(path, subjects=5)
    return workspace, trained(workspace, None, head="unet", **choices)


@pytest.mark.parametrize("subjects", [1, 3])
def test_a_baseline_on_slices_needs_no_embeddings_and_repeats(tmp_path, subjects):
    (_, first), (_, second) = (unet_run(tmp_path / name, subjects=subjects) for name in ("one", "two"))
    assert head_file(first) == head_file(second)
    assert first.scores == second.scores
    assert first.id == second.id


def test_a_run_without_an_encoder_says_so(tmp_path):
    _, run = unet_run(tmp_path / "workspace")
    assert (run.settings.encoder, run.settings.recipe_id, run.settings.features) == ("none", "none", None)
    assert run.record["encoder_recipe"] is None


def test_a_baseline_on_slices_learns(tmp_path):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    fit = FitOptions(steps=60, batch_size=4, learning_rate=3e-3)
    chosen = TrainOptions(head="unet", subjects=2, draw=0, fit=fit)
    run = train(workspace, None, find_head("unet"), chosen)
    dice = [score["dice"] for scored in run.scores for score in scored["scores"]]
    assert np.mean(dice) > 0.8


def test_the_predictions_of_a_baseline_are_of_the_slices_own_pixels(tmp_path):
    workspace, run = unet_run(tmp_path / "workspace")
    head = load_head(run.folder)
    for volume_id, kept in run.predictions.items():
        slices = torch.from_numpy(workspace.volumes[volume_id].read_slices(0, 3)).float()
        logits = torch.cat([head(one[None]) for one in slices])
        np.testing.assert_array_equal(np.array([0, 3, 42])[logits.argmax(dim=1).numpy()], kept)


def test_a_baseline_on_slices_takes_no_embeddings(tmp_path, tiny):
    workspace = workspace_of_boxes(tmp_path / "workspace")
    with pytest.raises(UsageError, match="unet sees slices, not features"):
        trained(workspace, embed(workspace, tiny), head="unet")


def test_a_head_on_features_takes_nothing_else(tmp_path):
    with pytest.raises(UsageError, match="linear is trained on embeddings, and none were given"):
        trained(workspace_of_boxes(tmp_path / "workspace"), None)
