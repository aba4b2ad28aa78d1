"""Splits are made by a rule or taken from a file, under a name, once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from samkit.store.workspace import open_workspace

POOL, TEST = ["patient0", "patient1"], ["patient2"]
CSV = "subject,part\npatient0,pool\npatient1,train\npatient2,test\n"


def split_of(job, name="mine"):
    return open_workspace(job.workspace).split(name)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "parts.csv"
    file.write_text(CSV)
    return file


class TestMaking:
    def test_a_split_is_kept_under_its_name(self, samkit, job):
        assert samkit("split", "mine", *job.flag).code == 0
        assert len(split_of(job).test) == 1

    def test_a_share_says_how_many_are_scored(self, samkit, job):
        assert samkit("split", "mine", "--test-share", "0.5", *job.flag).code == 0
        assert len(split_of(job).test) == 2

    def test_another_seed_scores_others(self, samkit, job):
        for seed in range(8):
            assert samkit("split", f"s{seed}", "--seed", str(seed), *job.flag).code == 0
        assert len({split_of(job, f"s{seed}").test for seed in range(8)}) > 1

    def test_a_head_is_trained_and_scored_by_it(self, samkit, job, table):
        assert samkit("split", "mine", "--from", table, *job.flag).code == 0
        found = samkit("train-head", "linear", "--volumes", "2", "--steps", "2", "--split", "mine", *job.flag)
        assert found.code == 0, found.said
        run = open_workspace(job.workspace).runs.find("linear@2#0")
        assert (sorted(run.settings.drawn), [one["subject"] for one in run.scores]) == (POOL, TEST)

    def test_groups_of_a_table_compose_both_parts_alike(self, samkit, job, tmp_path):
        groups = tmp_path / "groups.csv"
        groups.write_text("patient,scanner\npatient0,A\npatient1,A\npatient2,B\npatient3,B\n")
        flags = ("--test-share", "0.5", "--stratify", f"{groups}:scanner")
        assert samkit("split", "mine", *flags, *job.flag).code == 0
        assert len({"patient0", "patient1"} & set(split_of(job).test)) == 1

    def test_classes_of_the_labels_can_be_the_groups(self, samkit, job):
        assert samkit("split", "mine", "--stratify", "labels", *job.flag).code == 0
        assert split_of(job) is not None


class TestTaking:
    def test_who_the_file_does_not_name_is_neither_drawn_nor_scored(self, samkit, job, table):
        found = samkit("split", "mine", "--from", table, *job.flag)
        assert split_of(job).unused == ("patient3",)
        assert "neither drawn nor scored patient3" in found.said

    def test_a_fold_of_nnunet_scores_its_val(self, samkit, job, tmp_path):
        file = tmp_path / "splits_final.json"
        folds = [{"train": POOL, "val": TEST}, {"train": TEST, "val": POOL}]
        file.write_text(json.dumps(folds))
        assert samkit("split", "mine", "--from", file, "--fold", "1", *job.flag).code == 0
        assert (split_of(job).pool, split_of(job).test) == (tuple(TEST), tuple(POOL))

    def test_what_json_prints_can_be_taken_elsewhere(self, samkit, job, tmp_path):
        assert samkit("split", "first", "--seed", "5", *job.flag).code == 0
        file = tmp_path / "first.json"
        file.write_text(samkit("split", "first", "--json", *job.flag).out)
        assert samkit("split", "second", "--from", file, *job.flag).code == 0
        first, second = split_of(job, "first"), split_of(job, "second")
        assert (first.digest, first.seed) == (second.digest, second.seed)

    def test_a_subject_that_is_ingested_later_counts_from_then_on(self, samkit, job, table):
        table.write_text(CSV + "patient9,test\n")
        found = samkit("split", "mine", "--from", table, *job.flag)
        assert found.code == 0
        assert "patient9. They count when they are ingested" in found.said


class TestShowing:
    def test_all_splits_are_listed_with_their_runs(self, samkit, job):
        assert samkit("split", "mine", *job.flag).code == 0
        found = samkit("split", *job.flag)
        assert found.code == 0
        lines = {line.split()[0]: line.split()[1:] for line in found.out.splitlines() if line.strip()}
        assert lines["default"] == ["3", "1", "0", "0", "1"]
        assert lines["mine"] == ["3", "1", "0", "0", "0"]

    def test_one_that_stands_is_shown_and_not_changed(self, samkit, job):
        before = split_of(job, "default")
        found = samkit("split", "default", *job.flag)
        assert all(subject in found.said for subject in (*before.pool, *before.test))
        assert split_of(job, "default") == before

    def test_the_same_command_again_changes_nothing(self, samkit, job, table):
        for _ in range(2):
            assert samkit("split", "mine", "--from", table, *job.flag).code == 0

    def test_a_workspace_without_one_says_how_one_is_made(self, samkit, ingested):
        assert "no split yet" in samkit("split", *ingested.flag).said


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seed", "1"], r"samkit split NAME"),
        (["default", "--test-share", "0.5"], r"the split 'default' stands.*in the same command: default-2"),
        (["mine", "--test-share", "1.5"], r"--test-share 1.5"),
        (["mine", "--fold", "0"], r"Add --from"),
        (["mine", "--stratify", "scanner"], r"FILE.csv:COLUMN"),
        (["mine", "--stratify", "none.csv:scanner"], r"none.csv: cannot be read"),
        (["mine", "--from", "none.csv"], r"none.csv: cannot be read"),
        (["../up"], r"split name"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_type(samkit, job, flags, told):
    found = samkit("split", *flags, *job.flag)
    assert found.code in (1, 2)
    assert re.search(told, found.said), found.said


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "patient0,pool\n", r"its first line names the columns patient0, pool"),
        ("a.csv", "subject,part\npatient0,dev\n", r"patient0 is in the part 'dev'"),
        ("a.csv", "subject,part\npatient0\n", r"line 2 has fewer columns"),
        ("a.csv", "subject,part\npatient0,pool\npatient0,test\n", r"patient0 is in the part pool and in test"),
        ("a.csv", "subject,part\n", r"nobody is named"),
        ("a.csv", "subject,part\nx,pool\npatient0,test\n", r"the part pool names x"),
        ("a.csv", "subject,part\npatient0,pool\n", r"the part test is empty"),
        ("a.json", "{", r"not JSON"),
        ("a.json", "[]", r"it holds no split"),
        ("a.json", '[{"train": ["patient0"], "val": ["patient1"]}]', r"it holds 1 split.*--fold 0"),
        ("a.json", '{"pool": "patient0"}', r"lists of names"),
        ("a.json", "3", r"give an object"),
        ("a.json", '{"pool": ["patient0"], "test": ["patient1"], "seed": "x"}', r"its seed is 'x'"),
    ],
)
def test_a_file_that_is_no_split_is_refused_with_what_is_wrong(samkit, job, tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    found = samkit("split", "mine", "--from", tmp_path / name, *job.flag)
    assert found.code in (1, 2)
    assert re.search(told, found.said), found.said
    assert split_of(job) is None
