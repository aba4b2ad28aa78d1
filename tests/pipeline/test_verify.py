"""`samkit verify` and `samkit embed --repair`, as a user types them, on a finished job."""

from __future__ import annotations

import json

import numpy as np
import pytest

import samkit as package

EMBED = ("embed", "--size", "64")


def flip(file, place: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 0x40
    file.write_bytes(data)


def only(paths):
    (found,) = paths
    return found


def test_a_finished_job_is_as_it_was_written(samkit, finished):
    ended = samkit("verify", *finished.flag)
    assert ended.code == 0
    assert "4 volumes, 1 shard, 1 run read: all as they were written" in ended.said


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("slices/patient0--*/image/0.*", "Ingest its source again"),
        ("embeddings/*/features/*/0.*", "samkit embed --recipe"),
        ("embeddings/*/decoder.safetensors", "missing, or not what was kept there"),
        ("runs/*/head.safetensors", "head.safetensors is missing or not what was trained"),
        ("runs/*/steps.json", "steps.json is missing or not what was written"),
    ],
)
def test_a_flipped_byte_is_found_and_told_with_its_remedy(samkit, job, pattern, told):
    flip(only(job.workspace.glob(pattern)))
    ended = samkit("verify", *job.flag)
    assert ended.code == 1
    assert told in ended.said
    assert "1 fault" in ended.said


def test_every_file_of_a_run_is_covered(samkit, job):
    run = only(job.workspace.glob("runs/[!.]*"))
    files = [file for file in run.rglob("*") if file.is_file()]
    assert len(files) > 3
    for file in files:
        good = file.read_bytes()
        file.unlink()
        assert samkit("verify", *job.flag).code == 1, file
        file.write_bytes(good)
    assert samkit("verify", *job.flag).code == 0


def test_the_commands_of_the_remedies_are_told_their_workspace(samkit, job):
    flip(only(job.workspace.glob("embeddings/*/features/*/0.*")))
    assert f"add --workspace {job.workspace} to the commands in the table" in samkit("verify", *job.flag).said
    assert "to the commands in the table" not in samkit("verify", "--json", *job.flag).said


def test_the_answer_for_scripts_lists_what_is_damaged(samkit, job):
    flip(only(job.workspace.glob("embeddings/*/features/*/0.*")))
    ended = samkit("verify", "--json", *job.flag)
    told = json.loads(ended.out)
    assert ended.code == 1
    assert told["looked_at"]["volume"] == 4
    assert [fault["part"] for fault in told["damaged"]] == ["shard"]


@pytest.mark.parametrize("pattern", ["features/*/0.*", "features/*/zarr.json", "journal/*.json"])
def test_repair_computes_again_exactly_what_is_damaged(samkit, job, rows_of, pattern):
    before = rows_of(job.workspace)
    flip(only(job.workspace.glob(f"embeddings/*/{pattern}")), 0.02)
    assert samkit("verify", *job.flag).code == 1
    ended = samkit(*EMBED, "--repair", *job.flag)
    assert ended.code == 0
    assert "16 slices: 0 have a row, 16 to compute" in ended.said
    after = rows_of(job.workspace)
    assert all(np.array_equal(after[name], rows) for name, rows in before.items())
    assert samkit("verify", *job.flag).code == 0


def test_repair_computes_again_what_a_damaged_segment_of_the_journal_listed(samkit, job, rows_of):
    before = rows_of(job.workspace)
    package.open_workspace(job.workspace).embeddings("nano").journal.compact()
    assert samkit("verify", *job.flag).code == 0
    flip(only(job.workspace.glob("embeddings/*/journal/compacted/*.jsonl")), 0.3)
    ended = samkit("verify", *job.flag)
    assert ended.code == 1
    assert "it takes the record away and makes its rows again" in ended.said
    assert samkit("embed", *job.flag).code == 1, "nothing is guessed without being asked"
    ended = samkit(*EMBED, "--repair", *job.flag)
    assert ended.code == 0
    assert "16 slices: 0 have a row, 16 to compute" in ended.said
    after = rows_of(job.workspace)
    assert all(np.array_equal(after[name], rows) for name, rows in before.items())
    assert samkit("verify", *job.flag).code == 0


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("workspace.json", "workspace.json"),
        ("volumes/00000001.jsonl", "ingest the dataset again; embeddings stay valid"),
        ("volumes/head.json", "head.json"),
    ],
)
def test_a_damaged_index_is_told_by_every_command_and_nothing_is_written(samkit, job, files_of, pattern, told):
    flip(job.workspace / pattern)
    before = files_of(job.workspace)
    for command in (("verify",), ("status",), ("embed",), ("report",)):
        ended = samkit(*command, *job.flag)
        assert ended.code == 1
        assert told in ended.said
    assert files_of(job.workspace) == before


def test_damage_beside_a_recipe_hides_none_of_its_rows_and_embed_mends_both(samkit, job):
    decoder = only(job.workspace.glob("embeddings/*/decoder.safetensors"))
    before = decoder.read_bytes()
    flip(decoder, 0.5)
    flip(only(job.workspace.glob("embeddings/*/features/*/0.*")))
    ended = samkit("verify", "--json", *job.flag)
    assert [fault["part"] for fault in json.loads(ended.out)["damaged"]] == ["embeddings", "shard"]
    assert samkit(*EMBED, "--repair", *job.flag).code == 0
    assert samkit("verify", *job.flag).code == 0
    assert decoder.read_bytes() == before


def test_repair_leaves_healthy_rows_alone(samkit, job, files_of):
    before = files_of(job.workspace)
    ended = samkit(*EMBED, "--repair", *job.flag)
    assert "0 damaged shards" in ended.said
    assert files_of(job.workspace) == before


def test_repair_of_an_encoder_without_rows_encodes_nothing_and_names_what_is_there(samkit, job, files_of):
    before = files_of(job.workspace)
    ended = samkit("embed", "--size", "80", "--repair", *job.flag)
    there = package.open_workspace(job.workspace).embeddings("nano").folder.name
    assert ended.code == 2
    assert f"recipes there: {there}. Name the one" in ended.said
    assert files_of(job.workspace) == before


def test_repair_and_dry_run_do_not_go_together(samkit, job):
    ended = samkit(*EMBED, "--repair", "--dry-run", *job.flag)
    assert ended.code == 2
    assert "samkit verify" in ended.said
