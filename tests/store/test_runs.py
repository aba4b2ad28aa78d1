"""A run is found by what people type, and only if it is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples.edits import edit, rewrite

from samkit.store.arrays import array_files, inside
from samkit.store.documents import readable_json, sealed_json
from samkit.store.errors import DamagedStore, MissingRun, UsageError
from samkit.store.local import LocalPlace
from samkit.store.runs import Run, Runs, RunSettings, check_name

SETTINGS = RunSettings(
    head="linear",
    head_config={"classes": 3},
    encoder="nano",
    recipe_id="0123456789ab",
    split="default",
    split_digest="ba9876543210",
    subjects=1,
    draw=0,
    drawn=("a",),
    validation=None,
    drawn_volumes={"a": "00/11"},
    scored_volumes={"x": "22/33"},
    label_names={1: "RV", 2: "Myo", 10: "LV"},
    training={"steps": 100, "learning_rate": 1e-3},
    seed=0,
)
OTHER_VALUES: dict[str, Any] = {
    "head": "autosam",
    "head_config": {"classes": 4},
    "encoder": "sam_vit_b",
    "recipe_id": "ffffffffffff",
    "split": "second",
    "split_digest": "ffffffffffff",
    "subjects": 3,
    "draw": 1,
    "drawn": ("b",),
    "validation": "a",
    "drawn_volumes": {"a": "00/22"},
    "scored_volumes": {"x": "22/44"},
    "label_names": {1: "RV"},
    "training": {"steps": 100, "learning_rate": 1e-4},
    "seed": 1,
}
Keep = Callable[..., LocalPlace]


@pytest.fixture
def folder(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "workspace" / "runs")


@pytest.fixture
def keep_run(folder: LocalPlace) -> Keep:
    """Write a finished run; later ones are newer."""
    count = iter(range(1, 100))

    def keep(**changes: Any) -> LocalPlace:
        settings = replace(SETTINGS, **changes)
        manifest = {"settings": settings.to_json(), "record": {"seconds": 2.0}, "scores": [{"volume_id": "x"}]}
        (folder / settings.run_id).publish_folder(
            {
                **inside("predictions/x", array_files(np.ones((2, 3, 4), np.uint8))),
                "steps.json": readable_json([{"step": 1, "loss": 0.5}]),
                "run.json": sealed_json(manifest),
            }
        )
        now = next(count)
        os.utime(folder / settings.run_id / "run.json", (now, now))
        return folder / settings.run_id

    return keep


# -- settings --------------------------------------------------------------------------------------


def test_the_id_of_a_run_is_this_one():
    # A golden id: equal settings must name the same run in every version of format 1.
    assert SETTINGS.run_id == "linear-1-0-309b7130"


def test_every_setting_has_another_value_in_these_tests():
    assert set(OTHER_VALUES) == {field.name for field in fields(RunSettings)}


@pytest.mark.parametrize("field", sorted(OTHER_VALUES))
def test_every_setting_changes_the_id_of_a_run(field: str):
    assert replace(SETTINGS, **{field: OTHER_VALUES[field]}).run_id != SETTINGS.run_id


def test_settings_survive_json_with_their_id():
    read = RunSettings.from_json(json.loads(json.dumps(SETTINGS.to_json())))
    assert read == SETTINGS
    assert read.run_id == SETTINGS.run_id


# -- what a run holds ------------------------------------------------------------------------------


def test_a_run_reads_back_what_was_kept(keep_run: Keep):
    run = Run(keep_run())
    assert run.id == SETTINGS.run_id
    assert run.settings == SETTINGS
    assert run.record == {"seconds": 2.0}
    assert run.steps == [{"step": 1, "loss": 0.5}]
    np.testing.assert_array_equal(np.asarray(run.predictions["x"][:]), np.ones((2, 3, 4), np.uint8))


def test_a_run_has_a_short_name(keep_run: Keep):
    assert Run(keep_run(subjects=5, draw=2)).alias == "linear@5#2"


def test_a_run_whose_prediction_is_gone_says_so(keep_run: Keep):
    place = keep_run()
    (place / "predictions" / "x").remove()
    with pytest.raises(DamagedStore, match="a prediction is missing or torn"):
        _ = Run(place).predictions


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": {}, "record": {}, "scores": []}', '{"settings": 3}'])
def test_a_torn_manifest_is_damage_and_named(keep_run: Keep, text: str):
    place = keep_run()
    (place / "run.json").publish(text.encode())
    with pytest.raises(DamagedStore, match=str(place / "run.json")):
        Run(place)


@pytest.mark.parametrize(("field", "value"), [("label_names", ["RV"]), ("drawn", 3), ("flavour", "vanilla")])
def test_settings_of_another_form_are_damage(keep_run: Keep, field: str, value: object):
    place = keep_run()
    rewrite(place / "run.json", lambda manifest: manifest["settings"].update({field: value}))
    with pytest.raises(DamagedStore, match="incomplete"):
        Run(place)


@pytest.mark.parametrize("change", [{"scores": []}, {"record": {"seconds": 1.0}}, {"settings": {}}])
def test_a_manifest_that_was_changed_by_hand_is_refused(keep_run: Keep, change: dict[str, Any]):
    place = keep_run()
    edit(place / "run.json", change)
    with pytest.raises(DamagedStore, match=r"run\.json: its content does not match its seal"):
        Run(place)


# -- which runs there are --------------------------------------------------------------------------


def test_runs_come_oldest_first(folder: LocalPlace, keep_run: Keep):
    made = [keep_run(seed=seed).name for seed in (3, 1, 2)]
    assert list(Runs(folder)) == made
    assert len(Runs(folder)) == 3


def test_a_workspace_without_runs_has_none(folder: LocalPlace):
    assert list(Runs(folder)) == []


def test_a_half_written_run_does_not_count(folder: LocalPlace, keep_run: Keep):
    whole = keep_run()
    shutil.copytree(whole, folder / f".{whole.name}.0123abcd.part")
    shutil.copytree(whole, folder / "linear-9-9-00000000")
    (folder / "linear-9-9-00000000" / "run.json").remove()
    assert list(Runs(folder)) == [whole.name]


def test_a_run_that_is_not_there_is_a_key_error_with_the_command(folder: LocalPlace, keep_run: Keep):
    keep_run()
    with pytest.raises(KeyError) as caught:
        Runs(folder)["linear-9-9-00000000"]
    assert "`samkit status` lists the runs there are" in str(caught.value)


# -- finding ---------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_id(folder: LocalPlace, keep_run: Keep):
    wanted = keep_run()
    keep_run(seed=1)
    assert Runs(folder).find(wanted.name).id == wanted.name


def test_a_run_is_found_by_its_path(folder: LocalPlace, keep_run: Keep, monkeypatch: pytest.MonkeyPatch):
    wanted = keep_run()
    keep_run(seed=1)
    monkeypatch.chdir(folder.path.parent)
    for text in (str(wanted), f"runs/{wanted.name}", f"./runs/{wanted.name}/"):
        assert Runs(folder).find(text).id == wanted.name


def test_a_path_into_another_workspace_is_not_taken_for_a_run_of_this_one(
    tmp_path: Path, folder: LocalPlace, keep_run: Keep
):
    elsewhere = tmp_path / "elsewhere" / keep_run().name
    elsewhere.mkdir(parents=True)
    with pytest.raises(MissingRun, match="no run"):
        Runs(folder).find(str(elsewhere))


def test_latest_is_the_newest(folder: LocalPlace, keep_run: Keep):
    keep_run(seed=5)
    newest = keep_run(seed=1)
    assert Runs(folder).find("latest").id == newest.name


def test_a_run_is_found_by_its_short_name(folder: LocalPlace, keep_run: Keep):
    keep_run(draw=0)
    wanted = keep_run(draw=1)
    assert Runs(folder).find("linear@1#1").id == wanted.name


def test_a_short_name_without_the_draw_is_enough_where_one_run_has_it(folder: LocalPlace, keep_run: Keep):
    keep_run(subjects=1)
    wanted = keep_run(subjects=3)
    assert Runs(folder).find("linear@3").id == wanted.name


@pytest.mark.parametrize("text", ["linear@1#0", "linear@1"])
def test_what_is_ambiguous_is_refused_with_the_choices(folder: LocalPlace, keep_run: Keep, text: str):
    made = [keep_run(seed=seed).name for seed in (0, 1)]
    with pytest.raises(MissingRun, match="names 2 runs") as caught:
        Runs(folder).find(text)
    assert all(name in str(caught.value) for name in made)
    assert "Name one by its id." in str(caught.value)


def test_what_is_not_there_is_refused_with_the_nearest_and_the_choices(folder: LocalPlace, keep_run: Keep):
    made = [keep_run(draw=draw).name for draw in (0, 1)]
    with pytest.raises(MissingRun, match="Did you mean 'linear@1#0'") as caught:
        Runs(folder).find("liner@1#0")
    assert all(name in str(caught.value) for name in made)


def test_a_long_list_of_choices_is_cut(folder: LocalPlace, keep_run: Keep):
    for seed in range(14):
        keep_run(seed=seed)
    with pytest.raises(MissingRun, match=r"and 2 more\.$"):
        Runs(folder).find("nothing like it")


def test_without_any_run_the_first_command_is_told(folder: LocalPlace):
    with pytest.raises(MissingRun, match="Train one: samkit train-head"):
        Runs(folder).find("latest")


def test_a_damaged_run_does_not_hide_the_others(folder: LocalPlace, keep_run: Keep):
    torn = keep_run(seed=0) / "run.json"
    torn.publish(b"{")
    os.utime(torn, (0, 0))
    wanted = keep_run(seed=1)
    assert Runs(folder).find(wanted.name).id == wanted.name
    assert Runs(folder).find("latest").settings.seed == 1


# -- names -----------------------------------------------------------------------------------------


def test_a_known_name_is_taken():
    check_name("head", "linear", ["autosam", "linear"])


def test_an_unknown_name_is_refused_with_the_nearest_and_all():
    with pytest.raises(
        UsageError, match=r"unknown head 'liner'\. Did you mean 'linear'\? There are: autosam, linear\."
    ):
        check_name("head", "liner", ["linear", "autosam"])


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(UsageError, match=r"unknown head 'zzz'\. There are"):
        check_name("head", "zzz", ["linear", "autosam"])
