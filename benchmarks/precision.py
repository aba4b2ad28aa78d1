"""Rows kept as float16, float32 and int8: their error, what it changes in a Dice, their size, how fast they are read.

The rows are those of `nano` with its own weights, on ACDC's slices or, without those, on drawn anatomy; errors are
relative L2 errors of a row against the encoder's float32. Heads are trained at the encoder's own 256 pixels, on the
same draws, from rows of each kind, and from float16 rows computed in bfloat16. Reading is measured in turns, shuffled
batches of 24 rows, verified, warm.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import SAMKIT, SUBJECTS, cost_of, keep, sample

from samkit.stages.encoders.digests import file_sha256
from samkit.stages.encoders.nano import NANO
from samkit.store.embeddings import Embeddings
from samkit.store.keys import RowKey
from samkit.store.precision import STORAGE_PRECISIONS, stored_row_bytes
from samkit.store.workspace import Workspace, open_workspace

# At 512 pixels: 256 x 32 x 32, half a MiB a row in float16.
SIZE = 512
VOLUMES, BATCH, ROUNDS = 24, 24, 15
DRAWN, DRAWS, STEPS = 3, 3, 300
EXACT, HALF = "float32", "bfloat16"


def main() -> None:
    """Measure and keep."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAMKIT_BENCH_FOLDER")) as name:
        folder = Path(name)
        place = str(folder / "workspace")
        source = sample(folder / "source", VOLUMES, without=SUBJECTS["acdc"]["final"])  # scores are not for these
        cost_of([*SAMKIT, "ingest", str(source), "--workspace", place])
        for precision in ("float32", *(one for one in STORAGE_PRECISIONS if one != "float32")):
            embed = ["embed", "--encoder", "nano", "--size", str(SIZE), "--precision", EXACT, "--store", precision]
            cost_of([*SAMKIT, *embed, "--workspace", place])
        workspace = open_workspace(place)
        kept = {one.recipe.storage_precision: one for one in workspace.recipes().values()}
        dice = {precision: _dice(workspace, EXACT, precision) for precision in STORAGE_PRECISIONS}
        in_half = _dice(workspace, HALF, "float16")
        keys = list(dict.fromkeys(key for volume in workspace.volumes.values() for key in volume.row_keys()))
        exact = kept["float32"].read(keys).astype(np.float64)
        norms = np.sqrt((exact**2).sum(axis=(1, 2, 3)))
        errors = {
            precision: np.sqrt(((one.read(keys) - exact) ** 2).sum(axis=(1, 2, 3))) / norms
            for precision, one in kept.items()
        }
        seconds = _reading(kept, keys)
    rows, numbers = [], {}
    for precision in STORAGE_PRECISIONS:
        shape = kept[precision].row_shape
        size = stored_row_bytes(shape, precision) / stored_row_bytes(shape, "float16")
        ratios = [plain / own for plain, own in zip(seconds["float16"], seconds[precision], strict=True)]
        rate = len(keys[:BATCH]) / statistics.median(seconds[precision])
        speed = statistics.median(ratios)
        median, worst = float(np.median(errors[precision])), float(errors[precision].max())
        told = [f"{median:.1e}", f"{worst:.1e}", f"{100 * dice[precision]:.2f}", f"{size:.2f}", f"{speed:.2f}"]
        rows.append([precision, *told, f"{rate:.0f}"])
        numbers[precision] = {
            "relative_error_median": median,
            "relative_error_worst": worst,
            "dice": dice[precision],
            "size_against_float16": size,
            "reading_against_float16": speed,
        }
    rows.append(["float16, computed in bfloat16", "", "", f"{100 * in_half:.2f}", "", "", ""])
    columns = ["kept as", "error, median", "error, worst", "Dice %", "size x float16", "rows/s x float16", "rows/s"]
    title = f"{len(keys)} rows of nano at {SIZE} px, batches of {BATCH}; Dice of linear at 256 px, {DRAWN} subjects"
    numbers |= {"dice_in_bfloat16": in_half, "drawn": DRAWN, "draws": DRAWS, "steps": STEPS}
    about = {"weights_sha256": file_sha256(NANO.own_weights), "rows": len(keys), "size_px": SIZE}
    keep("precision", title, columns, rows, {**about, **numbers})


def _dice(workspace: Workspace, computed: str, stored: str) -> float:
    """Return the mean Dice of heads that were trained on rows of one kind: over draws, volumes and classes."""
    place = ["--workspace", str(workspace.path)]
    cost_of([*SAMKIT, "embed", "--encoder", "nano", "--precision", computed, "--store", stored, *place])
    (embeddings,) = (
        one
        for one in open_workspace(workspace.path).recipes().values()
        if (one.recipe.compute_precision, one.recipe.storage_precision) == (computed, stored)
        and one.recipe.input_px != SIZE
    )
    amount = ["--volumes", str(DRAWN), "--draws", str(DRAWS), "--steps", str(STEPS)]
    cost_of([*SAMKIT, "train-head", "linear", "--encoder", embeddings.recipe.id, *amount, *place])
    runs = [
        run for run in open_workspace(workspace.path).runs.values() if run.settings.recipe_id == embeddings.recipe.id
    ]
    return statistics.mean(
        one["dice"] for run in runs for volume in run.scores for one in volume["scores"] if one["dice"] is not None
    )


def _reading(kept: dict[str, Embeddings], keys: list[RowKey]) -> dict[str, list[float]]:
    random = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {precision: [] for precision in kept}
    for _ in range(ROUNDS):
        batch = [keys[row] for row in random.choice(len(keys), BATCH, replace=False)]
        for precision, embeddings in kept.items():
            embeddings.read(batch)
            started = time.perf_counter()
            embeddings.read(batch)
            seconds[precision].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
