"""The table tells heads apart by what they stand on, and its classes come in the order of their numbers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from examples.runs import SETTINGS
from examples.table_rows import LINEAR, LINEAR_ON_ANOTHER, UNET

from samkit.heads.metrics import ScoredVolume, score_volume
from samkit.stages.reporting.table import ALL_CLASSES, tabulate, told_heads


def test_a_head_without_an_encoder_is_no_second_recipe():
    assert list(told_heads([LINEAR, UNET]).values()) == ["linear", "unet"]


def test_of_two_recipes_only_heads_that_stand_on_one_are_named_with_theirs():
    told = told_heads([LINEAR, LINEAR_ON_ANOTHER, UNET])
    assert list(told.values()) == ["linear on nano d74490b97bc8", "linear on sam_vit_b 0123456789ab", "unet"]


def test_classes_of_a_run_that_scored_them_in_another_order_come_by_their_numbers():
    names = {1: "liver", 10: "spleen", 2: "kidney"}
    label = np.array([[[0, 1], [2, 10]]], np.uint8)
    scores = tuple(score_volume(label, label, class_names=names, spacing_mm=None))
    run = SimpleNamespace(
        id="run",
        settings=replace(SETTINGS, label_names=dict(sorted(names.items()))),
        record={
            "encoder_trained": True,
            "seconds": {"fitting": 1.0},
            "peak_memory_bytes": 1,
            "trainable_parameters": 1,
        },
        scores=[ScoredVolume(volume_id="a", subject="a", scores=scores, accuracy=1.0).to_json()],
    )
    assert [row.class_name for row in tabulate([run])] == ["liver", "kidney", "spleen", ALL_CLASSES]
