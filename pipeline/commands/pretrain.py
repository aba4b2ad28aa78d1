"""What heads begin from that is learned without labels: made before the first run that needs it, once for all draws."""

from __future__ import annotations

from collections.abc import Iterable

from ...stages.pretrain import pretrain
from ...store.pretrained import PretrainingSettings
from ...store.workspace import Workspace
from .. import console
from ..console import counted, readable_seconds


def pretrain_missing(workspace: Workspace, wanted: Iterable[PretrainingSettings | None], device: str) -> None:
    """Make the pretrainings that are not there yet, and say so."""
    there = workspace.pretrainings
    for settings in {one.id: one for one in wanted if one is not None}.values():
        if settings.id in there:
            continue
        slices = f"the slices of {counted(len(settings.slices), 'volume')}"
        console.say(f"{settings.head} first learns from {slices}, without their labels, once for all draws")
        with console.progress_bar("pretraining", settings.training["steps"], "steps") as bar:
            made = pretrain(workspace, settings, device=device, progress=bar.reach)
        console.say(f"{made.id}: {readable_seconds(made.record['seconds'])}")
