"""Which rows `samkit embed` sees to: every slice as it is, whole or in tiles, and a bank of views of some of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...heads.sampling import listed_subjects
from ...heads.tiling import Tiling, row_keys
from ...heads.views import BANKS, Bank
from ...stages.training.plan import split_of
from ...store.errors import InputError, UsageError
from ...store.keys import RowKey
from ...store.runs import check_name
from ...store.splits import DEFAULT_SPLIT, Split
from ...store.workspace import Workspace
from .. import console
from ..console import counted, readable_bytes
from ..plan import FULL, WantedRows, wanted_rows

#: Whose slices get a bank.
VIEWS_FOR = ("train", "all")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowChoice:
    """What the user typed of rows."""

    #: A bank's name, a file, or views joined by commas; None for slices as they are alone.
    views: str | None = None
    #: One of `VIEWS_FOR`.
    views_for: str = "train"
    #: The split whose pool gets the views.
    split: str = DEFAULT_SPLIT
    #: The overlap of tiles, see `heads.tiling.Tiling`; None for planes that are resized whole.
    tiles: float | None = None


#: A row of every slice as it is, and no other.
EVERY_SLICE = RowChoice()


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenRows:
    """A choice of rows in a workspace."""

    workspace: Workspace
    bank: Bank
    #: Whose pool gets the bank; None where every slice does, or there is no bank.
    split: Split | None
    tiles: float | None

    def wanted(self, input_px: int) -> WantedRows:
        """Return the rows for an encoder that takes a square of ``input_px``, which decides what is cut into tiles."""
        tiling = None if self.tiles is None else Tiling(input_px=input_px, overlap=self.tiles)
        return wanted_rows(
            self.workspace.volumes.values(),
            views=self.bank.texts,
            subjects=None if self.split is None else self.split.pool,
            keys_of=lambda volume, view: row_keys(volume, tiling, view=view),
        )

    def keys(self, input_px: int) -> tuple[RowKey, ...]:
        """Return the keys of `wanted`, in the order in which they are computed."""
        return self.wanted(input_px).keys

    def say(self, input_px: int, row_bytes: int | None = None) -> None:
        """Say what tiles and views add to a row of every slice; nothing where there are neither."""
        if len(self.bank.views) == 1 and self.tiles is None and not self.bank.repeated:
            return
        for line in cost_lines(self.bank, self.split, self.wanted(input_px), row_bytes):
            console.say(line)


def choose_rows(workspace: Workspace, choice: RowChoice, *, write: bool) -> ChosenRows:
    """Find out which rows are meant.

    Parameters
    ----------
    workspace
        Whose volumes.
    choice
        What was typed.
    write
        Whether the split whose pool gets views is kept, so that later draws are of the same pool.

    Raises
    ------
    UsageError
        For an unknown view, split or tile; or when nothing is labelled and so nothing can be in a training pool.
    InputError
        For a file of views that cannot be used.
    """
    bank = find_bank("none" if choice.views is None else choice.views)
    check_name("choice of --views-for", choice.views_for, VIEWS_FOR)
    split = None
    if len(bank.views) > 1 and choice.views_for == "train":
        split = split_of_pool(workspace, choice.split)
        split = workspace.keep_split(split) if write else split
    return ChosenRows(workspace=workspace, bank=bank, split=split, tiles=choice.tiles)


def every_slice(workspace: Workspace) -> tuple[RowKey, ...]:
    """Return the keys of every slice as it is."""
    return wanted_rows(workspace.volumes.values()).keys


def find_bank(text: str) -> Bank:
    """Return the bank that somebody typed: the name of one, a file, or views joined by commas.

    Raises
    ------
    UsageError
        For an unknown word, with the nearest one, or a file that is not there.
    InputError
        For a file that cannot be read as text, or holds an unknown word or no view.
    """
    if text in BANKS:
        return Bank.parse(text)
    path = Path(text)
    if path.is_file():
        try:
            return Bank.of_file(text, path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            message = f"--views {text}: cannot be read as a text in UTF-8 ({error}). Write one view a line."
            raise InputError(message) from error
    if path.is_dir() or os.sep in text or path.suffix == ".txt":
        what = "is a folder" if path.is_dir() else "there is no such file"
        message = (
            f"--views {text}: {what}. Name a file with one view a line, views joined by commas (flip-rows,transpose), "
            f"or a bank: {', '.join(BANKS)}."
        )
        raise UsageError(message)
    try:
        return Bank.parse(text)
    except UsageError as error:
        message = f"--views {text}: {error} (There is no file of that name either.)"
        raise UsageError(message) from error


def split_of_pool(workspace: Workspace, name: str) -> Split:
    """Return the split whose pool gets a bank of views, as `train-head` will find or make it; nothing is written.

    Raises
    ------
    UsageError
        When too little is labelled to have a training pool, nobody of it is left, or there is no such split.
    """
    labelled = workspace.labelled_subjects
    if len(labelled) < 2 and workspace.split(name) is None:
        there = f"only {listed_subjects(labelled)} has a label" if labelled else "no volume has a label"
        message = (
            f"{workspace.path}: {there}, so there is no training pool whose slices views could be embedded of (two "
            f"labelled subjects make one). Add labels: samkit ingest --labels-from FOLDER. Or embed the views of every "
            f"slice: --views-for all"
        )
        raise UsageError(message)
    split = split_of(workspace, name)
    if not labelled & set(split.pool):
        message = (
            f"every subject of the pool of split {split.name!r} was removed, or has no label now "
            f"({listed_subjects(split.pool)}), so there is no slice to embed views of. Ingest them again (samkit "
            f"ingest SOURCE), or embed the views of every slice: --views-for all"
        )
        raise UsageError(message)
    return split


def cost_lines(bank: Bank, split: Split | None, wanted: WantedRows, row_bytes: int | None = None) -> list[str]:
    """Say in lines what tiles and a bank of views add to a row of every slice.

    Parameters
    ----------
    bank
        The views.
    split
        Whose pool gets them; None where every slice does.
    wanted
        The rows that follow from that, see `plan.wanted_rows`.
    row_bytes
        Of one row as it is stored, where it is known.
    """
    lines = [f"--views {bank.name}: {told}" for told in bank.repeated]
    plain, both = len(wanted.plain), len(wanted.plain) + len(wanted.bank)
    cut = [key for key in wanted.plain if key.tile != FULL]
    if cut:
        planes = len({key.slice_digest for key in cut})
        lines.append(f"tiles: {counted(planes, 'slice')} larger than the encoder's input in {len(cut)} tiles")
    more = len(bank.views) - 1
    if more:
        whose = "every slice"
        if split is not None:
            slices = counted(len({key.slice_digest for key in wanted.bank}), "slice")
            whose = f"{slices} of the training pool ({counted(len(split.pool), 'subject')}, split {split.name!r})"
        lines.append(f"views {bank.name}: {counted(more, 'more view')} of {whose}")
        size = (
            "" if row_bytes is None else f": {readable_bytes(both * row_bytes)} for {readable_bytes(plain * row_bytes)}"
        )
        lines.append(f"{counted(both, 'row')} instead of {plain}, {both / plain:.1f} times as many{size}")
    return lines
