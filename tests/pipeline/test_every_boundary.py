"""Stopped before every system call that changes the disk, one after the other: each time the same command finishes.

A stop before call k is a stop after call k - 1; in a write and in a removal it comes halfway. What was not flushed is
lost. After it, whatever counts is whole; and after the same command again, nothing tells that it was ever stopped.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from examples.mortal_disk import Killed, MortalDisk
from examples.tiny_sam import TINY
from examples.workspaces import add_volume, boxes, embed, workspace_of_boxes

from samkit.heads.linear import Linear
from samkit.heads.recipes import FitOptions
from samkit.stages.encoders.base import Encoder
from samkit.stages.ingest import IngestOptions, Taken, ingest
from samkit.stages.readers.layouts import LayoutOptions, find_sources
from samkit.stages.train import train
from samkit.stages.training.plan import TrainOptions
from samkit.store.embeddings import Embeddings
from samkit.store.garbage import collect
from samkit.store.lease import lease
from samkit.store.local import LocalPlace
from samkit.store.verify import verify
from samkit.store.workspace import Workspace, open_workspace

Command = Callable[[LocalPlace], object]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return TINY.load(None, size=64, device="cpu", precision="float32")


@pytest.fixture(autouse=True)
def a_stopped_process_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it goes on to run the test, so its lease would look held."""
    monkeypatch.setattr("samkit.store.lease._lives", lambda _: False)


def faults(path: Path) -> list[str]:
    if not Workspace.is_at(path):
        return []
    return [
        f"{checked.part} {checked.name}: {checked.fault}" for checked in verify(open_workspace(path)) if checked.fault
    ]


def stopped_everywhere(
    tmp_path: Path,
    begin: Path | None,
    command: Command,
    after_stop: Callable[[Path], object],
    end: Callable[[Path], object],
) -> list[str]:
    """Run a command stopped before each of its calls, then again to its end; return the calls of a whole run.

    Parameters
    ----------
    begin
        The workspace it starts from; None for none.
    after_stop
        Called on what a stop left; what it returns has to be in the end as well, see ``end``.
    end
        What the finished workspace is; has to be that of a run that was never stopped.
    """

    def fresh(name: str) -> Path:
        if begin is not None:
            shutil.copytree(begin, tmp_path / name)
        return tmp_path / name

    whole = MortalDisk()
    never_stopped = fresh("never-stopped")
    command(LocalPlace(never_stopped, whole))
    expected = end(never_stopped)
    for dies_at in range(1, len(whole.calls) + 1):
        path = fresh(str(dies_at))
        with contextlib.suppress(Killed):
            command(LocalPlace(path, MortalDisk(dies_at)))
        told = f"stopped before call {dies_at} of {len(whole.calls)}, {whole.calls[dies_at - 1]}"
        assert faults(path) == [], told
        kept = after_stop(path)
        command(LocalPlace(path))
        assert faults(path) == [], told
        assert end(path) == expected, told
        assert kept is None or kept == after_stop_of_end(kept, path, after_stop), told
        shutil.rmtree(path)
    return whole.calls


def after_stop_of_end(kept: object, path: Path, after_stop: Callable[[Path], object]) -> object:
    """What of the end was there at the stop: of two mappings the common part."""
    now = after_stop(path)
    assert isinstance(now, dict)
    assert isinstance(kept, dict)
    return {name: now.get(name) for name in kept}


# -- what is compared ------------------------------------------------------------------------------


def writers(path: Path) -> dict[str, str]:
    """Which command wrote each finished shard: a shard that was computed twice would have another writer."""
    if not Workspace.is_at(path):
        return {}
    return {
        record.shard: record.writer
        for embeddings in open_workspace(path).recipes().values()
        for record in embeddings.journal.records.values()
    }


def rows(path: Path) -> dict[str, bytes]:
    workspace = open_workspace(path)
    found: Embeddings = next(iter(workspace.recipes().values()))
    return {volume_id: found[volume_id].tobytes() for volume_id in workspace.volumes}


def pixels(path: Path) -> dict[str, tuple[bytes, bytes]]:
    volumes = open_workspace(path).volumes
    return {
        volume.id: (np.asarray(volume.image).tobytes(), np.asarray(volume.read_label()).tobytes())
        for volume in volumes.values()
    }


def run_files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in (path / "runs").rglob("*")
        if file.is_file() and file.name != "run.json" and not any(part.startswith(".") for part in file.parts)
    }


# -- the commands ----------------------------------------------------------------------------------


def test_ingest(tmp_path: Path, write_pair: Callable[..., None]):
    write_pair(tmp_path / "data", "scan", seed=0)
    for seed in (1, 2):
        write_pair(tmp_path / "data", f"picture{seed}", seed=seed, shape=(20, 16, 1))
    found = find_sources(tmp_path / "data", LayoutOptions(ids="stem", id_key=b"key"))

    def command(place: LocalPlace) -> None:
        results = list(ingest(place, found, IngestOptions(shown="data")))
        assert all(isinstance(result, Taken) for result in results), results

    calls = stopped_everywhere(tmp_path, None, command, lambda _: None, pixels)
    assert {"write", "sync", "rename", "link"} <= set(calls)
    assert len(calls) > 50


def test_embed_and_the_compaction_after_it(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("samkit.store.embeddings.ROWS_PER_SHARD", 4)
    begin = tmp_path / "begin"
    workspace_of_boxes(begin, subjects=3)

    def command(place: LocalPlace) -> None:
        embeddings = embed(Workspace(place), encoder)
        with lease(place, "the test"):
            embeddings.journal.compact()

    calls = stopped_everywhere(tmp_path, begin, command, writers, rows)
    assert {"write", "sync", "rename", "link", "unlink"} <= set(calls)


def test_train_head(tmp_path: Path, encoder: Encoder):
    begin = tmp_path / "begin"
    embed(workspace_of_boxes(begin, subjects=3), encoder)
    options = TrainOptions(head="linear", subjects=1, draw=0, fit=FitOptions(steps=2, batch_size=2))

    def command(place: LocalPlace) -> None:
        workspace = Workspace(place)
        train(workspace, workspace.embeddings(), Linear, options)

    def finished(path: Path) -> dict[str, bytes]:
        """A run counts when its manifest is there, and then all of it is."""
        return run_files(path) if len(open_workspace(path).runs) else {}

    calls = stopped_everywhere(tmp_path, begin, command, finished, run_files)
    assert {"write", "sync", "rename", "link"} - set(calls) <= {"link"}


def test_gc_after_a_volume_was_removed_and_another_changed(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("samkit.store.embeddings.ROWS_PER_SHARD", 4)
    begin = tmp_path / "begin"
    workspace = workspace_of_boxes(begin, subjects=4)
    embed(workspace, encoder)
    workspace.remove_volumes(["subject1"])
    add_volume(workspace, "subject3", *boxes(9))
    left = rows_of_known_slices(begin)

    def command(place: LocalPlace) -> None:
        with lease(place, "the test"):
            list(collect(Workspace(place), older_than_seconds=-60, dry_run=False))

    def end(path: Path) -> tuple[object, ...]:
        folders = sorted(folder.name for folder in (path / "slices").iterdir() if not folder.name.startswith("."))
        recipe = next(iter(open_workspace(path).recipes().values()))
        data = sorted(entry.name for entry in Path(recipe.folder / "features").iterdir() if entry.name[0] != ".")
        return pixels(path), folders, len(recipe.journal), data

    def nothing_lost(path: Path) -> None:
        now = rows_of_known_slices(path)
        assert {key: now[key] for key in left} == left

    stopped_everywhere(tmp_path, begin, command, nothing_lost, end)


def test_removing_a_recipe(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("samkit.store.embeddings.ROWS_PER_SHARD", 4)
    begin = tmp_path / "begin"
    embed(workspace_of_boxes(begin, subjects=2), encoder)

    def command(place: LocalPlace) -> None:
        workspace = Workspace(place)
        for folder in workspace.recipe_folders("nano"):
            workspace.remove_recipe(folder)

    def end(path: Path) -> tuple[object, ...]:
        workspace = open_workspace(path)
        return pixels(path), (workspace.path / "embeddings").children()

    stopped_everywhere(tmp_path, begin, command, lambda path: None, end)


def rows_of_known_slices(path: Path) -> dict[str, bytes]:
    """The rows of every slice of the dataset that has one."""
    workspace = open_workspace(path)
    embeddings = next(iter(workspace.recipes().values()))
    keys = [key for volume in workspace.volumes.values() for key in volume.row_keys() if key in embeddings.journal]
    return {str(key): embeddings.read([key]).tobytes() for key in keys}
