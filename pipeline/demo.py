"""The whole job on a sample that the demo writes itself: real files, and the commands a user would type."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from ..stages.synthesis.files import write_sample
from ..store.errors import SamkitError
from . import console

# Two heads on one and five subjects, with budgets that keep the demo under three minutes on two cores, and rates that
# these few steps need (tried on the demo itself: with the standard rate the small organs are not found in time).
_LINEAR_STEPS, _LINEAR_RATE = 400, 5e-3
_AUTOSAM_STEPS, _AUTOSAM_RATE = 150, 2e-3


def run_demo(
    folder: Path,
    *,
    subjects: int = 12,
    shape: tuple[int, int, int] = (24, 160, 144),
    spacing_mm: tuple[float, float, float] = (5.0, 1.5, 1.5),
    linear_steps: int = _LINEAR_STEPS,
    autosam_steps: int = _AUTOSAM_STEPS,
) -> int:
    """Write the sample and run ingest, embed, train-head, predict, report and status on it.

    Parameters
    ----------
    folder
        ``dataset/`` and ``new-patient/`` are written there, and ``workspace/`` beside them. Running the demo again
        goes on where it stopped.
    subjects
        Labelled subjects of the sample, 8 or more: five are trained on, and three tenths are kept for the score.
    shape, spacing_mm
        The grid of every subject, (slices, rows, columns).
    linear_steps, autosam_steps
        Budgets of the two heads.

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
    linear = ["--steps", str(linear_steps), "--learning-rate", str(_LINEAR_RATE)]
    autosam = ["--steps", str(autosam_steps), "--learning-rate", str(_AUTOSAM_RATE)]
    commands = [
        ["ingest", str(sample.dataset), "--labels", sample.labels_option, *workspace],
        ["embed", *workspace],
        *(["train-head", "linear", "--volumes", count, "--draws", "3", *linear, *workspace] for count in ("1", "5")),
        *(["train-head", "autosam", "--volumes", count, *autosam, *workspace] for count in ("1", "5")),
        ["predict", "autosam@5#0", str(sample.new_patient), "--output", str(folder / "masks"), *workspace],
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
