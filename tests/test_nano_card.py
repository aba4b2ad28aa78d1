"""What the card of nano says of results that are known."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
BEST, OTHER, UNET = "nano hybrid, as it was", "nano linear, as it was", "none unet, as it was"


@pytest.fixture
def card(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("nano_card")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def scored(dice: float, *, revision: int = 1, draws: int = 2, subjects: int = 3, **more):
    grid = np.full((draws, subjects), dice)
    found = {"dice": grid.mean(axis=1).tolist(), "dice_by_subject": grid.tolist(), **more}
    return {"revision": revision, "1": found, "5": {**found}}


def measured(card, of: str, **acdc):
    file = card.RESULTS / f"few_shot_{of}.json"
    file.write_text(json.dumps({"acdc": acdc}), encoding="utf-8")


def row(text: str, head: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith("|") and f"`{head}`" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_head_has_the_mean_and_the_range_of_its_draws_in_percent(card):
    one = scored(0.5)
    one["1"]["dice"] = [0.4, 0.51]  # of the first count alone
    measured(card, "development", **{OTHER: one})
    assert row(card.proof(), "linear") == ["`nano`", "`linear`, as it was", "45.5 (40 to 51)", "50.0 (50 to 50)"]


def test_only_the_round_that_an_earlier_revision_was_scored_in_says_so(card, monkeypatch):
    measured(card, "development", **{OTHER: scored(0.5, revision=2)})
    measured(card, "final", **{OTHER: scored(0.4, revision=1)})
    monkeypatch.setattr(card.find_head("linear"), "revision", 2)
    cells = row(card.proof(), "linear")
    assert ["revision 1" in cell for cell in cells[2:]] == [False, False, True, True]


def test_a_final_score_that_was_corrected_is_told_beside_the_one_that_stands(card):
    corrected = {"acdc": {OTHER: scored(0.5, revision=2)}, "superseded": {"acdc": {OTHER: [scored(0.4)]}}}
    (card.RESULTS / "few_shot_final.json").write_text(json.dumps(corrected), encoding="utf-8")
    assert "`linear` on `nano`, as it was, by its revision 1, had 40.0 and 40.0." in card.proof()


def test_the_best_head_of_the_development_round_is_compared_on_final_subjects_too(card):
    curve = {"loss": [[(1, 0.5)], [(1, 0.3)]]}
    measured(card, "development", **{BEST: scored(0.6), OTHER: scored(0.5), UNET: scored(0.4, **curve)})
    measured(card, "final", **{BEST: scored(0.5), OTHER: scored(0.7), UNET: scored(0.45, **curve)})
    text = card.proof()
    assert "`hybrid` on `nano` less `unet` (acdc, development)" in text
    assert "from one subject, +20.0 (+20.0 to +20.0); from five, +20.0" in text
    assert "`hybrid` on `nano` less `unet` (acdc, final)" in text
    assert "from one subject, +5.0 (+5.0 to +5.0); from five, +5.0" in text
    assert "`linear` on" not in text
    assert "mean of each tenth of the steps: from one subject, 0.40; from five, 0.40." in text


def test_the_best_head_on_nano_is_compared_with_the_best_on_features_of_a_seed(card):
    measured(card, "development", **{BEST: scored(0.6), "seeded cnn, as it was": scored(0.45)})
    text = card.proof()
    assert "`hybrid` on `nano` less `cnn` on the same, numbers from a seed (acdc, development)" in text
    assert "from one subject, +15.0 (+15.0 to +15.0); from five, +15.0" in text


def test_boxes_stand_beside_their_ellipses(card):
    measured(card, "final", **{"nano boxes": {"RV": 0.7, "LV": 0.8}, "ellipses": {"RV": 0.6, "LV": 0.6}})
    assert "Dice 75.0 %, the ellipses inscribed in the boxes 60.0 %. By class: RV 70 (60), LV 80 (60)." in card.proof()


def test_larger_networks_stand_with_each_draw(card):
    measured(card, "final", **{OTHER: scored(0.5)})
    told = {"parameters": 1234567, "setting": "as it was", "dice": [0.7, 0.754]}
    (card.RESULTS / "larger_unet.json").write_text(json.dumps({"machine": {}, "twice": told}), encoding="utf-8")
    assert "| twice | 1,234,567 | as it was | 70.0, 75.4 |" in card.proof()
