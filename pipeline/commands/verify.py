"""verify: whether everything is what was written, and whether rows are what the encoder answers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from ...store.errors import UsageError
from ...store.verify import Checked, verify
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE, FAILED


def run_verify(
    workspace_path: str,
    *,
    as_json: bool,
    recompute: int = 0,
    recipe_id: str | None = None,
    weights: str | None = None,
    device: str = "cpu",
) -> int:
    """Look at every checksum and digest, and encode ``recompute`` rows again; list what is wrong with its remedy."""
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
    if not as_json:
        parts = ", ".join(counted(looked[part], part) for part in ("volume", "shard", "run"))
        console.say(f"{parts} read: {counted(len(damaged), 'fault') if damaged else 'all as they were written'}")
    if recompute and damaged:
        console.warn("nothing was encoded again: first mend what is damaged")
    elif recompute:
        told["recomputed"], fine = _recompute(workspace, recompute, recipe_id, weights, device, quiet=as_json)
        failed = not fine
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


def _recompute(
    workspace: Workspace, count: int, recipe_id: str | None, weights: str | None, device: str, *, quiet: bool
) -> tuple[list[dict[str, object]], bool]:
    """Encode rows of a recipe again and say how far the stored ones are from that."""
    from ...stages.embed import load_recipe
    from ...stages.verify import recompute
    from .weights import weights_of

    embeddings = workspace.embeddings(recipe_id)
    encoder = load_recipe(embeddings.recipe, weights_of(embeddings.recipe, weights, trained=embeddings.trained), device)
    done = []
    with console.progress_bar("encoding again", min(count, len(embeddings.journal)), "rows") as bar:
        for row in recompute(workspace, embeddings, encoder, count):
            done.append(row)
            bar.advance()
    far = [row for row in done if not row.within]
    if not quiet:
        worst = max((row.error for row in done), default=0.0)
        console.say(
            f"{counted(len(done), 'row')} of {embeddings.folder.name} encoded again on {device}: relative L2 error at "
            f"most {worst:.1e} (the recipe allows {embeddings.recipe.tolerance:g})"
        )
        for row in far:
            console.complain(f"a slice of {row.volume_id} ({row.key}): relative L2 error {row.error:.1e}")
        if far:
            console.say(f"compute them again: remove {embeddings.folder} and run samkit embed")
    told = [{"volume": row.volume_id, "key": str(row.key), "error": row.error} for row in done]
    return [dict(one) for one in told], not far
