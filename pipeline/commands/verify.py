"""verify: whether everything is what was written, and whether rows are what the encoder answers."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...store.embeddings import Embeddings
from ...store.errors import MissingEmbeddings, UsageError
from ...store.verify import Checked, verify
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE, FAILED
from .hints import workspace_flag

if TYPE_CHECKING:
    from ...stages.verify import Recomputed

# Few digits, because somebody may type them.
_SEEDS = 1_000_000


def run_verify(
    workspace_path: str,
    *,
    as_json: bool,
    recompute: int = 0,
    seed: int | None = None,
    recipe_id: str | None = None,
    weights: str | None = None,
    device: str = "cpu",
) -> int:
    """Look at every checksum and digest, and encode ``recompute`` rows again; list what is wrong with its remedy.

    ``seed`` chooses the rows; None for another choice each time.
    """
    if recompute < 0:
        message = f"--recompute {recompute}: give how many rows to encode again, 1 or more."
        raise UsageError(message)
    workspace = open_workspace(workspace_path)
    looked, damaged = _look(workspace)
    told: dict[str, object] = {"looked_at": looked, "damaged": [asdict(fault) for fault in damaged]}
    failed = bool(damaged)
    if damaged and not as_json:
        rows = [[fault.part, fault.name, fault.fault or ""] for fault in damaged]
        console.table("Damaged", ["what", "name", "fault and remedy"], rows, numbers_from=None, whole=("what",))
        if flag := workspace_flag(workspace_path):
            console.say(f"add{flag} to the commands in the table")
    if not as_json:
        parts = ", ".join(counted(looked[part], part) for part in ("volume", "shard", "run"))
        console.say(f"{parts} read: {counted(len(damaged), 'fault') if damaged else 'all as they were written'}")
    if recompute and damaged:
        console.warn("nothing was encoded again: first mend what is damaged")
    elif recompute:
        embeddings = _with_rows(workspace, recipe_id)
        # Another choice each time, so that a check of every night comes to see all rows.
        seed = secrets.randbelow(_SEEDS) if seed is None else seed
        done = _recompute(workspace, embeddings, recompute, seed, weights=weights, device=device)
        told["seed"] = seed
        told["recomputed"] = [{"volume": row.volume_id, "key": str(row.key), "error": row.error} for row in done]
        failed = any(not row.within for row in done)
        if not as_json:
            again = f"samkit verify --recompute {recompute} --seed {seed} --recipe {embeddings.recipe.id}"
            _say_recomputed(embeddings, done, device, again + workspace_flag(workspace_path))
    if as_json:
        console.say(json.dumps(told, indent=1))
    return FAILED if failed else DONE


def _look(workspace: Workspace) -> tuple[Counter[str], list[Checked]]:
    looked: Counter[str] = Counter()
    damaged = []
    with console.progress_bar("verifying", len(workspace.volumes), "things") as bar:
        for number, checked in enumerate(verify(workspace), start=1):
            looked[checked.part] += 1
            bar.reach(f"verifying {checked.part}s", number, max(number, len(workspace.volumes)))
            if checked.fault is not None:
                damaged.append(checked)
    return looked, damaged


def _with_rows(workspace: Workspace, recipe_id: str | None) -> Embeddings:
    """Return the embeddings whose rows are encoded again.

    Raises
    ------
    MissingEmbeddings
        When no slice of the workspace has a row there: a check of nothing would always succeed.
    """
    embeddings = workspace.embeddings(recipe_id)
    embedded = {key.slice_digest for key in embeddings.journal}
    if not any(embedded.intersection(volume.slice_digests) for volume in workspace.volumes.values()):
        others = [kept.folder.name for kept in workspace.recipes().values() if kept.recipe != embeddings.recipe]
        message = (
            f"{embeddings.folder} has no row of a slice of this workspace, so there is nothing to encode again. Run "
            f"`samkit embed --recipe {embeddings.recipe.id}`, or name another recipe with --recipe ID "
            f"(there are: {', '.join(others) or 'no others'})."
        )
        raise MissingEmbeddings(message)
    return embeddings


def _recompute(
    workspace: Workspace, embeddings: Embeddings, count: int, seed: int, *, weights: str | None, device: str
) -> list[Recomputed]:
    """Encode rows of a recipe again."""
    from ...stages.encoders.base import load_recipe
    from ...stages.verify import recompute
    from .weights import weights_of

    encoder = load_recipe(embeddings.recipe, weights_of(embeddings.recipe, weights, trained=embeddings.trained), device)
    done = []
    with console.progress_bar("encoding again", min(count, len(embeddings.journal)), "rows") as bar:
        for row in recompute(workspace, embeddings, encoder, count, seed):
            done.append(row)
            bar.advance()
    return done


def _say_recomputed(embeddings: Embeddings, done: Sequence[Recomputed], device: str, again: str) -> None:
    """Say how far the stored rows are from those that were encoded again."""
    recipe = embeddings.recipe
    console.say(
        f"{counted(len(done), 'row')} of {embeddings.folder.name} encoded again on {device}: relative L2 error at "
        f"most {max(row.error for row in done):.1e} (the recipe allows {recipe.tolerance:g})"
    )
    console.say(f"the same rows once more: {again}")
    far = [row for row in done if not row.within]
    for row in far:
        console.complain(f"a slice of {row.volume_id} ({row.key}): relative L2 error {row.error:.1e}")
    if far:
        made_on = (embeddings.compute or {}).get("device", "an unknown device")
        console.say(
            f"these rows are what was written, so samkit embed --recipe {recipe.id} --repair leaves them as they are. "
            f"First compare what made them: they were computed on {made_on}, and again on {device} (--device), with "
            f"the weights {recipe.weights_sha256[:8]} (--weights); does another device agree with the stored rows or "
            f"with the new ones? If the stored ones are wrong, the last resort is to remove the folder "
            f"{embeddings.folder}, to embed again with the same flags, and to remove the runs that were trained on "
            f"them and train them again."
        )
