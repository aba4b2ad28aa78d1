"""embed --repair: what is damaged is taken away, so that it is missing and computed like any other."""

from __future__ import annotations

from ...store.errors import UsageError
from ...store.journal import drop_damaged
from ...store.keys import Recipe
from ...store.lease import lease
from ...store.verify import damaged_shards, unreadable_records
from ...store.workspace import Workspace
from .. import console
from ..console import counted


def drop_unreadable_records(workspace: Workspace) -> None:
    """Remove journal records that do not read as such, of every recipe: nothing could be opened with them there."""
    folders = [workspace.path / "embeddings" / name for name in (workspace.path / "embeddings").children()]
    with lease(workspace.path, "samkit embed --repair"):
        for folder in folders:
            for name, fault in list(unreadable_records(folder)):
                console.warn(fault)
                drop_damaged(folder / "journal", name)


def retire_damaged(workspace: Workspace, recipe: Recipe) -> None:
    """Take the damaged shards of a recipe away, so that their rows are missing and computed like any other.

    Raises
    ------
    UsageError
        There are no rows of this recipe: another one was meant, and its encoder would begin from the first slice.
    """
    kept = workspace.recipes(recipe.folder_name).get(recipe.id)
    if kept is None:
        there = ", ".join(one.folder.name for one in workspace.recipes().values()) or "none"
        message = (
            f"--repair: no rows of {recipe.folder_name} are in {workspace.path}; recipes there: {there}. Name the one "
            f"that is damaged by the end of its name: samkit embed --recipe ID --repair (samkit verify says which)."
        )
        raise UsageError(message)
    with lease(workspace.path, "samkit embed --repair"):
        faults = dict(damaged_shards(kept))
        for fault in faults.values():
            console.warn(fault)
        if faults:
            kept.retire(list(faults))
    console.say(f"{counted(len(faults), 'damaged shard')} of {kept.folder.name} taken away")
