"""A run is found by what people type, and only if it is finished."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from examples.edits import edit, flip, rewrite

from samkit.store.arrays import array_files, inside
from samkit.store.documents import bytes_digest, readable_json, sealed_json
from samkit.store.errors import DamagedStore, MissingRun, UsageError
from samkit.store.local import LocalPlace
from samkit.store.places import Place, place_of
from samkit.store.runs import Run, Runs, RunSettings, check_name, touched_by

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
    "counted": "frames",
    "draw": 1,
    "drawn": ("b",),
    "validation": "a",
    "drawn_volumes": {"a": "00/22"},
    "scored_volumes": {"x": "22/44"},
    "label_names": {1: "RV"},
    "training": {"steps": 100, "learning_rate": 1e-4},
    "seed": 1,
    "tiles": 0.25,
    "views": ("identity", "flip-rows"),
    "revision": 2,
}
Keep = Callable[..., LocalPlace]


@pytest.fixture
def folder(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "workspace" / "runs")


def write_run(folder: Place, finished: float | None, **changes: Any) -> None:
    """Write a run as `train` does; without ``finished`` as it was done before runs said when."""
    settings = replace(SETTINGS, **changes)
    files = {
        **inside("predictions/x", array_files(np.ones((2, 3, 4), np.uint8))),
        **inside("predictions/y", array_files(np.full((1, 3, 4), 2, np.uint8))),
        "steps.json": readable_json([{"step": 1, "loss": 0.5}]),
    }
    record = {"seconds": 2.0, "files": {name: bytes_digest(content) for name, content in files.items()}}
    if finished is not None:
        record["finished"] = finished
    manifest = {"settings": settings.to_json(), "record": record, "scores": [{"volume_id": "x"}, {"volume_id": "y"}]}
    (folder / settings.run_id).publish_folder({**files, "run.json": sealed_json(manifest)})


@pytest.fixture
def keep_run(folder: LocalPlace) -> Keep:
    """Write a finished run; later ones are newer."""
    count = iter(range(1, 100))

    def keep(**changes: Any) -> LocalPlace:
        write_run(folder, float(next(count)), **changes)
        return folder / replace(SETTINGS, **changes).run_id

    return keep


# -- settings --------------------------------------------------------------------------------------


def test_the_id_of_a_run_is_this_one():
    # A golden id: equal settings must name the same run in every version of format 1.
    assert SETTINGS.run_id == "linear-1-0-309b7130"


def test_every_setting_has_another_value_in_these_tests():
    assert set(OTHER_VALUES) == {field.name for field in fields(RunSettings)}


def test_settings_that_came_later_are_kept_only_where_they_say_something():
    # So that the runs from before keep their ids, see above, and are read.
    assert "tiles" not in SETTINGS.to_json()
    assert replace(SETTINGS, tiles=0.0).to_json()["tiles"] == 0.0


@pytest.mark.parametrize("tiles", [0.0, 0.25])
def test_tiles_survive_json(tiles: float):
    settings = replace(SETTINGS, tiles=tiles)
    assert RunSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize("field", sorted(OTHER_VALUES))
def test_every_setting_changes_the_id_of_a_run(field: str):
    assert replace(SETTINGS, **{field: OTHER_VALUES[field]}).run_id != SETTINGS.run_id


def test_settings_survive_json_with_their_id():
    read = RunSettings.from_json(json.loads(json.dumps(SETTINGS.to_json())))
    assert read == SETTINGS
    assert read.run_id == SETTINGS.run_id


def test_labels_come_in_the_order_of_their_numbers():
    kept = {**SETTINGS.to_json(), "label_names": {"10": "LV", "1": "RV", "2": "Myo"}}
    assert list(RunSettings.from_json(kept).label_names) == [1, 2, 10]


def test_the_order_of_labels_is_no_part_of_an_id():
    assert replace(SETTINGS, label_names={10: "LV", 1: "RV", 2: "Myo"}).run_id == SETTINGS.run_id


# -- what a run holds ------------------------------------------------------------------------------


def test_a_run_reads_back_what_was_kept(keep_run: Keep):
    run = Run(keep_run())
    assert run.id == SETTINGS.run_id
    assert run.settings == SETTINGS
    assert run.record["seconds"] == 2.0
    assert run.steps == [{"step": 1, "loss": 0.5}]
    assert list(run.predictions) == ["x", "y"]
    np.testing.assert_array_equal(run.predictions["x"], np.ones((2, 3, 4), np.uint8))
    np.testing.assert_array_equal(run.predictions["y"], np.full((1, 3, 4), 2, np.uint8))


def test_a_run_has_a_short_name(keep_run: Keep):
    assert Run(keep_run(subjects=5, draw=2)).alias == "linear@5#2"


@pytest.mark.parametrize("name", ["zarr.json", "0.0.0"])
def test_a_prediction_of_which_a_file_is_gone_is_refused(keep_run: Keep, name: str):
    place = keep_run()
    (place / "predictions/x" / name).remove()
    with pytest.raises(DamagedStore, match=rf"run {place.name} \(linear@1#0\): predictions/x/{name} is missing"):
        Run(place).predictions["x"]


@pytest.mark.parametrize("name", ["zarr.json", "0.0.0"])
def test_a_prediction_with_a_flipped_byte_is_refused_with_the_remedy(keep_run: Keep, name: str):
    place = keep_run()
    flip(place / "predictions/x" / name, 30)
    with pytest.raises(DamagedStore, match=f"predictions/x/{name} is not what was written.*Remove {place} and train"):
        Run(place).predictions["x"]


def test_a_whole_prediction_that_is_not_the_runs_own_is_refused(keep_run: Keep):
    place = keep_run()
    other = array_files(np.zeros((2, 3, 4), np.uint8))
    (place / "predictions/x").publish_folder(other)
    with pytest.raises(DamagedStore, match=r"predictions/x/0\.0\.0 is not what was written"):
        Run(place).predictions["x"]


def test_a_damaged_prediction_does_not_hide_the_others(keep_run: Keep):
    place = keep_run()
    (place / "predictions/x").remove()
    assert Run(place).predictions["y"].shape == (1, 3, 4)


def test_a_prediction_that_the_record_does_not_cover_is_refused(keep_run: Keep):
    place = keep_run()
    rewrite(place / "run.json", lambda manifest: manifest["record"].update(files={}))
    with pytest.raises(DamagedStore, match=r"predictions/x/zarr\.json has no digest"):
        Run(place).predictions["x"]


def test_a_volume_that_was_not_scored_has_no_prediction(keep_run: Keep):
    predictions = Run(keep_run()).predictions
    assert "a" not in predictions
    with pytest.raises(KeyError, match="has not scored 'a'; it has scored x, y"):
        predictions["a"]


def test_steps_that_were_changed_are_refused(keep_run: Keep):
    place = keep_run()
    (place / "steps.json").publish(readable_json([{"step": 1, "loss": 0.1}]))
    with pytest.raises(DamagedStore, match=rf"steps\.json is not what was written.*Remove {place}"):
        _ = Run(place).steps


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


def test_a_copy_of_a_workspace_has_the_runs_in_the_same_order(folder: LocalPlace, keep_run: Keep):
    made = [keep_run(seed=seed).name for seed in (3, 1, 2)]
    for time, name in enumerate(reversed(made), start=1):  # as `cp -r` or `aws s3 sync` may leave them
        os.utime(folder / name / "run.json", (time, time))
    assert list(Runs(folder)) == made
    assert Runs(folder).find("latest").id == made[-1]


def test_runs_that_do_not_say_when_they_were_finished_are_ordered_by_their_files(folder: LocalPlace):
    for time, seed in enumerate((3, 1, 2), start=1):
        write_run(folder, None, seed=seed)
        os.utime(folder / replace(SETTINGS, seed=seed).run_id / "run.json", (time, time))
    assert [run.settings.seed for run in Runs(folder).values()] == [3, 1, 2]


def test_the_runs_and_their_ids_come_in_the_same_order(folder: LocalPlace, keep_run: Keep):
    made = [keep_run(seed=seed).name for seed in (3, 1, 2)]
    assert [run.id for run in Runs(folder).values()] == made
    assert [(name, run.id) for name, run in Runs(folder).items()] == [(name, name) for name in made]


@pytest.fixture
def remote() -> Iterator[Place]:
    made = place_of(f"memory://bucket-{uuid.uuid4().hex}/runs")
    yield made
    made.remove()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the requests to an object store."""
    counted: Counter[str] = Counter()
    file_system = type(fsspec.filesystem("memory"))
    for name in ("info", "ls", "find", "cat_file"):
        right = getattr(file_system, name)

        def request(self: Any, *given: Any, _name: str = name, _right: Any = right, **named: Any) -> Any:
            counted[_name] += 1
            return _right(self, *given, **named)

        monkeypatch.setattr(file_system, name, request)
    return counted


@pytest.mark.parametrize(
    "read",
    [
        set,
        len,
        lambda runs: list(runs.values()),
        lambda runs: dict(runs.items()),
        lambda runs: runs.find("latest"),
        lambda runs: runs.find("linear@1#7"),
    ],
    ids=["ids", "len", "values", "items", "latest", "alias"],
)
def test_all_runs_cost_one_listing_and_one_request_each(
    remote: Place, requests: Counter[str], read: Callable[..., Any]
):
    for draw in range(20):
        write_run(remote, float(draw), draw=draw)
    requests.clear()
    read(Runs(remote))
    assert requests["ls"] == 1
    assert requests["cat_file"] == 20
    assert requests.total() == 21


def test_one_run_costs_a_request_or_two_however_many_there_are(remote: Place, requests: Counter[str]):
    for draw in range(20):
        write_run(remote, float(draw), draw=draw)
    requests.clear()
    assert Runs(remote)[replace(SETTINGS, draw=7).run_id].settings.draw == 7
    assert requests.total() == 2


def test_whether_there_is_a_run_costs_one_request(remote: Place, requests: Counter[str]):
    write_run(remote, 1.0)
    requests.clear()
    assert SETTINGS.run_id in Runs(remote)
    assert requests.total() == 1


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", 3])
def test_what_is_no_name_is_no_run(folder: LocalPlace, keep_run: Keep, name: object):
    (folder / "run.json").publish((keep_run() / "run.json").read_bytes())
    assert name not in Runs(folder)


def test_a_file_beside_the_runs_is_no_run(folder: LocalPlace, keep_run: Keep):
    whole = keep_run()
    (folder / "notes.txt").publish(b"mine")
    assert list(Runs(folder)) == [whole.name]
    assert "notes.txt" not in Runs(folder)


def test_a_workspace_without_runs_has_none(folder: LocalPlace):
    assert list(Runs(folder)) == []


def test_a_half_written_run_does_not_count(folder: LocalPlace, keep_run: Keep):
    whole = keep_run()
    shutil.copytree(whole, folder / f".{whole.name}.0123abcd.part")
    shutil.copytree(whole, folder / "linear-9-9-00000000")
    (folder / "linear-9-9-00000000" / "run.json").remove()
    assert list(Runs(folder)) == [whole.name]
    assert f".{whole.name}.0123abcd.part" not in Runs(folder)
    assert "linear-9-9-00000000" not in Runs(folder)


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


# -- what uses a volume ----------------------------------------------------------------------------


def test_runs_are_touched_by_the_volumes_they_were_trained_or_scored_on_and_by_no_others(
    folder: LocalPlace, keep_run: Keep
):
    trained = keep_run(drawn_volumes={"a": "0/0", "b": "0/0"}, scored_volumes={"x": "0/0"})
    scored = keep_run(drawn_volumes={"b": "0/0"}, scored_volumes={"a": "0/0", "x": "0/0"})
    keep_run(drawn_volumes={"b": "0/0"}, scored_volumes={"x": "0/0"})
    assert [run.id for run in touched_by(Runs(folder), ["a", "nobody"])] == [trained.name, scored.name]
    assert touched_by(Runs(folder), []) == []


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
