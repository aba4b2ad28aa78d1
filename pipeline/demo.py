"""The whole job on a sample that the demo writes itself: real files, and the commands a user would type."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from ..stages.synthesis.files import write_sample
from ..store.errors import SamkitError
from . import console

# What keeps the demo at some three minutes on two cores: of `autosam`, the slowest, one run; of `hybrid` an eighth
# of its own steps, enough for drawn organs.
_COMPARED, _DRAWS, _STEPS = "ridge,linear,hybrid", "2", 300


def run_demo(
    folder: Path,
    *,
    subjects: int = 12,
    shape: tuple[int, int, int] = (24, 160, 144),
    spacing_mm: tuple[float, float, float] = (5.0, 1.5, 1.5),
    steps: int | None = None,
) -> int:
    """Write the sample and run ingest, embed, experiment, train-head, predict, status and report on it.

    Parameters
    ----------
    folder
        ``dataset/`` and ``new-patient/`` are written there, and ``workspace/`` beside them. Running the demo again
        goes on where it stopped.
    subjects
        Labelled subjects of the sample, 8 or more: five are trained on, and three tenths are kept for the score.
    shape, spacing_mm
        The grid of every subject, (slices, rows, columns).
    steps
        Budget of each head; None for a short one.

    Returns
    -------
    int
        0.

    Raises
    ------
    SamkitError
        When one of the commands fails.
    """
    from .cli import run

    started = time.perf_counter()
    console.say(f"writing {subjects} subjects of drawn anatomy (NIfTI) and one new patient (DICOM) to {folder}")
    sample = write_sample(folder, subjects=subjects, shape=shape, spacing_mm=spacing_mm)
    workspace = ["--workspace", str(folder / "workspace")]
    fit = ["--precision", "auto"]
    compared = [*fit, "--steps", str(_STEPS if steps is None else steps)]
    alone = fit if steps is None else compared
    commands = [
        ["ingest", str(sample.dataset), "--labels", sample.labels_option, *workspace],
        ["embed", *workspace],
        ["experiment", "--heads", _COMPARED, "--volumes", "1,5", "--draws", _DRAWS, *compared, *workspace],
        ["train-head", "autosam", "--volumes", "5", *alone, *workspace],
        ["predict", "hybrid@5#0", str(sample.new_patient), "--output", str(folder / "masks"), *workspace],
        ["status", *workspace],
        ["report", *workspace],
    ]
    for command in commands:
        console.say(f"\n$ samkit {shlex.join(command)}")
        code = run(command)
        if code != 0:
            message = f"the demo stopped: `samkit {shlex.join(command)}` left with exit code {code}, see above."
            raise SamkitError(message)
    console.say(
        "\nThe demo's encoder, nano, was trained on drawn pictures, and the demo's anatomy is drawn too: the table "
        "shows what a few labelled volumes do here, not what they do on yours.\n"
        f"Done in {time.perf_counter() - started:.0f} s. Open {folder / 'workspace' / 'report' / 'index.html'}"
    )
    return 0
