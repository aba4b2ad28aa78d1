"""remove: volumes leave the dataset; a recipe's rows or a run go for good."""

from __future__ import annotations

from collections.abc import Sequence

from ...store.errors import UsageError
from ...store.lease import lease
from ...store.places import Place
from ...store.runs import Run, touched_by
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE
from .hints import workspace_flag

# A message names so many runs, and counts the rest.
_NAMED = 5


def run_remove(workspace_path: str, volume_ids: Sequence[str], *, recipes: Sequence[str], runs: Sequence[str]) -> int:
    """Take volumes out of the dataset, whose slices and rows stay until `samkit gc`, and recipes and runs off the disk.

    All that is named is looked up before anything goes.
    """
    workspace = open_workspace(workspace_path)
    if not (volume_ids or recipes or runs):
        message = (
            "name what is to go: ids of volumes, --recipe with the id of a recipe, --run with the id of a run. "
            f"samkit status --volumes{workspace_flag(workspace_path)} lists them; nothing was removed."
        )
        raise UsageError(message)
    _check_volumes(workspace, volume_ids)
    old_recipes = [_one_recipe(workspace, name) for name in dict.fromkeys(recipes)]
    old_runs = [workspace.runs.find(name) for name in dict.fromkeys(runs)]
    flag = workspace_flag(workspace_path)
    with lease(workspace.path, "samkit remove"):
        if volume_ids:
            _remove_volumes(workspace, volume_ids, flag)
        for folder in old_recipes:
            _remove_recipe(workspace, folder)
        for run in old_runs:
            _remove_run(workspace, run)
    if volume_ids:
        console.say(f"next: samkit gc{flag} frees what only they held (add --older-than 0 if nothing else is running)")
    return DONE


def _check_volumes(workspace: Workspace, volume_ids: Sequence[str]) -> None:
    unknown = [volume_id for volume_id in volume_ids if volume_id not in workspace.volumes]
    if unknown:
        near = ", ".join(list(workspace.volumes)[:5])
        message = f"no volume {', '.join(unknown)} in {workspace.path}, which has {near}, ...; nothing was removed."
        raise UsageError(message)


def _one_recipe(workspace: Workspace, name: str) -> Place:
    """Find the folder of the one recipe that a name stands for: hours of encoding do not go by a name of several."""
    found = workspace.recipe_folders(name)
    if len(found) == 1:
        return found[0]
    if found:
        says = f"names {len(found)} recipes: {', '.join(one.name for one in found)}. Name one by its id"
    else:
        says = f"is no recipe; there are: {', '.join((workspace.path / 'embeddings').children()) or 'none'}"
    message = f"--recipe {name} {says}; nothing was removed."
    raise UsageError(message)


def _remove_volumes(workspace: Workspace, volume_ids: Sequence[str], flag: str) -> None:
    touched = touched_by(workspace.runs, volume_ids)
    workspace.remove_volumes(volume_ids)
    console.say(f"{counted(len(set(volume_ids)), 'volume')} removed, {len(workspace.volumes)} left")
    if touched:
        console.warn(
            f"{counted(len(touched), 'run')} trained or scored on them: {_listed(touched)}. They are stale now, and "
            f"keep their predictions of these volumes until they are removed: samkit remove --run RUN{flag}"
        )


def _remove_recipe(workspace: Workspace, folder: Place) -> None:
    size = folder.size_bytes()
    trained = [run for run in workspace.runs.values() if run.settings.recipe_id == folder.name.rpartition("--")[2]]
    workspace.remove_recipe(folder)
    console.say(f"{folder.name} removed: {console.readable_bytes(size)}; the same samkit embed computes it again")
    if trained:
        console.warn(
            f"{counted(len(trained), 'run')} trained on it: {_listed(trained)}. Their scores and masks stay; to be run "
            f"again they need its rows"
        )


def _remove_run(workspace: Workspace, run: Run) -> None:
    size = run.folder.size_bytes()
    workspace.remove_run(run)
    console.say(f"{run.id} removed: {console.readable_bytes(size)}")


def _listed(runs: Sequence[Run]) -> str:
    shown = ", ".join(run.id for run in runs[:_NAMED])
    return shown + (f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else "")
