"""Rows kept as float16, float32 and int8: how far they are from what the encoder answered, how large, how fast read.

The rows are those of an untrained (seeded) SAM encoder on drawn anatomy, or on ACDC's slices where they are at hand;
errors are relative L2 errors of a row against the encoder's float32. Reading is measured in turns, shuffled batches of
24 rows, verified, warm.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import SAMKIT, cost_of, keep, sample

from samkit.store.embeddings import Embeddings
from samkit.store.keys import RowKey
from samkit.store.precision import STORAGE_PRECISIONS, stored_row_bytes
from samkit.store.workspace import open_workspace

# At 512 pixels: 256 x 32 x 32, half a MiB a row in float16.
SIZE = 512
VOLUMES, BATCH, ROUNDS = 12, 24, 15


def main() -> None:
    """Measure and keep."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAMKIT_BENCH_FOLDER")) as name:
        folder = Path(name)
        place = str(folder / "workspace")
        cost_of([*SAMKIT, "ingest", str(sample(folder / "source", VOLUMES)), "--workspace", place])
        for precision in ("float32", *(one for one in STORAGE_PRECISIONS if one != "float32")):
            embed = ["embed", "--encoder", "nano", "--size", str(SIZE), "--store", precision]
            cost_of([*SAMKIT, *embed, "--workspace", place])
        workspace = open_workspace(place)
        kept = {one.recipe.storage_precision: one for one in workspace.recipes().values()}
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
        rows.append([precision, f"{median:.1e}", f"{worst:.1e}", f"{size:.2f}", f"{speed:.2f}", f"{rate:.0f}"])
        numbers[precision] = {
            "relative_error_median": median,
            "relative_error_worst": worst,
            "size_against_float16": size,
            "reading_against_float16": speed,
        }
    columns = ["kept as", "error, median", "error, worst", "size x float16", "rows/s x float16", "rows/s"]
    title = f"{len(keys)} rows of nano at {SIZE} px (untrained, seeded weights), batches of {BATCH}"
    keep("precision", title, columns, rows, {"rows": len(keys), "size_px": SIZE, **numbers})


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
