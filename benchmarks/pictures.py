"""How fast random pictures are drawn, beside how fast a training of the embedded encoder sees them.

One process draws while two cores train, so that a training waits for its pictures where drawing takes longer.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path

import torch
from measure import in_turn, keep

from samkit.stages.encoders.memory import keep_freed_memory
from samkit.stages.encoders.train_nano import NanoTraining, TrainingOptions
from samkit.stages.synthesis.pictures import Pictures

# A training tells its seconds every hundred steps; in the first hundred it starts the process that draws.
STEPS, ROUNDS = 100, 2
# All of one size, so that every step sees as many.
OPTIONS = TrainingOptions(steps=2 * STEPS, decoder_steps=0, fine_every=0)


def main() -> None:
    """Measure and keep."""
    logging.disable()
    keep_freed_memory()
    drawing, training, ratio = in_turn(_drawing, _training, ROUNDS)
    seen = STEPS * OPTIONS.batch_size * OPTIONS.subjects
    rows = [
        ["drawn by one process", f"{seen / drawing:.0f}", f"{1000 * drawing / STEPS:.0f}"],
        [
            f"seen by a training on {os.cpu_count()} cores, which draws too",
            f"{seen / training:.0f}",
            f"{1000 * training / STEPS:.0f}",
        ],
    ]
    numbers = {"drawn_a_second": seen / drawing, "trained_a_second": seen / training, "drawing_against_training": ratio}
    title = f"Pictures of 256 x 256; drawing takes {ratio:.2f} of what a step takes"
    keep("pictures", title, ["pictures", "a second", "ms a step"], rows, numbers)


def _drawing() -> float:
    """Return the seconds that the pictures of the steps take by themselves."""
    pictures = Pictures(OPTIONS.seed, OPTIONS.batch_size, subjects=OPTIONS.subjects)
    started = time.perf_counter()
    for number in range(STEPS):
        pictures.batch(number)
    return time.perf_counter() - started


def _training() -> float:
    """Return the seconds of as many steps of a training, while its pictures are drawn."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAMKIT_BENCH_FOLDER")) as folder:
        training = NanoTraining(Path(folder), OPTIONS, torch.device("cpu"))
        training.run()
        first, second = (line["seconds"] for line in training.log)
        return float(second - first)


if __name__ == "__main__":
    main()
