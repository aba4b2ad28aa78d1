"""How long `samkit --help` takes beside `import torch`, both whole processes in turn; and a verb's first sign of life.

The latter on a terminal: until the first byte is there. The verbs that need torch import it after that.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import time

from measure import SAMKIT, cost_of, in_turn, keep

ROUNDS = 9
VERBS = ("ingest", "embed", "train-head", "experiment", "predict", "report", "status", "verify", "doctor")
# What a verb needs to be asked for at all.
WORDS = {
    "ingest": ["nowhere"],
    "train-head": ["linear", "--volumes", "1"],
    "experiment": ["--heads", "linear", "--volumes", "1"],
    "predict": ["latest"],
}


def main() -> None:
    """Measure and keep."""
    help_seconds, torch_seconds, ratio = in_turn(
        lambda: cost_of([*SAMKIT, "--help"]).seconds,
        lambda: cost_of([sys.executable, "-c", "import torch"]).seconds,
        ROUNDS,
    )
    first = {
        verb: statistics.median(first_output([*SAMKIT, verb, *WORDS.get(verb, [])]) for _ in range(ROUNDS))
        for verb in VERBS
    }
    rows = [
        ["samkit --help", f"{help_seconds:.3f}", f"{ratio:.2f}"],
        ["python -c 'import torch'", f"{torch_seconds:.3f}", "1"],
        *([f"samkit {verb}, first output", f"{taken:.3f}", ""] for verb, taken in first.items()),
    ]
    numbers = {"help_seconds": help_seconds, "import_torch_seconds": torch_seconds, "ratio": ratio, "target": 0.25}
    numbers |= {"first_output_seconds": first, "first_output_target": 0.5}
    keep("start_up", f"Start-up, median of {ROUNDS} rounds", ["command", "seconds", "ratio"], rows, numbers)


def first_output(command: list[str]) -> float:
    """Return the seconds until a command writes something to its terminal; it is stopped there."""
    ours, theirs = pty.openpty()
    started = time.perf_counter()
    environment = {**os.environ, "TERM": "xterm", "SAMKIT_WORKSPACE": "nowhere"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        os.read(ours, 1)
        taken = time.perf_counter() - started
        process.kill()
    os.close(ours)
    return taken


if __name__ == "__main__":
    main()
