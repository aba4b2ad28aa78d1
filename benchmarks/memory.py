"""Whether peak memory grows with the number of volumes: 10 against 100, embedding and streamed training.

Each command is a process of its own; its peak is the kernel's account. Training draws half of the subjects, so that the
larger dataset also trains on ten times the slices, with features streamed from the store.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from measure import SAMKIT, Cost, cost_of, keep, sample

VOLUMES = (10, 100)
STEPS = "20"


def main() -> None:
    """Measure and keep."""
    costs: dict[str, list[Cost]] = {"samkit embed": [], "samkit train-head linear, streamed": []}
    with tempfile.TemporaryDirectory() as folder:
        for volumes in VOLUMES:
            workspace = ["--workspace", str(Path(folder) / f"workspace{volumes}")]
            source = sample(Path(folder) / f"source{volumes}", volumes)
            cost_of([*SAMKIT, "ingest", str(source), *workspace])
            costs["samkit embed"].append(cost_of([*SAMKIT, "embed", *workspace]))
            # ACDC has two volumes a subject.
            subjects = ["--volumes", str(max(1, volumes // 4))]
            train = ["train-head", "linear", *subjects, "--steps", STEPS, "--memory", "0", *workspace]
            costs["samkit train-head linear, streamed"].append(cost_of([*SAMKIT, *train]))
    rows, numbers = [], {}
    for command, (few, many) in costs.items():
        ratio = many.peak_memory_bytes / few.peak_memory_bytes
        rows.append([command, *(f"{cost.peak_memory_bytes / 1e6:.0f}" for cost in (few, many)), f"{ratio:.2f}"])
        numbers[command] = {
            "peak_bytes_10_volumes": few.peak_memory_bytes,
            "peak_bytes_100_volumes": many.peak_memory_bytes,
            "ratio": ratio,
        }
    keep("memory", "Peak memory, MB", ["command", "10 volumes", "100 volumes", "ratio"], rows, numbers)


if __name__ == "__main__":
    main()
