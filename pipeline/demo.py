"""The whole job on a sample that the demo writes itself: real files, and the commands a user would type."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from ..stages.synthesis.files import write_sample
from ..store.errors import SamkitError
from . import console

# Two heads on one and five subjects, with budgets that keep the demo under three minutes on two cores.
_LINEAR_STEPS = 150
_AUTOSAM_STEPS = 60


def run_demo(folder: Path) -> int:
    """Write the sample and run ingest, embed, train-head, predict, report and status on it.

    Parameters
    ----------
    folder
        ``dataset/`` and ``new-patient/`` are written there, and ``workspace/`` beside them. Running the demo again
        goes on where it stopped.
    """
    from .cli import run

    started = time.perf_counter()
    console.say(f"writing 12 subjects of drawn anatomy (NIfTI) and one new patient (DICOM) to {folder}")
    sample = write_sample(folder)
    workspace = ["--workspace", str(folder / "workspace")]
    commands = [
        ["ingest", str(sample.dataset), "--labels", sample.labels_option, *workspace],
        ["embed", *workspace],
        ["train-head", "linear", "--volumes", "1", "--draws", "3", "--steps", str(_LINEAR_STEPS), *workspace],
        ["train-head", "linear", "--volumes", "5", "--draws", "3", "--steps", str(_LINEAR_STEPS), *workspace],
        ["train-head", "autosam", "--volumes", "1", "--draws", "1", "--steps", str(_AUTOSAM_STEPS), *workspace],
        ["train-head", "autosam", "--volumes", "5", "--draws", "1", "--steps", str(_AUTOSAM_STEPS), *workspace],
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
        f"\nThe encoder of the demo is untrained: the table shows that the machinery works, not what SAM can do.\n"
        f"Done in {time.perf_counter() - started:.0f} s. Open {folder / 'workspace' / 'report' / 'index.html'}"
    )
    return 0
