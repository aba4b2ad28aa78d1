"""A workspace is opened, or refused with what to do; nothing is ever written where it does not belong."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from examples.edits import edit, rewrite, rewrite_lines
from examples.tiny_sam import TINY
from examples.workspaces import embed_rows, workspace_of_boxes

from samkit.store.errors import (
    DamagedStore,
    IdentifierTaken,
    MissingEmbeddings,
    NewerFormat,
    NotAWorkspace,
    StoreError,
    UsageError,
)
from samkit.store.keys import FORMAT_VERSION, Recipe
from samkit.store.local import LocalPlace
from samkit.store.slices import VolumeRecord
from samkit.store.splits import Split
from samkit.store.workspace import Workspace, check_identifier, open_workspace

# -- making and opening ----------------------------------------------------------------------------


def test_a_new_workspace_says_its_format_and_what_made_it(tmp_path: Path):
    Workspace.create(tmp_path / "new", {2: "Myo", 1: "RV"})
    kept = json.loads((tmp_path / "new" / "workspace.json").read_text())
    assert set(kept) == {"format", "made_by", "seal"}
    assert kept["format"] == FORMAT_VERSION
    assert kept["made_by"].startswith("samkit ")


def test_a_new_workspace_has_the_label_names_it_was_given(tmp_path: Path):
    Workspace.create(tmp_path / "new", {2: "Myo", 1: "RV"})
    assert open_workspace(tmp_path / "new").label_names == {1: "RV", 2: "Myo"}


def test_the_description_is_written_once_and_never_again(workspace: Workspace, add_volume: Callable[..., VolumeRecord]):
    file = workspace.path / "workspace.json"
    before, inode = file.read_bytes(), Path(file).stat().st_ino
    add_volume(workspace, "c")
    workspace.set_label_names({1: "other"})
    assert file.read_bytes() == before
    assert Path(file).stat().st_ino == inode


def test_a_new_workspace_is_empty(tmp_path: Path):
    made = Workspace.create(tmp_path / "new")
    assert (len(made.volumes), made.label_names, made.recipes(), len(made.runs)) == (0, {}, {}, 0)


def test_an_empty_folder_may_become_a_workspace(tmp_path: Path):
    (tmp_path / ".DS_Store").touch()
    assert len(Workspace.create(tmp_path).volumes) == 0


def test_of_two_processes_that_make_one_workspace_both_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = Workspace.check_place

    def meanwhile(path: Path) -> None:
        monkeypatch.setattr(Workspace, "check_place", real)
        Workspace.create(tmp_path, {1: "RV"})
        (tmp_path / "volumes" / "a").mkdir(parents=True)  # whose first pixels are being written
        real(path)

    monkeypatch.setattr(Workspace, "check_place", meanwhile)
    assert Workspace.create(tmp_path, {1: "RV"}).label_names == {1: "RV"}


def test_making_a_workspace_that_is_there_leaves_its_label_names_as_they_are(tmp_path: Path):
    Workspace.create(tmp_path, {1: "RV"})
    assert Workspace.create(tmp_path, {1: "other"}).label_names == {1: "RV"}


def test_a_folder_with_other_things_is_refused_and_left_as_it_was(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(NotAWorkspace, match="nothing was written into it"):
        Workspace.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_place_for_a_workspace(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotAWorkspace, match="Name another place"):
        Workspace.create(tmp_path / "file")


@pytest.mark.parametrize("name", ["absent", "empty", "file"])
def test_what_is_no_workspace_is_refused_with_the_command_that_makes_one_and_not_touched(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotAWorkspace, match=f"samkit ingest FOLDER --workspace {tmp_path / name}"):
        open_workspace(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file"]


@pytest.mark.parametrize("url", ["nosuch://bucket/set", "one+two://bucket/set"])
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("use", [open_workspace, Workspace.create])
def test_a_url_of_no_known_kind_is_refused_by_its_scheme_and_makes_no_folder(url: str, kind: type, use: Callable):
    # A Path has lost one of the two slashes, and must not become a folder named "nosuch:".
    before, scheme = sorted(Path.cwd().iterdir()), url.partition(":")[0]
    with pytest.raises(UsageError, match=f"^{re.escape(scheme)}:/.*only if it is absent; samkit uses s3://"):
        use(kind(url))
    assert sorted(Path.cwd().iterdir()) == before


def test_a_workspace_may_lie_in_an_object_store(recipe: Recipe, add_volume: Callable[..., VolumeRecord]):
    url = f"memory://bucket-{uuid.uuid4().hex}/set"
    with pytest.raises(NotAWorkspace, match=f"samkit ingest FOLDER --workspace {url}"):
        open_workspace(url)
    made = Workspace.create(url, {1: "RV", 2: "Myo"})
    add_volume(made, "a")
    made.create_embeddings(recipe, trained=True)
    opened = open_workspace(url)
    assert list(opened.volumes) == ["a"]
    assert opened.label_names == {1: "RV", 2: "Myo"}
    assert opened.embeddings("nano").recipe == recipe
    assert opened.volumes["a"].read_slice(1).shape == (1, 6, 5)
    with pytest.raises(NotAWorkspace, match="nothing was written into it"):
        Workspace.create(opened.path / "volumes")


def test_opening_lists_no_folder_but_the_log(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    real, listed = LocalPlace.children, []

    def watch(self: LocalPlace) -> list[str]:
        listed.append(self.name)
        return real(self)

    def refuse(*_: object) -> None:
        message = "a folder was listed"
        raise AssertionError(message)

    monkeypatch.setattr(LocalPlace, "children", watch)
    for name in ("glob", "rglob", "walk"):
        monkeypatch.setattr(Path, name, refuse, raising=False)
    monkeypatch.setattr(os, "walk", refuse)
    assert list(open_workspace(workspace.path).volumes) == ["a", "b"]
    assert listed == ["volumes"]


def test_a_later_format_is_refused_with_both_versions(workspace: Workspace):
    edit(workspace.path / "workspace.json", {"format": FORMAT_VERSION + 1, "something_new": True})
    with pytest.raises(NewerFormat, match=rf"format {FORMAT_VERSION + 1} .* up to {FORMAT_VERSION}\. Update it"):
        open_workspace(workspace.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"format": "one"}', '{"format": 1}', "\x00"])
@pytest.mark.parametrize("file", ["workspace.json", "volumes/00000001.jsonl", "volumes/head.json"])
def test_a_description_that_samkit_did_not_write_is_damage_and_named(workspace: Workspace, file: str, text: str):
    (workspace.path / file).publish(text.encode())
    with pytest.raises(DamagedStore) as caught:
        list(open_workspace(workspace.path).volumes)
    assert str(workspace.path / file) in str(caught.value)


@pytest.mark.parametrize("change", [{"made_by": "samkit 9"}, {"format": 0}])
def test_a_description_that_was_changed_by_hand_is_damage(workspace: Workspace, change: dict[str, Any]):
    edit(workspace.path / "workspace.json", change)
    with pytest.raises(DamagedStore, match=r"workspace\.json: its content does not match its seal"):
        open_workspace(workspace.path)


@pytest.mark.parametrize("found", ["one", None, 1.5])
def test_a_format_that_is_no_number_is_damage_under_any_seal(workspace: Workspace, found: object):
    rewrite(workspace.path / "workspace.json", {"format": found})
    with pytest.raises(DamagedStore, match=r"workspace\.json: it says format"):
        open_workspace(workspace.path)


def index_edited(workspace: Workspace, change: Callable[[list[Any]], object]) -> Workspace:
    """The workspace with the last segment of its index changed and sealed again."""
    last = [name for name in (workspace.path / "volumes").children() if name.endswith(".jsonl")][-1]
    rewrite_lines(workspace.path / "volumes" / last, change)
    return open_workspace(workspace.path)


@pytest.mark.parametrize("names", [3, ["RV"], {"RV": "1"}])
def test_label_names_of_another_form_are_damage(workspace: Workspace, names: object):
    with pytest.raises(DamagedStore, match=r"volumes/0000000\d\.jsonl"):
        _ = index_edited(workspace, lambda lines: lines[0].update(label_names=names)).label_names


@pytest.mark.parametrize("line", [{"a": 1}, 3, ["a"], [1, {}], "a", None])
def test_a_line_of_the_index_that_is_no_volume_is_damage(workspace: Workspace, line: object):
    with pytest.raises(DamagedStore, match=r"volumes"):
        list(index_edited(workspace, lambda lines: lines.append(line)).volumes.values())


def test_a_damaged_line_of_the_index_names_its_volume(workspace: Workspace):
    opened = index_edited(workspace, lambda lines: lines[1][1].pop("subject"))
    with pytest.raises(DamagedStore, match=r"volume a: the fields \['subject'\] are missing"):
        list(opened.volumes.values())
    assert opened.volumes["b"].subject == "subject-b"


# -- volumes ---------------------------------------------------------------------------------------


def test_volumes_are_ordered_by_id_whatever_the_order_they_came_in(
    workspace: Workspace, add_volume: Callable[..., VolumeRecord]
):
    for name in ("z", "B", "a10", "a2"):
        add_volume(workspace, name)
    assert list(workspace.volumes) == sorted(["a", "b", "z", "B", "a10", "a2"])
    assert list(open_workspace(workspace.path).volumes) == list(workspace.volumes)


def test_volumes_are_ordered_by_id_whatever_the_order_of_the_index(workspace: Workspace):
    both = index_edited(workspace, lambda lines: lines.append(["A", lines[1][1]]))
    assert list(both.volumes) == ["A", "a", "b"]


def test_a_volume_that_is_not_there_is_a_key_error_that_counts_the_others(workspace: Workspace):
    with pytest.raises(KeyError, match="no volume 'c' in this workspace; it holds 2 volumes"):
        workspace.volumes["c"]
    assert "c" not in workspace.volumes


def test_committing_a_volume_again_replaces_it_and_keeps_the_others(workspace: Workspace):
    other = workspace.volumes["b"].record
    workspace.commit_volumes([replace(workspace.volumes["a"].record, subject="someone else")])
    assert workspace.volumes["a"].subject == "someone else"
    assert workspace.volumes["b"].record == other


def test_another_process_sees_the_volumes(workspace: Workspace):
    assert [volume.record for volume in open_workspace(workspace.path).volumes.values()] == [
        volume.record for volume in workspace.volumes.values()
    ]


def test_a_commit_does_not_lose_what_another_process_committed_before_it(
    workspace: Workspace, add_volume: Callable[..., VolumeRecord]
):
    mine, theirs = open_workspace(workspace.path), open_workspace(workspace.path)
    assert len(mine.volumes) == len(theirs.volumes) == 2
    add_volume(theirs, "c")
    add_volume(mine, "d")
    assert list(open_workspace(workspace.path).volumes) == ["a", "b", "c", "d"]


def test_an_id_that_another_source_was_given_meanwhile_is_refused_and_nothing_is_committed(
    workspace: Workspace, add_volume: Callable[..., VolumeRecord]
):
    mine, theirs = open_workspace(workspace.path), open_workspace(workspace.path)
    add_volume(theirs, "c")
    record = replace(mine.volumes["a"].record, id="c", identity="another source")
    with pytest.raises(IdentifierTaken, match="the volume id 'c' was given to another source while this one was read"):
        mine.commit_volumes([replace(record, id="d"), record])
    opened = open_workspace(workspace.path)
    assert list(opened.volumes) == ["a", "b", "c"]
    assert opened.volumes["c"].record.identity == "source-c"


def test_removed_volumes_are_gone_and_their_pixels_stay(workspace: Workspace):
    pixels = workspace.path / workspace.volumes["a"].record.pixels
    workspace.remove_volumes(["a"])
    assert list(workspace.volumes) == list(open_workspace(workspace.path).volumes) == ["b"]
    assert pixels.files()


def test_removing_a_volume_that_is_not_there_is_a_key_error_and_removes_none(workspace: Workspace):
    with pytest.raises(KeyError, match="no volume 'z' in this workspace"):
        workspace.remove_volumes(["a", "z"])
    assert list(open_workspace(workspace.path).volumes) == ["a", "b"]


def test_exchanging_a_record_leaves_one_alone_that_somebody_has_changed_meanwhile(workspace: Workspace):
    old = {name: workspace.volumes[name].record for name in ("a", "b")}
    other = open_workspace(workspace.path)
    other.commit_volumes([replace(old["a"], subject="theirs")])
    workspace.exchange_records((record, replace(record, subject="mine")) for record in old.values())
    opened = open_workspace(workspace.path)
    assert (opened.volumes["a"].subject, opened.volumes["b"].subject) == ("theirs", "mine")


def test_label_names_are_numbers_and_names(workspace: Workspace):
    assert open_workspace(workspace.path).label_names == {1: "RV", 2: "Myo"}
    assert workspace.volumes["a"].label_names == {1: "RV", 2: "Myo"}


def test_label_names_can_be_given_later(tmp_path: Path, add_volume: Callable[..., VolumeRecord]):
    made = Workspace.create(tmp_path / "new")
    add_volume(made, "a")
    made.set_label_names({10: "kidney", 2: "liver"})
    assert open_workspace(made.path).label_names == made.label_names == {2: "liver", 10: "kidney"}
    assert made.volumes["a"].label_names == made.label_names


def test_a_workspace_shows_its_path_and_the_first_of_its_volumes(workspace: Workspace):
    assert repr(workspace) == f"Workspace({str(workspace.path)!r}, 2 volumes)"
    assert repr(workspace.volumes) == "Volumes(2: a, b)"


# -- embeddings ------------------------------------------------------------------------------------


def test_nothing_embedded_is_a_key_error_with_the_command(workspace: Workspace):
    with pytest.raises(KeyError) as caught:
        workspace.embeddings()
    assert "nothing has been embedded. Run `samkit embed`." in str(caught.value)


def test_another_encoder_is_a_key_error_that_lists_what_there_is(workspace: Workspace, recipe: Recipe):
    workspace.create_embeddings(recipe, trained=True)
    with pytest.raises(MissingEmbeddings, match=f"no embeddings of 'sam_vit_b'; there are: {recipe.folder_name}"):
        workspace.embeddings("sam_vit_b")


def test_embeddings_are_found_by_encoder_by_id_and_by_folder(workspace: Workspace, recipe: Recipe):
    workspace.create_embeddings(recipe, trained=True)
    for name in (None, recipe.encoder, recipe.id, recipe.folder_name):
        assert workspace.embeddings(name).recipe == recipe


def test_the_newest_recipe_of_an_encoder_is_the_one_in_use(workspace: Workspace, recipe: Recipe):
    newer = replace(recipe, input_px=128)
    for number, made in enumerate((recipe, newer)):
        folder = workspace.create_embeddings(made, trained=True).folder
        os.utime(folder / "recipe.json", (number + 1, number + 1))
    assert list(workspace.recipes()) == [recipe.id, newer.id]
    assert workspace.embeddings("nano").recipe == newer


def test_a_recipe_with_rows_of_tiles_of_every_slice_is_complete(tmp_path: Path):
    workspace = workspace_of_boxes(tmp_path / "workspace", subjects=1)
    whole, tiled = (TINY.load(None, size=size) for size in (64, 48))
    keys = workspace.volumes["subject0"].row_keys()
    tiles = [replace(key, tile=f"rows0-40+columns{first}-{first + 20}") for key in keys for first in (0, 20)]
    embed_rows(workspace, whole, keys)
    assert workspace.embeddings("tiny").recipe.input_px == 64
    embed_rows(workspace, tiled, tiles[:-2])
    assert workspace.embeddings("tiny").recipe.input_px == 64
    embed_rows(workspace, tiled, tiles)
    assert workspace.embeddings("tiny").recipe.input_px == 48


def test_a_recipe_that_is_there_is_opened_and_not_written_again(workspace: Workspace, recipe: Recipe):
    folder = workspace.create_embeddings(recipe, trained=False).folder
    before = (folder / "recipe.json").modified()
    assert workspace.create_embeddings(recipe, trained=True).trained is False
    assert (folder / "recipe.json").modified() == before


def test_a_folder_without_a_recipe_is_no_recipe(workspace: Workspace, recipe: Recipe):
    (Path(workspace.path) / "embeddings" / recipe.folder_name / "features").mkdir(parents=True)
    assert workspace.recipes() == {}


# -- splits and names ------------------------------------------------------------------------------


def test_a_split_is_kept_under_its_name(workspace: Workspace):
    split = Split(name="second", seed=3, pool=("a",), test=("b",))
    workspace.keep_split(split)
    assert open_workspace(workspace.path).split("second") == split
    assert workspace.split() is None


def test_a_split_cannot_be_kept_outside_the_workspace(workspace: Workspace):
    with pytest.raises(UsageError, match="split name"):
        workspace.keep_split(Split(name="../escaped", seed=3, pool=("a",), test=("b",)))
    assert not (workspace.path / "escaped.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "default"}'])
def test_a_damaged_split_is_told_as_damage(workspace: Workspace, text: str):
    (workspace.path / "splits" / "default.json").publish(text.encode())
    with pytest.raises(DamagedStore, match="splits"):
        workspace.split()


@pytest.mark.parametrize("name", ["a", "patient001_frame01", "sub-01", "1.2.840", "A+b", "x" * 128])
def test_an_id_of_letters_digits_and_a_few_signs_is_taken(name: str):
    assert check_identifier("volume id", name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "-flag", "a/b", "..", "a b", "ü", "a\n", "x" * 129, "a\\b", "a:b"])
def test_an_id_that_no_file_system_takes_is_refused(name: str):
    with pytest.raises(UsageError, match="volume id"):
        check_identifier("volume id", name)


def test_label_names_that_somebody_else_gave_meanwhile_are_not_overwritten(tmp_path: Path):
    mine = Workspace.create(tmp_path / "w")
    assert mine.label_names == {}
    open_workspace(tmp_path / "w").set_label_names({1: "liver"})
    with pytest.raises(StoreError, match=r"has named the labels \{1: 'liver'\} meanwhile"):
        mine.set_label_names({1: "spleen"})
    assert open_workspace(tmp_path / "w").label_names == {1: "liver"}


def test_equal_label_names_from_two_commands_are_no_clash(tmp_path: Path):
    mine = Workspace.create(tmp_path / "w")
    assert mine.label_names == {}
    open_workspace(tmp_path / "w").set_label_names({1: "liver"})
    mine.set_label_names({1: "liver"})
    assert mine.label_names == {1: "liver"}
