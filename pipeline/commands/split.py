"""split: which subjects may be drawn and which are scored, made by a rule, taken from a file, or shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...heads.sampling import import_split, listed_subjects, make_split, removed_subjects
from ...store.errors import InputError, UsageError
from ...store.splits import Split
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE
from .hints import workspace_flag
from .split_files import read_parts, read_text, table_rows

# The most that `samkit experiment` draws where nobody says how many.
_DRAWN_BY_DEFAULT = 5

BY_LABELS = "labels"
"""The groups of `--stratify` that need no file: which classes a subject's label maps hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRule:
    """How a split is made; without any of it, the default rule."""

    test_share: float | None = None
    #: None for that of the file, or 0.
    seed: int | None = None
    #: `BY_LABELS`, or a CSV file with the column of the groups: ``groups.csv:scanner``.
    stratify: str | None = None
    #: A file that says who is in which part, instead of a rule.
    source: Path | None = None
    #: Which of several splits in the file.
    fold: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a split is to be made, not only shown."""
        return self != SplitRule()


def run_split(workspace_path: str, name: str | None, rule: SplitRule, *, as_json: bool) -> int:
    """List the splits, show one, or make one: a split that stands is never changed."""
    workspace = open_workspace(workspace_path)
    if name is None:
        if rule.asked:
            message = "samkit split NAME: a split is kept under a name, by which --split finds it. Give one."
            raise UsageError(message)
        _list(workspace, as_json=as_json)
        return DONE
    standing = workspace.split(name)
    if standing is None or rule.asked:
        wanted = split_by(workspace, name, rule)
        if standing is not None and standing.joined_by(workspace.labelled_subjects) != wanted:
            message = (
                f"the split {name!r} stands, with {counted(len(standing.pool), 'subject')} to draw from and "
                f"{len(standing.test)} to score on, and is not made anew: runs were compared by it. Choose another "
                f"name in the same command: {name}-2, say"
            )
            raise UsageError(message)
        standing = workspace.keep_split(wanted)
    if as_json:
        console.say(json.dumps(standing.to_json(), indent=1))
        return DONE
    _show(workspace, standing)
    few = " --volumes 1" if len(standing.pool) < _DRAWN_BY_DEFAULT else ""
    flag = workspace_flag(workspace_path)
    console.say(f"next: samkit experiment --heads linear,hybrid,unet --split {name}{few}{flag}")
    return DONE


def split_by(workspace: Workspace, name: str, rule: SplitRule) -> Split:
    """Return the split that a rule makes of a workspace's labelled subjects, or that a file names.

    Raises
    ------
    UsageError
        For flags that do not go together, or a split that cannot be.
    InputError
        For a file that cannot be read as what it should be.
    """
    if rule.source is not None:
        if rule.stratify is not None or rule.test_share is not None:
            message = f"--from {rule.source} says who is in which part: leave --stratify and --test-share out."
            raise UsageError(message)
        parts, seed = read_parts(rule.source, rule.fold)
        subject_of = {volume.id: volume.subject for volume in workspace.volumes.values() if volume.labelled}
        return import_split(parts, subject_of, name=name, seed=seed if rule.seed is None else rule.seed)
    if rule.fold is not None:
        message = f"--fold {rule.fold}: which split of a file. Add --from splits_final.json, or leave it out."
        raise UsageError(message)
    chosen: dict[str, Any] = {} if rule.test_share is None else {"test_share": rule.test_share}
    if rule.stratify is not None:
        chosen["strata"] = _strata(workspace, rule.stratify)
    return make_split(workspace.labelled_subjects, name=name, seed=rule.seed or 0, **chosen)


def _strata(workspace: Workspace, stratify: str) -> dict[str, str]:
    """Return the group of each labelled subject."""
    labelled = [volume for volume in workspace.volumes.values() if volume.labelled]
    if stratify == BY_LABELS:
        values: dict[str, set[int]] = {}
        for volume in labelled:
            values.setdefault(volume.subject, set()).update(volume.record.label_values)
        return {subject: ",".join(map(str, sorted(found))) for subject, found in values.items()}
    path, _, column = stratify.rpartition(":")
    if not path or not column:
        message = (
            f"--stratify {stratify}: give {BY_LABELS}, or a CSV file and the column of its groups: FILE.csv:COLUMN"
        )
        raise UsageError(message)
    file = Path(path)
    subject_of = {volume.id: volume.subject for volume in labelled}
    groups: dict[str, str] = {}
    for told, group in table_rows(file, read_text(file), (column,)):
        subject = subject_of.get(told, told)
        if groups.setdefault(subject, group) != group:
            message = f"--stratify {stratify}: {subject} is in the group {groups[subject]!r} and in {group!r}."
            raise InputError(message)
    return groups


def _list(workspace: Workspace, *, as_json: bool) -> None:
    """Print every split of a workspace."""
    splits = workspace.splits
    if as_json:
        told = [split.to_json() for split in splits.values()]
        console.say(json.dumps(told, indent=1))
        return
    if not splits:
        console.say("no split yet: samkit train-head makes the default one, samkit split NAME one of your own")
        return
    runs = workspace.runs
    rows = [
        [name, *_amounts(split), str(sum(run.settings.split == name for run in runs.values()))]
        for name, split in splits.items()
    ]
    console.table("Splits, in subjects", ["name", "pool", "test", "unused", "seed", "runs"], rows)


def _amounts(split: Split) -> list[str]:
    return [str(len(split.pool)), str(len(split.test)), str(len(split.unused)), str(split.seed)]


def _show(workspace: Workspace, split: Split) -> None:
    """Print who is in which part."""
    parts: Mapping[str, tuple[str, ...]] = {"pool": split.pool, "test": split.test, "unused": split.unused}
    meaning = {"pool": "draws are taken from", "test": "scored, never drawn", "unused": "neither drawn nor scored"}
    rows = [[part, str(len(names)), meaning[part], ", ".join(names)] for part, names in parts.items() if names]
    console.table(f"Split {split.name!r}, seed {split.seed}", ["part", "subjects", "", "who"], rows, numbers_from=None)
    if gone := removed_subjects([*split.pool, *split.test], workspace.labelled_subjects):
        console.warn(f"not here, or without a label: {listed_subjects(gone)}. They count when they are ingested")
