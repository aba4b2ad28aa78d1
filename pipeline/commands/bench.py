"""bench: what the fast way costs in results, with weights that were trained.

Errors of features are measured with any weights; what they do to a head's Dice only shows where the features mean
something. samkit's own measurements are made without SAM's weights, so this is for those who have them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...heads.base import find_head
from ...heads.recipes import FitOptions
from ...heads.sampling import draw_subjects, scored_subjects
from ...stages.encoders.base import find_encoder
from ...stages.encoders.devices import find_device, resolve_precision
from ...stages.reporting.table import ALL_CLASSES, Row, tabulate
from ...stages.train import train
from ...stages.training.plan import TrainOptions, labelled_volumes, split_of
from ...store.embeddings import Embeddings
from ...store.errors import UsageError
from ...store.keys import RowKey
from ...store.precision import EXACT, STORAGE_PRECISIONS
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..exit_codes import DONE
from ..workers import Workers
from .embed import describe_encoder, embed_all
from .hints import workspace_flag
from .weights import weights_file_of

# Rows compared between two recipes: more do not change a median.
_COMPARED_ROWS = 64


def run_bench_real_weights(
    workspace_path: str,
    *,
    encoder_name: str,
    weights: str | None,
    size: int | None,
    device: str,
    heads: Sequence[str],
    subjects: int,
    draws: int,
    fit: FitOptions,
) -> int:
    """Embed the labelled slices exactly and fast, train the same heads on both, and tell the difference.

    Exact is float32, kept in float32. Fast is what `embed` does: the precision that ``auto`` means on the device, kept
    in float16. Both recipes and the runs stay in the workspace; the same command goes on where it stopped.
    """
    find_encoder(encoder_name)
    head_classes = {name: find_head(name) for name in heads}
    fast = resolve_precision("auto", find_device(device))
    workspace = open_workspace(workspace_path)
    wanted = _wanted(workspace, subjects, draws)
    file = weights_file_of(encoder_name, weights)
    if file is None:
        message = (
            f"{encoder_name}: its numbers would come from a seed, and what they change in a Dice says nothing. Give "
            f"weights that were trained: --weights FILE, or samkit weights get {encoder_name}"
        )
        raise UsageError(message)
    if fast == "float32":
        console.warn(f"auto means float32 on {device}: the comparison is of the rounding to float16 alone")
    made = {}
    for precision, storage in (("float32", EXACT), (fast, STORAGE_PRECISIONS[0])):
        encoder = find_encoder(encoder_name).load(
            file, size=size, device=device, precision=precision, storage_precision=storage
        )
        console.say(f"encoder {describe_encoder(encoder)}")
        done = embed_all(workspace, encoder, file, Workers(devices=(device,)), wanted=wanted)
        made[storage] = done.embeddings
    exact, rounded = made[EXACT], made[STORAGE_PRECISIONS[0]]
    errors = relative_errors(exact, rounded, wanted[:: max(1, len(wanted) // _COMPARED_ROWS)])
    console.say(
        f"features in {fast}, kept in float16, against float32: relative L2 error {np.median(errors):.1e} (median), "
        f"{max(errors):.1e} (worst of {len(errors)})"
    )
    lines = []
    for name, head_class in head_classes.items():
        rows: list[Row] = []
        for embeddings in (exact, rounded):
            runs = []
            for draw in range(draws):
                options = TrainOptions(head=name, subjects=subjects, draw=draw, fit=fit, device=device)
                with console.progress_bar(
                    f"{name} on {embeddings.recipe.compute_precision}", fit.steps, "steps"
                ) as bar:
                    runs.append(train(workspace, embeddings, head_class, options, progress=bar.reach))
            rows.append(next(row for row in tabulate(runs) if row.class_name == ALL_CLASSES))
        lines.append([name, *_compared(*rows)])
    columns = ["head", "Dice % float32", f"Dice % {fast}", "difference", "± sd over draws"]
    title = (
        f"{encoder_name} at {exact.recipe.input_px} px, weights {exact.recipe.weights_sha256[:8]}, {subjects} subjects"
    )
    console.table(title, columns, lines)
    console.say(f"next: samkit report{workspace_flag(workspace_path)}, for all runs")
    return DONE


def relative_errors(exact: Embeddings, rounded: Embeddings, keys: Sequence[RowKey]) -> list[float]:
    """Return the relative L2 error of rows of one recipe against those of another, row by row."""
    errors = []
    for key in keys:
        expected, found = (rows.read([key]).astype(np.float64) for rows in (exact, rounded))
        errors.append(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
    return errors


def _wanted(workspace: Workspace, subjects: int, draws: int) -> list[RowKey]:
    """Return the rows of the subjects that are drawn and of those that are scored."""
    split = split_of(workspace)
    present = workspace.labelled_subjects
    drawn = [subject for draw in range(draws) for subject in draw_subjects(split, subjects, draw, present).subjects]
    chosen = list(dict.fromkeys([*drawn, *scored_subjects(split, present)]))
    return list(dict.fromkeys(key for volume in labelled_volumes(workspace, chosen) for key in volume.row_keys()))


def _compared(exact: Row, rounded: Row) -> list[str]:
    means = [exact.dice.mean, rounded.dice.mean]
    if None in means:
        return ["-" if mean is None else f"{100 * mean:.2f}" for mean in means] + ["-", "-"]
    first, second = (mean or 0.0 for mean in means)
    spread = exact.dice.standard_deviation
    return [
        f"{100 * first:.2f}",
        f"{100 * second:.2f}",
        f"{100 * (second - first):+.2f}",
        "-" if spread is None else f"{100 * spread:.2f}",
    ]
