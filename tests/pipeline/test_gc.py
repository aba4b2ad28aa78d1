"""gc as a user types it; growth; two commands that write to one workspace at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import samkit as package
from samkit.store.embeddings import Embeddings
from samkit.store.lease import lease
from samkit.store.local import LocalPlace

EMBED = ("embed", "--size", "64")


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "samkit.pipeline.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_gc_frees_what_a_removed_volume_held_and_nothing_else(samkit, ingested, rows_of):
    assert samkit(*EMBED, *ingested.flag).code == 0
    before = rows_of(ingested.workspace)
    said = samkit("remove", "a", *ingested.flag).said
    assert "1 volume removed, 1 left" in said
    assert "samkit gc" in said
    ended = samkit("gc", "--older-than", "0", *ingested.flag)
    assert ended.code == 0
    assert "rows" in ended.out
    assert [path.name.split("--")[0] for path in (ingested.workspace / "slices").iterdir()] == ["b"]
    after = rows_of(ingested.workspace)
    assert list(after) == ["b"]
    np.testing.assert_array_equal(after["b"], before["b"])
    assert len(package.open_workspace(ingested.workspace).embeddings("nano").journal) == 4
    assert samkit("verify", *ingested.flag).code == 0


def test_a_removed_volume_comes_back_with_the_same_command(samkit, ingested, rows_of):
    assert samkit(*EMBED, *ingested.flag).code == 0
    before = rows_of(ingested.workspace)
    samkit("remove", "a", *ingested.flag)
    samkit("gc", "--older-than", "0", *ingested.flag)
    assert samkit("ingest", ingested.data, *ingested.flag).code == 0
    assert "8 slices: 4 have a row, 4 to compute" in samkit(*EMBED, *ingested.flag).said
    after = rows_of(ingested.workspace)
    assert all(np.array_equal(after[name], rows) for name, rows in before.items())


def test_gc_dry_run_says_what_would_go_and_changes_nothing(samkit, ingested, files_of):
    assert samkit(*EMBED, *ingested.flag).code == 0
    samkit("remove", "a", *ingested.flag)
    before = files_of(ingested.workspace)
    ended = samkit("gc", "--dry-run", "--older-than", "0", *ingested.flag)
    assert ended.code == 0
    assert "Would be taken away" in ended.said
    assert "nothing was changed" in ended.said
    assert files_of(ingested.workspace) == before


def test_gc_says_that_what_is_young_stays_and_how_it_goes(samkit, ingested):
    samkit("remove", "a", *ingested.flag)
    ended = samkit("gc", *ingested.flag)
    assert "--older-than 0" in ended.said
    assert len(list((ingested.workspace / "slices").iterdir())) == 2


def test_gc_refuses_a_negative_age(samkit, ingested):
    ended = samkit("gc", "--older-than", "-1", *ingested.flag)
    assert ended.code == 2
    assert "--older-than" in ended.said


def test_gc_names_the_process_that_keeps_house_already(samkit, ingested):
    with lease(LocalPlace(ingested.workspace), "samkit gc"):
        ended = samkit("gc", *ingested.flag)
    assert ended.code == 1
    assert "`samkit gc` (process" in ended.said
    assert "is cleaning up" in ended.said
    assert "housekeeping.json" in ended.said


def test_embed_goes_on_while_another_keeps_house(samkit, ingested):
    with lease(LocalPlace(ingested.workspace), "samkit gc"):
        assert samkit(*EMBED, *ingested.flag).code == 0
    assert len(package.open_workspace(ingested.workspace).embeddings("nano").journal) == 8


def test_after_ten_more_volumes_only_their_slices_are_encoded(samkit, tmp_path, write_pair):
    flag = ("--workspace", str(tmp_path / "w"))
    for batch in range(2):
        for seed in range(10 * batch, 10 * batch + 10):
            write_pair(tmp_path / f"data{batch}", f"p{seed:02d}", seed=seed)
        assert samkit("ingest", tmp_path / f"data{batch}", *flag).code == 0
        said = samkit(*EMBED, *flag).said
        assert f"{40 * (batch + 1)} slices: {40 * batch} have a row, 40 to compute" in said


def test_a_slice_of_two_volumes_is_encoded_once_and_stays_while_one_has_it(samkit, tmp_path, write_pair, rows_of):
    flag = ("--workspace", str(tmp_path / "w"))
    write_pair(tmp_path / "data", "first", seed=5)
    write_pair(tmp_path / "data", "second", seed=5)
    samkit("ingest", tmp_path / "data", *flag)
    assert "4 slices: 0 have a row, 4 to compute" in samkit(*EMBED, *flag).said
    before = rows_of(tmp_path / "w")["second"]
    samkit("remove", "first", *flag)
    assert samkit("gc", "--older-than", "0", *flag).code == 0
    np.testing.assert_array_equal(rows_of(tmp_path / "w")["second"], before)


def test_two_ingests_at_once_bring_all_volumes(samkit, tmp_path: Path, write_pair):
    """They share a directory and nothing else: no lock, no memory, as two machines do."""
    workspace = tmp_path / "w"
    for number in range(2):
        for seed in range(6):
            write_pair(tmp_path / f"data{number}", f"p{number}{seed}", seed=10 * number + seed, shape=(24, 24, 40))
    write_pair(tmp_path / "begin", "begin", seed=99)
    samkit("ingest", tmp_path / "begin", "--workspace", workspace)
    both = [start("ingest", tmp_path / f"data{number}", "--workspace", workspace) for number in range(2)]
    said = [process.communicate(timeout=60)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(package.open_workspace(workspace).volumes) == 13
    assert samkit("verify", "--workspace", workspace).code == 0


@pytest.mark.parametrize("command", [("remove", "a"), ("gc",)])
def test_they_refuse_a_place_without_a_workspace(samkit, tmp_path, command):
    ended = samkit(*command, "--workspace", tmp_path / "nothing")
    assert ended.code == 1
    assert "is not a samkit workspace" in ended.said


def test_a_long_embedding_gathers_its_records_on_the_way(samkit, ingested, monkeypatch):
    """So that one that is killed leaves few files to be read, however far it came."""
    monkeypatch.setattr("samkit.store.embeddings.ROWS_PER_SHARD", 1)
    monkeypatch.setattr("samkit.store.embeddings._RECORDS_WORTH_COMPACTING", 2)
    monkeypatch.setattr("samkit.pipeline.commands.embed._SHARDS_BETWEEN_COMPACTIONS", 3)
    alone: list[int] = []
    compact = Embeddings.compact

    def look_after(self: Embeddings) -> None:
        compact(self)
        alone.append(len(list((ingested.workspace / "embeddings" / self.folder.name / "journal").glob("*.json"))))

    monkeypatch.setattr(Embeddings, "compact", look_after)
    assert samkit(*EMBED, *ingested.flag).code == 0
    assert alone == [0, 0, 0]
    assert len(package.open_workspace(ingested.workspace).embeddings("nano").journal) == 8
