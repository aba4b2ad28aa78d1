"""check: how much of the labels survives the encoder's grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from ...heads.metrics import ScoredVolume
from ...stages.check import score_ceiling
from ...stages.encoders.base import find_encoder
from ...stages.encoders.pixels import check_size
from ...stages.encoders.sam import SamModel
from ...store.errors import InputError, UsageError
from ...store.slices import Volume
from ...store.workspace import open_workspace
from .. import console

# The patch of SAM's encoders, and of nano: input pixels for each cell of an embedding.
_PIXELS_PER_CELL = 16


def input_size(encoder_name: str, size: int | None) -> int:
    """Return the side of the encoder's input in pixels: the one asked for, or its own.

    Raises
    ------
    UsageError
        No such encoder, or a size that is no multiple of its patch.
    """
    encoder = find_encoder(encoder_name)
    if not isinstance(encoder, SamModel):
        message = (
            f"--check with --encoder {encoder_name}: it knows the grids of SAM's encoders. Name one whose grid is as "
            f"fine, with its --size: sam_vit_b at 1024 px has 64 x 64 cells."
        )
        raise UsageError(message)
    input_px = encoder.default_px if size is None else size
    check_size(encoder.name, input_px, _PIXELS_PER_CELL)
    return input_px


def run_check(workspace_path: str, *, encoder_name: str, input_px: int) -> None:
    """Print the Dice of labels that were sent to an encoder's grid and back, by class.

    Raises
    ------
    InputError
        No volume has a label.
    """
    workspace = open_workspace(workspace_path)
    labelled = [volume for volume in workspace.volumes.values() if volume.labelled]
    if not labelled:
        message = (
            f"{workspace.path}: no volume here has a label, so there is nothing to check. Ingest some with labels."
        )
        raise InputError(message)
    scored = _scored(labelled, input_px)
    by_class: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for volume in scored:
        for score in volume.scores:
            if score.dice is not None:
                by_class[score.class_name].append((score.dice, volume.volume_id))
    rows = [
        [
            name,
            str(len(dice)),
            f"{100 * mean(value for value, _ in dice):.1f}",
            f"{100 * min(dice)[0]:.1f}",
            min(dice)[1],
        ]
        for name, dice in by_class.items()
    ]
    cells = input_px // _PIXELS_PER_CELL
    console.say(
        f"labels sent to the grid of {encoder_name} (input {input_px} px, embedding {cells} x {cells}) and back: what "
        f"a head that has learnt them perfectly would score"
    )
    console.table(
        "Ceiling of heads on these features",
        ["class", "volumes", "Dice %", "worst", "in volume"],
        rows,
    )


def _scored(volumes: Sequence[Volume], input_px: int) -> list[ScoredVolume]:
    scored = []
    with console.progress_bar("checking", len(volumes), "volumes") as bar:
        for volume in volumes:
            scored.append(score_ceiling(volume, input_px=input_px, feature_cells=input_px // _PIXELS_PER_CELL))
            bar.advance()
    return scored
