"""The proof of the embedded encoder: its subjects are kept apart, and the final ones are scored once."""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from pathlib import Path

import pytest
from examples.workspaces import workspace_of_boxes

from samkit.heads.base import find_head
from samkit.heads.tiling import row_keys
from samkit.store.splits import Split

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def few_shot(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("few_shot")
    for name in ("few_shot", "measure"):
        monkeypatch.setattr(f"{name}.RESULTS", tmp_path)
    return module


def asked(few_shot, of="final", **changed):
    weights = few_shot.NANO.own_weights
    return Namespace(
        **{"round": of, "draws": 5, "counts": [1, 5], "weights": weights, "whole": True, "correct": [], **changed}
    )


def kept(few_shot, of="final", **changed):
    return few_shot.Kept.of(asked(few_shot, of, **changed))


def fits(few_shot, head, setting):
    return [few_shot.Fit(features="nano", head=head, setting=setting)]


SCORED = {"revision": 1, "1": {"dice": [0.5]}, "5": {"dice": [0.7]}}


@pytest.fixture
def subjects():
    return json.loads((BENCHMARKS / "subjects.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("data", ["acdc", "hippocampus"])
def test_no_subject_has_two_parts(subjects, data):
    parts = [subjects[data][part] for part in ("development_drawn", "development_scored", "final")]
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_final_subjects_of_acdc_are_those_whose_number_ends_in_five_or_nine(subjects):
    assert {name[-1] for name in subjects["acdc"]["final"]} == {"5", "9"}
    rest = {name[-1] for part in ("development_drawn", "development_scored") for name in subjects["acdc"][part]}
    assert not rest & {"5", "9"}


def test_what_is_scored_joins_what_was_scored_on_another_day(few_shot):
    for head in ("linear", "cnn"):
        kept(few_shot).add("acdc", {f"nano {head}, one pass": SCORED}, 1.0)
    assert list(kept(few_shot).numbers["acdc"]) == ["nano linear, one pass", "nano cnn, one pass"]


def test_a_head_is_scored_once_whatever_setting_it_has_by_now(few_shot):
    quick, long = (few_shot.Setting(steps=steps, learning_rate=1e-3) for steps in (300, 600))
    kept(few_shot).add("acdc", {fits(few_shot, "linear", quick)[0].key: SCORED}, 1.0)
    assert kept(few_shot).todo("acdc", fits(few_shot, "linear", long)) == []
    assert kept(few_shot).todo("hippocampus", fits(few_shot, "linear", long)) != []


def test_development_subjects_are_scored_again_with_what_is_the_best_setting_by_now(few_shot):
    quick, long = (few_shot.Setting(steps=steps, learning_rate=1e-3) for steps in (300, 600))
    round_ = kept(few_shot, "development")
    round_.add("acdc", {fits(few_shot, "linear", quick)[0].key: SCORED}, 1.0)
    todo = round_.todo("acdc", fits(few_shot, "linear", long))
    assert [fit.setting for fit in todo] == [long]
    round_.add("acdc", {todo[0].key: SCORED}, 1.0)
    assert list(round_.numbers["acdc"]) == [todo[0].key]


def test_settings_that_differ_in_the_size_of_a_step_are_two(few_shot):
    one, other = (few_shot.Setting(steps=300, learning_rate=1e-3, batch_size=size) for size in (4, 8))
    assert str(one) != str(other)


def test_each_setting_of_a_head_is_tried(few_shot):
    quick, long = (few_shot.Setting(steps=steps, learning_rate=1e-3) for steps in (300, 600))
    kept(few_shot, "tries").add("acdc", {fits(few_shot, "linear", quick)[0].key: SCORED}, 1.0)
    assert kept(few_shot, "tries").todo("acdc", fits(few_shot, "linear", long)) != []


def test_final_subjects_are_not_scored_again_with_other_draws(few_shot):
    kept(few_shot).add("acdc", {"nano linear, one pass": SCORED}, 1.0)
    with pytest.raises(SystemExit, match="scored already, with other draws"):
        kept(few_shot, draws=3)


def test_final_subjects_are_not_scored_again_by_a_later_revision(few_shot, monkeypatch):
    (fit,) = fits(few_shot, "linear", few_shot.IN_ONE_PASS)
    for of in ("final", "development"):
        kept(few_shot, of).add("acdc", {fit.key: SCORED}, 1.0)
    monkeypatch.setattr(few_shot.find_head("linear"), "revision", 2)
    assert kept(few_shot, "development").todo("acdc", [fit]) == [fit]
    with pytest.raises(SystemExit, match="an earlier revision of it was scored"):
        kept(few_shot).todo("acdc", [fit])


def test_the_final_score_that_a_later_revision_corrects_is_kept_beside_it(few_shot, monkeypatch):
    (fit,) = fits(few_shot, "linear", few_shot.IN_ONE_PASS)
    kept(few_shot).add("acdc", {fit.key: SCORED}, 1.0)
    monkeypatch.setattr(few_shot.find_head("linear"), "revision", 2)
    correcting = kept(few_shot, correct=["linear"])
    assert correcting.todo("acdc", [fit]) == [fit]
    corrected = {**SCORED, "revision": 2}
    correcting.add("acdc", {fit.key: corrected}, 1.0)
    there = kept(few_shot)
    assert (there.numbers["acdc"], there.superseded["acdc"]) == ({fit.key: corrected}, {fit.key: [SCORED]})
    there.add("acdc", {"nano cnn, one pass": SCORED}, 1.0)
    assert kept(few_shot).superseded["acdc"] == {fit.key: [SCORED]}


def test_two_parts_that_end_one_after_the_other_keep_both(few_shot):
    first, second = kept(few_shot, "development"), kept(few_shot, "development")
    first.add("acdc", {"nano linear, one pass": SCORED}, 1.0)
    second.add("hippocampus", {"nano linear, one pass": SCORED}, 2.0)
    there = kept(few_shot, "development")
    assert (set(there.numbers), there.seconds) == ({"acdc", "hippocampus"}, 3.0)


@pytest.mark.parametrize("changed", [{"views": ["identity"]}, {"weights_sha256": "0"}])
def test_settings_are_not_chosen_from_tries_of_another_kind(few_shot, changed):
    tried = kept(few_shot, "tries")
    tried.add("acdc", {f"nano linear, {setting}": SCORED for setting in few_shot.SETTINGS["linear"]}, 1.0)
    assert few_shot.chosen("linear", asked(few_shot)) == few_shot.SETTINGS["linear"][0]
    few_shot.write_numbers("few_shot_tries", {**tried.about, **changed, **tried.numbers})
    with pytest.raises(SystemExit, match="not tried yet with these views and weights"):
        few_shot.chosen("linear", asked(few_shot))


def test_the_best_of_the_settings_is_chosen_by_features_of_nano_alone(few_shot):
    first, second = few_shot.SETTINGS["linear"]
    better = {**SCORED, "1": {"dice": [0.6]}}
    tried = {f"seeded linear, {first}": better, f"nano linear, {first}": SCORED, f"nano linear, {second}": better}
    kept(few_shot, "tries").add("acdc", tried, 1.0)
    assert few_shot.chosen("linear", asked(few_shot)) == second


@pytest.mark.parametrize("head", ["probe", "linear", "autosam", "cnn", "hybrid", "unet"])
def test_heads_are_fitted_by_default_as_the_kept_tries_choose(few_shot, monkeypatch, head):
    monkeypatch.setattr(few_shot, "RESULTS", BENCHMARKS / "results")
    best, own = few_shot.chosen(head, asked(few_shot)), find_head(head).own_fit
    assert (own.steps, own.learning_rate, own.batch_size) == (best.steps, best.learning_rate, best.batch_size)
    assert own.validate_every is None


def test_a_development_round_of_another_precision_is_not_written_over(few_shot, monkeypatch):
    kept(few_shot, "development").add("acdc", {"nano linear, one pass": SCORED}, 1.0)
    monkeypatch.setattr(few_shot, "resolve_precision", lambda *_: "other")
    with pytest.raises(SystemExit, match=r"with other precision\. To begin anew, move the file away"):
        kept(few_shot, "development")


def test_a_part_of_the_draws_does_not_stand_for_the_round(few_shot):
    kept(few_shot, "development", draws=1, whole=False).add("acdc", {"nano linear, one pass": SCORED}, 1.0)
    assert kept(few_shot, "development").numbers == {}


def test_parts_of_a_round_with_fewer_draws_join(few_shot):
    for head in ("linear", "cnn"):
        round_ = kept(few_shot, "development", draws=1, whole=False)
        round_.add("acdc", {f"nano {head}, one pass": SCORED}, 1.0)
    there = kept(few_shot, "development", draws=1, whole=False)
    assert list(there.numbers["acdc"]) == ["nano linear, one pass", "nano cnn, one pass"]


def test_a_round_with_fewer_draws_is_not_mixed_with_one_of_other_weights(few_shot, tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"other")
    kept(few_shot, "development", draws=1, whole=False).add("acdc", {"nano linear, one pass": SCORED}, 1.0)
    with pytest.raises(SystemExit, match="with other weights_sha256"):
        kept(few_shot, "development", draws=1, whole=False, weights=tmp_path / "other.safetensors")


def test_without_the_patients_the_kept_scores_are_shown_and_nothing_is_scored(few_shot, monkeypatch, tmp_path, capsys):
    kept(few_shot, "development").add("acdc", {f"nano prototype, {few_shot.IN_ONE_PASS}": SCORED}, 1.0)
    monkeypatch.setattr(few_shot, "DATA", dict.fromkeys(few_shot.DATA, tmp_path / "nowhere"))
    monkeypatch.setattr("sys.argv", ["few_shot.py", "--heads", "prototype", "--features", "nano"])
    few_shot.main()
    told = capsys.readouterr()
    assert "hippocampus: not at" in told.out + told.err
    assert "prototype, one pass" in told.out + told.err


@pytest.fixture
def study(few_shot, tmp_path):
    """One draw of one subject, and two to score."""
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=5)
    pool, test = (tuple(f"subject{number}" for number in part) for part in (range(3), range(3, 5)))
    split = workspace.keep_split(Split(name="development", seed=0, pool=pool, test=test))
    chosen = asked(few_shot, "development", draws=1, counts=[1])
    return few_shot.Study(data="acdc", workspace=workspace, split=split, asked=chosen)


@pytest.mark.parametrize("features", ["nano", "nano-512", "seeded", "pixels", "none"])
def test_every_head_of_some_features_can_be_planned_on_them(few_shot, study, features):
    embeddings = study.embedded(features)
    for head in few_shot.HEADS[features]:
        fit = few_shot.Fit(features=features, head=head, setting=few_shot.SETTINGS[head][0])
        assert study.run_id(embeddings, study.cells(fit, 1)[0]).startswith(f"{head}-1-0-")


def test_what_is_drawn_is_embedded_in_all_views_and_what_is_scored_as_it_is(few_shot, study):
    journal = study.embedded("pixels").journal
    (drawn,) = few_shot.draw_subjects(study.split, 1, 0, study.workspace.labelled_subjects).subjects
    for volume in study.workspace.volumes.values():
        there = {view for view in few_shot.BANK.texts if not journal.missing(row_keys(volume, view=view))}
        if volume.subject == drawn:
            assert there == {*few_shot.BANK.texts}
        else:
            assert there == ({"identity"} if volume.subject in study.split.test else set())


def test_scores_are_of_the_test_subjects_by_a_head_of_the_draw(few_shot, study):
    fit = few_shot.Fit(features="pixels", head="ridge", setting=few_shot.IN_ONE_PASS)
    found = study.scores(fit)[fit.key]
    (run,) = study.workspace.runs.values()
    assert {scored["subject"] for scored in run.scores} == {*study.split.test}
    assert found["revision"] == find_head("ridge").revision
    assert len(found["1"]["dice"]) == 1
    assert 0 < found["1"]["dice"][0] <= 1
    assert found["1"]["by_class"].keys() == {"box", "bar"}


def test_boxes_are_asked_once(few_shot):
    assert kept(few_shot).lacks_boxes("acdc", "nano")
    kept(few_shot).add("acdc", {"nano boxes": {"LV": 0.8}}, 1.0)
    assert not kept(few_shot).lacks_boxes("acdc", "nano")
