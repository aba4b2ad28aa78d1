"""Medical SAM Adapter is trained and scored on volumes of one slice, learns, and repeats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from examples.workspaces import embed, workspace_of_boxes

from samkit.heads.med_sa import MedSa
from samkit.heads.recipes import FitOptions
from samkit.stages.encoders.nano import NANO
from samkit.stages.train import train
from samkit.stages.training.plan import TrainOptions

OPTIONS = TrainOptions(
    head="med-sa",
    subjects=2,
    draw=0,
    fit=FitOptions(steps=2, batch_size=4, validate_every=None),
)


def made(path, **options):
    workspace = workspace_of_boxes(path / "workspace", **options)
    return workspace, embed(workspace, NANO.load(NANO.own_weights, size=64, tap="block:3"))


@pytest.mark.parametrize("prompt", ["none", "point:1", "clicks:3"])
def test_volumes_of_one_slice_are_trained_on_and_scored(tmp_path, prompt):
    workspace, embeddings = made(tmp_path, slices=1)
    run = train(workspace, embeddings, MedSa, replace(OPTIONS, head_options={"prompt": prompt}))
    assert [prediction.shape for prediction in run.predictions.values()] == [(1, 40, 40)]


def test_it_overfits_one_volume(tmp_path):
    workspace, embeddings = made(tmp_path, subjects=2)
    fit = FitOptions(steps=150, batch_size=4, learning_rate=1e-3, validate_every=None)
    run = train(workspace, embeddings, MedSa, replace(OPTIONS, subjects=1, fit=fit))
    assert run.steps[-1]["loss"] < 0.2 * run.steps[0]["loss"]


def test_streamed_tokens_give_the_run_that_those_in_memory_give(tmp_path):
    workspace, embeddings = made(tmp_path)
    kept = train(workspace, embeddings, MedSa, OPTIONS)
    other, other_embeddings = made(tmp_path / "other")
    again = train(other, other_embeddings, MedSa, replace(OPTIONS, memory_bytes=0))
    assert (kept.record["features_streamed"], again.record["features_streamed"]) == (False, True)
    assert kept.record["head_sha256"] == again.record["head_sha256"]
    for name, prediction in kept.predictions.items():
        assert np.array_equal(prediction, again.predictions[name])
